"""Messages: values with a wire type, read strictly, written so that they can be read back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import pytest
from msgspec import Raw

from orchestrator import (
    BadMessage,
    Command,
    DefinitionError,
    Done,
    Event,
    Failure,
    Message,
    Query,
    Refusal,
    Secret,
    Unwound,
    upcast,
)
from orchestrator.messages import decode, encode, is_boundary, replies_of, type_name, type_version


@dataclass(frozen=True)
class Line:
    product_id: int
    quantity: int


class OrderPlaced(Event):
    order_id: str
    items: tuple[Line, ...] = ()
    total: Decimal = Decimal(0)


class Charged(Event, type="card.charged", version=3):
    charge_id: str
    currency: str
    cents: int


@upcast(Charged, from_version=1)
def with_currency(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "currency": "EUR"}


@upcast(Charged, from_version=2)
def in_cents(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "cents": old.pop("amount") * 100}


class Declined(Refusal):
    why: str


class Expired(Refusal):
    pass


class Login(Event):
    user: str
    password: Secret[str]
    pin: Secret[int] | None = None


# Values.


def test_messages_are_positional_equal_hashable_and_frozen() -> None:
    order = OrderPlaced("1", (Line(7, 2),), Decimal("9.50"))
    assert order == OrderPlaced(order_id="1", items=(Line(7, 2),), total=Decimal("9.50"))
    assert len({order, OrderPlaced("1", (Line(7, 2),), Decimal("9.50"))}) == 1
    with pytest.raises(AttributeError):
        order.order_id = "2"  # type: ignore[misc]


def test_the_wire_type_is_the_class_name_unless_said() -> None:
    assert (type_name(OrderPlaced), type_version(OrderPlaced)) == ("OrderPlaced", 1)
    assert (type_name(Charged), type_version(Charged)) == ("card.charged", 3)
    assert [type_name(cls) for cls in (Done, Unwound, Failure)] == ["Done", "Unwound", "Failure"]


def test_versions_count_from_one() -> None:
    with pytest.raises(DefinitionError, match="Old has version=0: versions count from 1"):

        class Old(Event, version=0):
            pass


# What a command declares.


def test_replies_of_a_command() -> None:
    class Charge(Command[Charged | OrderPlaced, Declined | Expired]):
        pass

    class Plain(Command):
        pass

    class Ask(Query[OrderPlaced]):
        pass

    class AskAgain(Ask):
        pass

    assert replies_of(Charge) == ((Charged, OrderPlaced), (Declined, Expired))
    assert replies_of(Plain) == ((Done,), ())
    assert replies_of(Ask) == replies_of(AskAgain) == ((OrderPlaced,), ())


def test_a_refusal_is_no_reply_and_a_reply_no_refusal() -> None:
    class Yes(Command[Declined]):  # type: ignore[type-var]
        pass

    class No(Command[OrderPlaced, OrderPlaced]):  # type: ignore[type-var]
        pass

    with pytest.raises(DefinitionError, match="Yes declares Declined as its reply: name Event classes there"):
        replies_of(Yes)
    with pytest.raises(DefinitionError, match="No declares OrderPlaced as its refusal: name Refusal classes there"):
        replies_of(No)


# JSON.


def test_what_is_encoded_comes_back() -> None:
    order = OrderPlaced("ä1", (Line(7, 2),), Decimal("9.50"))
    data = encode(order)
    assert data == '{"order_id":"ä1","items":[{"product_id":7,"quantity":2}],"total":"9.50"}'.encode()
    assert decode(OrderPlaced, data) == decode(OrderPlaced, Raw(data)) == order


def test_encoding_is_deterministic() -> None:
    class Tagged(Event):
        tags: frozenset[str]

    tags = [f"tag{n}" for n in range(50)]
    assert encode(Tagged(frozenset(tags))) == encode(Tagged(frozenset(reversed(tags))))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'{"order_id":1}', "OrderPlaced.order_id: expected `str`, got `int`"),
        (
            b'{"order_id":"1","items":[{"product_id":1,"quantity":"2"}]}',
            "OrderPlaced.items[0].quantity: expected `int`, got `str`",
        ),
        (b"{}", "OrderPlaced: object missing required field `order_id`"),
        (b"[]", "OrderPlaced: expected `object`, got `array`"),
        (b'{"order_id":"1"', "OrderPlaced: input data was truncated"),
        (b'{"order_id":"\xff"}', "OrderPlaced: "),
        (b'{"order_id":' + b"[" * 100_000, "OrderPlaced"),
    ],
)
def test_what_cannot_be_decoded_names_the_field(data: bytes, text: str) -> None:
    with pytest.raises(BadMessage) as caught:
        decode(OrderPlaced, data)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (OrderPlaced(1), "OrderPlaced.order_id: expected `str`, got `int`"),  # type: ignore[arg-type]
        (OrderPlaced("1", []), "OrderPlaced.items, a list, would not come back"),  # type: ignore[arg-type]
        (OrderPlaced("\ud800"), "OrderPlaced cannot be stored"),
        (OrderPlaced("1", (), Decimal("NaN")), "OrderPlaced.total: NaN and infinity are no numbers here"),
        (OrderPlaced(object()), "OrderPlaced cannot be stored: object has no JSON form"),  # type: ignore[arg-type]
    ],
)
def test_what_could_not_be_read_back_is_not_written(message: Event, text: str) -> None:
    with pytest.raises(BadMessage) as caught:
        encode(message)
    assert str(caught.value).startswith(text)


def test_nan_is_not_written() -> None:
    class Measured(Event):
        value: float | None

    assert decode(Measured, encode(Measured(1.5))) == Measured(1.5)
    with pytest.raises(BadMessage, match=r"Measured\.value, a float"):
        encode(Measured(float("nan")))


def test_unknown_fields_are_passed_over() -> None:
    assert decode(OrderPlaced, b'{"order_id":"1","new":true}') == OrderPlaced("1")


# Older versions (R18).


def test_old_payloads_are_lifted_step_by_step() -> None:
    assert decode(Charged, b'{"charge_id":"c","amount":5}', 1) == Charged("c", "EUR", 500)
    assert decode(Charged, b'{"charge_id":"c","currency":"USD","amount":5}', 2) == Charged("c", "USD", 500)
    assert decode(Charged, b'{"charge_id":"c","currency":"USD","cents":5}', 3) == Charged("c", "USD", 5)


def test_a_payload_of_a_version_that_cannot_be_lifted() -> None:
    class Moved(Event, version=2):
        to: str

    with pytest.raises(BadMessage, match="there is no @upcast from version 1"):
        decode(Moved, b"{}", 1)
    with pytest.raises(BadMessage, match="version 3 is newer than this code's, 2"):
        decode(Moved, b"{}", 3)
    with pytest.raises(BadMessage, match=r"card\.charged: in_cents could not lift an old version: KeyError"):
        decode(Charged, b'{"charge_id":"c"}', 2)
    with pytest.raises(BadMessage, match=r"card\.charged"):
        decode(Charged, b"[]", 1)


def test_an_upcast_must_be_from_a_version_before() -> None:
    with pytest.raises(DefinitionError, match=r"say class OrderPlaced\(\.\.\., version=2\)"):
        upcast(OrderPlaced, from_version=1)
    with pytest.raises(DefinitionError, match="Charged has an upcast from_version=1 already: remove one"):
        upcast(Charged, from_version=1)


# Secrets.


def test_a_secret_is_carried_but_never_shown() -> None:
    login = Login("ann", Secret("hunter2"), Secret(42))
    data = encode(login)
    assert data == b'{"user":"ann","password":{"$secret":"hunter2"},"pin":{"$secret":42}}'
    assert decode(Login, data) == login
    assert decode(Login, b'{"user":"ann","password":"hunter2"}').password.reveal() == "hunter2"
    assert "hunter2" not in f"{login} {login!r} {login.password}"
    assert len({login, decode(Login, data)}) == 1


def test_a_secret_of_the_wrong_type_names_its_field() -> None:
    with pytest.raises(BadMessage, match=r"Login\.password: expected `str`, got `int`"):
        decode(Login, b'{"user":"ann","password":{"$secret":1}}')


# What a field may hold.


class Mutable(msgspec.Struct):
    x: int


@dataclass
class Open:
    x: int


class Pair(NamedTuple):
    left: int
    right: list[int]


class Closed(msgspec.Struct, frozen=True):
    x: tuple[int, ...]


class Node(Message):
    children: tuple[Node, ...] = ()


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (list[int], "Bad.field holds a list, and a message cannot change: use tuple[X, ...]"),
        (dict[str, int], "Bad.field holds a dict, and a message cannot change: use a frozen dataclass"),
        (set[int], "Bad.field holds a set, and a message cannot change: use frozenset[X]"),
        (bytearray, "Bad.field holds a bytearray, and a message cannot change: use bytes"),
        (tuple[list[int], ...], "Bad.field holds a list"),
        (tuple[int, list[int]] | None, "Bad.field holds a list"),
        (Pair, "Bad.field holds a list"),
        (Mutable, "Bad.field holds a Mutable, which can change: declare it frozen=True"),
        (tuple[Open, ...], "Bad.field holds a Open, which can change: use @dataclass(frozen=True)"),
        (object, "Bad.field holds a object, which has no JSON form: use a dataclass"),
        (Line | Closed, "Bad has no JSON form"),
    ],
)
def test_a_field_that_can_change_or_has_no_json_form(hint: Any, text: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        type(Event)("Bad", (Event,), {"__annotations__": {"field": hint}, "__module__": __name__})
    assert str(caught.value).startswith(text)


def test_fields_that_cannot_change() -> None:
    class Good(Event):
        a: tuple[Line, ...]
        b: frozenset[int]
        c: bytes
        d: datetime
        e: Closed | None
        f: Secret[str]
        g: Node

    moment = datetime(2026, 1, 1, tzinfo=UTC)
    good = Good((Line(1, 2),), frozenset((1, 2)), b"c", moment, Closed((1,)), Secret("s"), Node((Node(),)))
    assert decode(Good, encode(good)) == good


def test_fields_in_the_wrong_order_are_a_definition_error() -> None:
    with pytest.raises(DefinitionError, match="Bad: Required field 'b'"):

        class Bad(Event):
            a: int = 0
            b: int


def test_a_field_may_name_a_class_that_is_still_to_come() -> None:
    assert decode(Early, b'{"late":{"x":1}}') == Early(Late(1))


class Early(Event):
    late: Late


class Late(Event):
    x: int


def test_a_late_class_is_checked_when_the_message_is_used() -> None:
    with pytest.raises(DefinitionError, match=r"Promises\.later holds a Postponed, which can change"):
        decode(Promises, b"{}")


class Promises(Event):
    later: Postponed


class Postponed(msgspec.Struct):
    x: int


# Boundary events.


def test_a_boundary_event_has_a_type_of_its_own() -> None:
    class UserJoined(Event, type="user.registered", version=2, boundary=True):
        user: str

    assert is_boundary(UserJoined) and not is_boundary(OrderPlaced)
    assert (type_name(UserJoined), type_version(UserJoined)) == ("user.registered", 2)
    with pytest.raises(DefinitionError, match="no wire type of its own"):

        class UserLeft(Event, boundary=True):
            user: str


def test_only_an_event_is_published_to_the_outside() -> None:
    with pytest.raises(DefinitionError, match="only an Event"):

        class Ask(Command, type="ask", boundary=True):
            user: str


def test_a_boundary_event_holds_no_secret() -> None:
    with pytest.raises(DefinitionError, match="for everybody"):

        class Registered(Event, type="registered", boundary=True):
            password: tuple[Secret[str], ...]


def test_a_subclass_of_a_boundary_event_is_none_unless_it_says_so() -> None:
    class Told(Event, type="told", boundary=True):
        what: str

    class Whispered(Told):
        to: str

    assert not is_boundary(Whispered)
