"""@participant and @listener: what they take, what they may answer, and what is refused at import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest
from msgspec import Raw

from orchestrator import Command, DefinitionError, Done, Event, Message, OrchestratorError, Refusal, Retry
from orchestrator.participant import Call, Delivery, listener, participant
from orchestrator.wire import Address, Envelope, Kind, Outgoing, Route


class Reserved(Event):
    id: str


class SoldOut(Refusal):
    left: int


class Reserve(Command[Reserved, SoldOut]):
    order_id: str


class Release(Command):
    order_id: str


class Placed(Event):
    order_id: str


class Cancelled(Event):
    order_id: str


class Mailed(Event):
    to: str


class Services:
    pass


@participant
async def reserve(command: Reserve, call: Call[Services]) -> Reserved | SoldOut:
    return Reserved(f"{command.order_id} by {call.key}")


@participant
def release(command: Release) -> None:
    """A plain def without the call."""


@participant
async def either(command: Reserve | Release, call: Call) -> Reserved | Done | None:
    return Reserved(call.key) if isinstance(command, Reserve) else None


def call_of(command: Command[Any, Any], **more: Any) -> Call[Any]:
    return Call(command, key="k1", resources=Services(), **more)


async def test_what_is_read_off_the_function() -> None:
    assert (reserve.name, reserve.commands, reserve.answers) == ("reserve", (Reserve,), (Reserved, SoldOut))
    assert reserve.is_async and not release.is_async
    assert reserve.resources is Services
    assert (release.answers, release.resources) == ((Done,), object)
    assert (either.commands, either.resources) == ((Reserve, Release), object)


async def test_it_is_called_with_as_many_as_it_takes() -> None:
    assert await reserve(Reserve("1"), call_of(Reserve("1"))) == Reserved("1 by k1")
    assert release(Release("1"), call_of(Release("1"))) is None


def test_none_is_done() -> None:
    assert release.answered(call_of(Release("1")), None) == Done()


def test_an_answer_that_the_command_does_not_declare() -> None:
    assert reserve.answered(call_of(Reserve("1")), SoldOut(1)) == SoldOut(1)
    with pytest.raises(OrchestratorError, match="reserve gave nothing for Reserve, which declares Reserved, SoldOut"):
        reserve.answered(call_of(Reserve("1")), None)
    with pytest.raises(OrchestratorError, match="either gave a Reserved for Release"):
        either.answered(call_of(Release("1")), Reserved("x"))
    with pytest.raises(OrchestratorError, match="gave a int"):
        reserve.answered(call_of(Reserve("1")), 3)


def test_an_undo_may_answer_done_and_not_refuse() -> None:
    undo = call_of(Reserve("1"), undoes="k0")
    assert reserve.answered(undo, Done()) == Done()
    with pytest.raises(OrchestratorError, match="gave a SoldOut"):
        reserve.answered(undo, SoldOut(1))


def test_a_call_from_the_outbox() -> None:
    row = Outgoing(
        "k1",
        Route.COMMAND,
        Envelope("k1", Kind.COMMAND, "Reserve", Raw(b'{"order_id":"1"}'), attempt=2),
        deadline=60.0,
        undoes="k0",
        sender=Address("Order", "1"),
    )
    call = Call.of(row, Reserve("1"), Services())
    assert (call.key, call.undoes, call.attempt, call.sender) == ("k1", "k0", 2, Address("Order", "1"))
    assert call.deadline == datetime(1970, 1, 1, 0, 1, tzinfo=UTC)


def no_annotation(command, call: Call) -> Reserved:  # type: ignore[no-untyped-def]
    return Reserved("1")


def no_return(command: Reserve):  # type: ignore[no-untyped-def]
    return Reserved("1")


def an_event(command: Placed) -> None: ...
def bare_command(command: Command) -> None: ...
def three(command: Release, call: Call, more: int) -> None: ...
def none_at_all() -> None: ...
def variable(*commands: Release) -> None: ...
def no_call(command: Release, call: Services) -> None: ...
def wrong_answer(command: Reserve) -> Mailed | SoldOut: ...  # type: ignore[empty-body]
def silent(command: Reserve) -> None: ...
def any_message(command: Release) -> Message: ...  # type: ignore[empty-body]
def later(command: ToCome) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def yields(command: Release):  # type: ignore[no-untyped-def]
    yield None


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (no_annotation, "participant no_annotation does not say what its parameter command is"),
        (no_return, "participant no_return does not say what it returns"),
        (an_event, "takes command: Placed, which is not a Command class"),
        (bare_command, "takes command: Command, which is not a Command class"),
        (three, "takes 3 parameters: it takes the message and, if it likes, `call: Call`"),
        (none_at_all, "takes 0 parameters"),
        (variable, "takes 1 parameters"),
        (no_call, "takes call: Services as its second parameter: annotate it with Call"),
        (wrong_answer, "may answer Mailed, but Reserve declares Reserved, SoldOut: return one of these, or declare it"),
        (silent, "may answer Done, but Reserve declares Reserved, SoldOut"),
        (any_message, "may answer Message, but Release declares Done"),
        (later, "has an annotation that is not defined before it .*ToCome.*: define or import it above"),
        (yields, "yields: let it return its answer"),
        (reserve, "is no function"),
        (Services, "is no function"),
    ],
)
def test_a_participant_that_cannot_be_right(function: Callable[..., Any], text: str) -> None:
    with pytest.raises(DefinitionError, match=text):
        participant(function)


def test_one_that_never_answers_or_never_refuses_may_be() -> None:
    def never(command: Reserve) -> NoReturn:
        raise RuntimeError

    def always(command: Reserve) -> Reserved:
        return Reserved("1")

    assert participant(never).answers == ()
    assert participant(always).answers == (Reserved,)


def test_classes_of_a_function_are_found() -> None:
    class Local(Command):
        order_id: str

    @participant
    def local(command: Local) -> None: ...

    assert local.commands == (Local,)


# Listeners.


@listener
async def mail(event: Placed | Cancelled, delivery: Delivery[Services]) -> Mailed | None:
    return Mailed(delivery.id)


@listener(retry=Retry(attempts=2))
def audit(event: Placed) -> Sequence[Mailed] | list[Cancelled] | tuple[Placed, ...] | None:
    return [Mailed("a"), Mailed("b")]


async def test_what_is_read_off_a_listener() -> None:
    assert (mail.events, mail.publishes, mail.is_async, mail.resources) == (
        (Placed, Cancelled),
        (Mailed,),
        True,
        Services,
    )
    assert (audit.events, audit.publishes, audit.retry) == ((Placed,), (Mailed, Cancelled, Placed), Retry(attempts=2))
    delivery = Delivery.of(Envelope("e1", Kind.EVENT, "Placed", time=60.0, user="ann"), Services(), 2)
    assert (delivery.attempt, delivery.user, delivery.time.isoformat()) == (2, "ann", "1970-01-01T00:01:00+00:00")
    assert await mail(Placed("1"), delivery) == Mailed("e1")
    assert audit(Placed("1"), delivery) == [Mailed("a"), Mailed("b")]


def test_what_a_listener_returns_as_events() -> None:
    assert mail.told(None) == ()
    assert mail.told(Mailed("a")) == (Mailed("a"),)
    assert mail.told([Mailed("a"), Placed("1")]) == (Mailed("a"), Placed("1"))
    for wrong in ("text", [Mailed("a"), 1], SoldOut(1)):
        with pytest.raises(OrchestratorError, match="a listener returns Events or None"):
            mail.told(wrong)


def to_a_command(event: Placed) -> Reserve: ...  # type: ignore[empty-body]
def of_a_command(event: Reserve) -> None: ...
def with_a_call(event: Placed, call: Call[Services]) -> None: ...


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (to_a_command, "listener to_a_command may return Reserve: a listener returns Events"),
        (of_a_command, "takes event: Reserve, which is not an Event class"),
        (with_a_call, "as its second parameter: annotate it with Delivery"),
        (three, "takes 3 parameters: it takes the message and, if it likes, `delivery: Delivery`"),
    ],
)
def test_a_listener_that_cannot_be_right(function: Callable[..., Any], text: str) -> None:
    with pytest.raises(DefinitionError, match=text):
        listener(function)
