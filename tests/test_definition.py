"""Saga classes, read and checked: the graph, what is handled by whom, and every way to be wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import Raw
from typing_extensions import TypeAliasType

from orchestrator import (
    BadMessage,
    Child,
    Command,
    Compensate,
    DefinitionError,
    Done,
    Event,
    Failure,
    Finish,
    Goto,
    Query,
    Refusal,
    Retry,
    Saga,
    Secret,
    Stay,
    Step,
    Unwound,
    Wait,
    days,
    hours,
    migrate,
    minutes,
    on,
    seconds,
    start,
    step,
)
from orchestrator.definition import StepKind
from orchestrator.saga import decode_state, definition_of, encode_state, migrated

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers


class Placed(Event):
    order_id: str
    total: int = 0


class Phoned(Event):
    order_id: str


class Approved(Event):
    order_id: str
    reference: str = ""


class Denied(Event):
    order_id: str


class Reserved(Event):
    reservation: str


class PartlyReserved(Event):
    reservation: str


class OutOfStock(Refusal):
    product: str = ""


class Closed(Refusal):
    pass


class Reserve(Command[Reserved | PartlyReserved, OutOfStock | Closed]):
    order_id: str


class Release(Command):
    order_id: str


class Book(Command):
    order_id: str


class Check(Query[Reserved]):
    order_id: str


class Shipped(Event):
    order_id: str


class Disk(Saga, key="order_id", starts=Placed):
    order_id: str
    size: int = 0

    @step(undo=None)
    def make(self) -> Book:
        return Book(self.order_id)


class SoldDisk(Saga, key="order_id", starts=Placed):
    order_id: str

    @step(pivot=True)
    def sell(self) -> Book:
        return Book(self.order_id)


class Order(Saga, key="order_id", starts=Placed, version=2, deadline=days(2)):
    order_id: str
    total: int
    reservation: str = ""

    @step(timeout=60, retry=Retry(attempts=3))
    def reserve(self) -> Reserve:
        return Reserve(self.order_id)

    @reserve.on
    def reserved(self, reply: Reserved | PartlyReserved) -> None:
        self.reservation = reply.reservation

    @reserve.refused
    def no_stock(self, refusal: Refusal, command: Reserve) -> Goto | None:
        return Goto(self.ask)

    @reserve.failed
    def gone(self, failure: Failure) -> None: ...

    @reserve.compensate
    def release(self, command: Reserve) -> Release:
        return Release(command.order_id)

    @step
    def ask(self) -> Wait:
        return Wait(days(1))

    @ask.on
    def approved(self, event: Approved) -> Stay | None: ...

    @ask.on(key="reference")
    def approved_by_reference(self, event: Approved) -> None: ...

    @ask.late
    def overdue(self) -> Goto | Compensate:
        return Compensate("nobody answered")

    @step(pivot=True)
    def book(self) -> Book | None:
        return None

    @step
    def check(self) -> Check:
        return Check(self.order_id)

    @step
    def told(self) -> Shipped:
        return Shipped(self.order_id)

    @on
    def denied(self, event: Denied) -> Compensate:
        return Compensate("denied")

    @staticmethod
    @migrate(from_version=1)
    def with_reservation(old: dict[str, Any]) -> dict[str, Any]:
        return {**old, "reservation": "none"}


# What is read.


def test_steps_follow_each_other_in_the_order_written() -> None:
    steps = definition_of(Order).steps
    assert {name: found.after for name, found in steps.items()} == {
        "reserve": (),
        "ask": ("reserve",),
        "book": ("ask",),
        "check": ("book",),
        "told": ("check",),
    }
    assert steps["ask"].before == ("book",)
    assert steps["book"].reach == {"check", "told"}
    assert [name for name, found in steps.items() if found.past_pivot] == ["check", "told"]
    assert [found.kind for found in steps.values()] == [
        StepKind.COMMAND,
        StepKind.WAIT,
        StepKind.COMMAND,
        StepKind.COMMAND,
        StepKind.PUBLISH,
    ]


def test_a_step_and_its_handlers() -> None:
    reserve = definition_of(Order).steps["reserve"]
    assert (reserve.sends, reserve.many, reserve.timeout, reserve.retry) == ((Reserve,), False, 60, Retry(attempts=3))
    assert reserve.on[0].types == (Reserved, PartlyReserved)
    assert reserve.refused[0].types == (OutOfStock, Closed)
    assert reserve.refused[0].takes_command and not reserve.on[0].takes_command
    assert reserve.compensate is not None and reserve.compensate.takes_command
    assert reserve.failed is not None and reserve.failed.function is Order.gone
    assert definition_of(Order).steps["ask"].late is not None


def test_the_class_as_a_whole() -> None:
    order = definition_of(Order)
    assert (order.name, order.key, order.version, order.deadline, order.pivot) == (
        "Order",
        "order_id",
        2,
        172800,
        "book",
    )
    assert order.routes == {
        "Placed": ("order_id",),
        "Denied": ("order_id",),
        "Approved": ("order_id", "reference"),
    }
    assert [handler.types for handler in order.always] == [(Denied,)]
    assert set(order.types) == {"Placed", "Denied", "Approved", "Failure", "Done", "Shipped"} | {
        cls.__name__ for cls in (Reserve, Reserved, PartlyReserved, OutOfStock, Closed, Release, Book, Check)
    }


def test_a_starter_copies_the_fields_of_the_same_name() -> None:
    assert definition_of(Order).starters["Placed"](Placed("1", 7)) == Order(order_id="1", total=7)


def test_a_start_that_computes_and_several_starters() -> None:
    class Computed(Saga, key="order_id", starts=Phoned):
        order_id: str
        note: str = ""

        @classmethod
        @start
        def placed(cls, event: Placed | Approved) -> Computed:
            return cls(order_id=event.order_id, note=type(event).__name__)

        @step(undo=None)
        def book(self) -> Book:
            return Book(self.order_id)

    starters = definition_of(Computed).starters
    assert list(starters) == ["Phoned", "Placed", "Approved"]
    assert starters["Placed"](Placed("1")) == Computed(order_id="1", note="Placed")


def test_parallel_branches_are_joined_by_what_comes_after() -> None:
    class Trip(Saga, key="order_id", starts=Placed):
        order_id: str

        @step(undo=None)
        def approval(self) -> Book: ...

        @step(after=approval, undo=None)
        def flight(self) -> Book: ...

        @step(after=approval, undo=None)
        def hotel(self) -> Book: ...

        @step(after=(), undo=None)
        def car(self) -> Book: ...

        @step(after=(flight, hotel), undo=None)
        def both(self) -> Book: ...

        @step(pivot=True)
        def pay(self) -> Book: ...

    after = {name: found.after for name, found in definition_of(Trip).steps.items()}
    assert after == {
        "approval": (),
        "flight": ("approval",),
        "hotel": ("approval",),
        "car": (),
        "both": ("flight", "hotel"),
        "pay": ("car", "both"),
    }


def test_lists_and_children() -> None:
    class Build(Saga, key="order_id", starts=Placed):
        order_id: str

        @step(at_once=2)
        def reserve(self) -> list[Reserve]:
            return []

        @reserve.on
        def reserved(self, reply: Reserved | PartlyReserved, command: Reserve) -> Compensate | None: ...

        @reserve.compensate
        def release(self, command: Reserve) -> Release:
            return Release(command.order_id)

        @step
        def disks(self) -> tuple[Child[Disk], ...]:
            return (Child(Disk, Placed("1")),)

        @disks.on
        def made(self, end: Disk) -> None: ...

        @disks.refused
        def not_made(self, refusal: Unwound) -> Compensate:
            return Compensate(refusal.why)

    definition = definition_of(Build)
    assert (definition.steps["reserve"].many, definition.steps["reserve"].at_once) == (True, 2)
    assert (definition.steps["disks"].kind, definition.steps["disks"].sends) == (StepKind.CHILD, (Disk,))
    assert definition.steps["disks"].on[0].types == (Disk,)
    assert definition.types["Disk"] is Disk and definition.types["Unwound"] is Unwound


class Telling(Saga):
    order_id: str
    told: bool = False

    @step
    def tell(self) -> Shipped:
        return Shipped(self.order_id)

    @step(undo=None)
    def book(self) -> Book:
        return Book(self.order_id)

    @book.on
    def booked(self, reply: Done) -> None: ...

    @on
    def denied(self, event: Denied) -> Compensate:
        return Compensate()


def test_steps_of_a_base_come_first() -> None:
    class Selling(Telling, key="order_id", starts=Placed):
        @step(pivot=True)
        def sell(self) -> Book:
            return Book(self.order_id)

    assert {name: found.after for name, found in definition_of(Selling).steps.items()} == {
        "tell": (),
        "book": ("tell",),
        "sell": ("book",),
    }
    assert [handler.function for handler in definition_of(Selling).always] == [Telling.denied]


def test_a_base_has_no_definition() -> None:
    with pytest.raises(DefinitionError, match="Telling is not a saga with key="):
        definition_of(Telling)


def test_steps_written_again_are_replaced_in_place() -> None:
    class Selling(Telling, key="order_id", starts=Placed):
        @step(after=Telling.tell)
        def ask(self) -> Wait:
            return Wait(1)

        @step
        def tell(self) -> Check:
            return Check(self.order_id)

        @step(pivot=True)
        def sell(self) -> Book:
            return Book(self.order_id)

        @on
        def denied(self, event: Denied) -> Finish:
            return Finish()

    definition = definition_of(Selling)
    assert {name: found.after for name, found in definition.steps.items()} == {
        "tell": (),
        "book": ("tell",),
        "ask": ("tell",),
        "sell": ("book", "ask"),
    }
    assert definition.steps["tell"].sends == (Check,)
    assert [handler.function for handler in definition.always] == [Selling.denied]


def test_a_step_written_again_may_use_the_names_of_its_handlers() -> None:
    class Again(Telling, key="order_id", starts=Placed):
        @step(undo=None)
        def book(self) -> Reserve:
            return Reserve(self.order_id)

        @book.on
        def booked(self, reply: Reserved | PartlyReserved) -> None: ...

    class AndAgain(Again, key="order_id", starts=Placed):
        @step
        def book(self) -> Shipped:
            return Shipped(self.order_id)

    assert definition_of(Again).steps["book"].on[0].types == (Reserved, PartlyReserved)
    assert definition_of(AndAgain).steps["book"].on == ()


Answer = TypeAliasType("Answer", Reserved | PartlyReserved)


class Ask(Query[Answer]):
    order_id: str


def test_unions_may_have_a_name() -> None:
    class Asking(Saga, key="order_id", starts=Phoned):
        order_id: str

        @step
        def ask(self) -> Ask:
            return Ask(self.order_id)

        @ask.on
        def answered(self, reply: Answer) -> None: ...

    assert definition_of(Asking).steps["ask"].on[0].types == (Reserved, PartlyReserved)


def test_methods_are_plain_functions_and_steps_are_named() -> None:
    order = Order(order_id="1", total=1)
    order.reserved(Reserved("r"))
    assert order.reservation == "r"
    assert Goto(order.ask).step.name == "ask"
    assert isinstance(Order.ask, Step) and repr(Order.ask) == "Order.ask"


# Values that are returned.


def test_times_are_seconds() -> None:
    assert [seconds(2), minutes(2), hours(2), days(2)] == [2, 120, 7200, 172800]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Wait(1, until=2),
        lambda: Wait(-1),
        lambda: Wait(float("nan")),
        lambda: Wait(until=datetime(2026, 1, 1)),
    ],
)
def test_a_wait_must_make_sense(make: Callable[[], Wait]) -> None:
    with pytest.raises(ValueError, match="Wait"):
        make()


def test_a_goto_and_a_child_must_make_sense() -> None:
    with pytest.raises(TypeError, match="Goto takes a step of the saga"):
        Goto("ask")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Approved does not start Disk"):
        Child(Disk, Approved("1"))
    with pytest.raises(DefinitionError, match="Shop is not a saga with key="):
        Child(Shop, Placed("1"))


def test_a_wait_until_a_moment() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert Wait(until=moment).until == moment


# The stored state.


def test_a_state_is_stored_and_read_back() -> None:
    order = Order(order_id="1", total=7, reservation="r")
    data = encode_state(order)
    assert data == b'{"order_id":"1","total":7,"reservation":"r"}'
    assert decode_state(definition_of(Order), Raw(data)) == order


def test_a_state_that_could_not_be_read_back_is_not_stored() -> None:
    order = Order(order_id="1", total=7)
    order.total = "7"  # type: ignore[assignment]
    with pytest.raises(BadMessage, match=r"Order\.total: expected `int`, got `str`"):
        encode_state(order)
    with pytest.raises(BadMessage, match=r"Order\.total: expected `int`, got `str`"):
        decode_state(definition_of(Order), b'{"order_id":"1","total":"7"}')


def test_states_are_not_shared_between_instances() -> None:
    class Noting(Saga, key="order_id", starts=Phoned):
        order_id: str
        notes: list[str] = []

        @step(undo=None)
        def book(self) -> Book:
            return Book(self.order_id)

    one, other = Noting(order_id="1"), Noting(order_id="2")
    one.notes.append("x")
    assert other.notes == []


def test_an_old_state_is_migrated_step_by_step() -> None:
    order = definition_of(Order)
    assert migrated(order, b'{"order_id":"1","total":7}', 1) == encode_state(
        Order(order_id="1", total=7, reservation="none")
    )
    assert migrated(order, encode_state(Order(order_id="1", total=7)), 2) == encode_state(Order(order_id="1", total=7))
    with pytest.raises(BadMessage, match=r"Order: there is no @migrate\(from_version=0\)"):
        migrated(order, b"{}", 0)
    with pytest.raises(BadMessage, match="Order: version 3 is newer than this code's, 2"):
        migrated(order, b"{}", 3)
    with pytest.raises(BadMessage, match="Order: object missing required field `order_id`"):
        migrated(order, b"{}", 1)


# Every way to be wrong: what makes the class, and what the error says.

Wrong = tuple[Callable[[], object], tuple[str, ...]]
WRONG: list[Wrong] = []


def says(*texts: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    def keep(make: Callable[[], object]) -> Callable[[], object]:
        WRONG.append((make, texts))
        return make

    return keep


class Shop(Saga):
    """So that each wrong class is short."""

    order_id: str = ""


@says("Bad.second", "is a second pivot beside first", "keep one pivot=True")
def two_pivots() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(pivot=True)
        def first(self) -> Book: ...

        @step(pivot=True)
        def second(self) -> Book: ...


@says("Bad.pay", "is the pivot, but hotel can run beside it", "put it before or after, with after=")
def a_pivot_that_is_no_cut() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(pivot=True)
        def pay(self) -> Book: ...

        @step(after=(), undo=None)
        def hotel(self) -> Book: ...


@says("Bad.pay", "is a pivot that sends a list", "make a step with a single command the pivot")
def a_pivot_that_sends_a_list() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(pivot=True)
        def pay(self) -> list[Book]: ...


@says("Bad.look", "is a pivot but sends a Query", "pivot on a Command")
def a_pivot_that_is_a_query() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(pivot=True)
        def look(self) -> Check: ...


@says("Bad.book", "cannot be undone", "add @book.compensate, or say undo=None")
def a_command_without_compensation() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def book(self) -> Book: ...


@says("Bad.book", "has undo=None and a compensation", "keep one")
def a_command_that_may_stand_and_is_undone() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(undo=None)
        def book(self) -> Book: ...

        @book.compensate
        def unbook(self) -> Release: ...


@says("Bad.look", "sends a Query, so there is nothing to undo", "remove its compensation")
def a_compensation_of_a_query() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def look(self) -> Check: ...

        @look.compensate
        def unlook(self) -> Release: ...


@says("Bad.ask", "is a wait step and cannot have .compensate", "remove unask")
def a_compensation_of_a_wait() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def ask(self) -> Wait: ...

        @ask.compensate  # type: ignore[arg-type]
        def unask(self) -> Release: ...


@says("Bad.ship", "comes after the pivot pay, where nothing is undone", "remove its compensation")
def a_compensation_past_the_pivot() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(pivot=True)
        def pay(self) -> Book: ...

        @step
        def ship(self) -> Book: ...

        @ship.compensate
        def unship(self) -> Release: ...


@says("Bad.book (.compensate undo)", "undoes with Reserve, which can be refused", "declare Reserve(Command) without")
def a_compensation_that_can_be_refused() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def book(self) -> Book: ...

        @book.compensate  # type: ignore[arg-type]
        def undo(self) -> Reserve: ...


@says("Bad.book (.compensate undo)", "returns Check", "an undo is a Command, an Event or None")
def a_compensation_that_only_asks() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def book(self) -> Book: ...

        @book.compensate
        def undo(self) -> Check: ...


@says("Bad.books (.on booked)", "returns Goto", "here a handler returns nothing or Compensate")
def a_goto_from_a_list_step() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(undo=None)
        def books(self) -> list[Book]: ...

        @books.on
        def booked(self, reply: Done) -> Goto: ...


@says("Bad.books (.failed gone)", "returns Finish", "here a handler returns nothing or Compensate")
def a_finish_from_a_list_step() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(undo=None)
        def books(self) -> list[Book]: ...

        @books.failed
        def gone(self, failure: Failure) -> Finish | None: ...


@says("Bad.book (.on booked)", "returns Stay", "here a handler returns nothing or Goto or Compensate or Finish")
def a_stay_that_waits_for_nothing() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(undo=None)
        def book(self) -> Book: ...

        @book.on  # type: ignore[arg-type]
        def booked(self, reply: Done) -> Stay | None: ...


@says("Bad.book (.on booked)", "returns Release", "to send, Goto a step that sends it")
def a_handler_that_sends() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(undo=None)
        def book(self) -> Book: ...

        @book.on  # type: ignore[arg-type]
        def booked(self, reply: Done) -> Release: ...


@says("Bad.ask (.on one)", "Bad.ask (.on two)", "could both want Approved at once", "with key=")
def two_handlers_in_one_wait() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def ask(self) -> Wait: ...

        @ask.on
        def one(self, event: Approved | Denied) -> None: ...

        @ask.on
        def two(self, event: Approved) -> None: ...


@says("Bad.left (.on one)", "Bad.right (.on two)", "could both want Approved at once", "with key=")
def two_handlers_in_parallel_waits() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def left(self) -> Wait: ...

        @left.on(key="reference")
        def one(self, event: Approved) -> None: ...

        @step(after=())
        def right(self) -> Wait: ...

        @right.on(key="reference")
        def two(self, event: Approved) -> None: ...


@says("Bad.always", "Bad.ask (.on one)", "could both want Denied at once", "with key=")
def two_handlers_one_of_the_class() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def ask(self) -> Wait: ...

        @ask.on
        def one(self, event: Approved | Denied) -> None: ...

        @on
        def always(self, event: Denied) -> None: ...


@says("Bad.disk", "starts SoldDisk, which cannot be unwound after its pivot sell", "add @disk.compensate")
def a_child_with_a_pivot_before_the_pivot() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def disk(self) -> Child[SoldDisk]: ...

        @step(pivot=True)
        def pay(self) -> Book: ...


@says("Bad.again", "starts Bad as its own child", "children cannot go in a circle")
def a_child_in_a_circle() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def again(self) -> Child[Bad]: ...


@says("Bad.later", "annotated with Ghost, which is not there yet", "define or import it above", "in a circle")
def a_child_that_is_still_to_come() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def later(self) -> Child[Ghost]: ...  # type: ignore[name-defined]  # noqa: F821


@says("Bad.base", "cannot start this child", "Shop is not a saga with key=")
def a_child_that_is_a_base() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def base(self) -> Child[Shop]: ...


@says("Bad.book", "is after Order.ask, which is no step of Bad", "name one of its steps")
def an_unknown_predecessor() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(after=Order.ask, undo=None)
        def book(self) -> Book: ...


@says("Bad.book", "is after 'ask', which is no step of Bad", "without quotes")
def a_predecessor_in_quotes() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(after="ask", undo=None)  # type: ignore[call-overload]
        def book(self) -> Book: ...


@says("Bad.first", "is after itself, in a circle", "a loop is a Goto back to it")
def steps_in_a_circle() -> None:
    class Base(Shop):
        @step(undo=None)
        def first(self) -> Book: ...

        @step(undo=None)
        def second(self) -> Book: ...

    class Bad(Base, key="order_id", starts=Placed):
        @step(after=Base.second, undo=None)
        def first(self) -> Book: ...


@says("Bad.book", "is both a field and a method", "rename one of them")
def a_field_that_is_a_step() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        book: str

        @step  # type: ignore[no-redef]
        def book(self) -> Book: ...


@says("Bad.book", "is written twice in the class", "rename one of them")
def a_step_covered_by_a_default() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def book(self) -> Book: ...

        book: str = ""  # type: ignore[no-redef]  # noqa: F811


@says("Bad.told", "is both a field and a method", "rename one of them")
def a_method_that_is_a_field_of_the_base() -> None:
    class Bad(Telling, key="order_id", starts=Placed):
        @step  # type: ignore[assignment]
        def told(self) -> Shipped: ...


@says("Bad.tell", "is both a field and a method", "rename one of them")
def a_field_that_is_a_method_of_the_base() -> None:
    class Bad(Telling, key="order_id", starts=Placed):
        tell: str = ""  # type: ignore[assignment]


@says("Bad.tell", "covers the step Telling.tell", "write it as a @step too")
def a_method_that_covers_a_step_of_the_base() -> None:
    class Bad(Telling, key="order_id", starts=Placed):
        def tell(self) -> Shipped: ...  # type: ignore[override]


@says("Bad.booked", "covers a handler of the step Telling.book", "write the step book again too, or rename it")
def a_method_that_covers_a_handler_of_the_base() -> None:
    class Bad(Telling, key="order_id", starts=Placed):
        def booked(self, reply: Done) -> None: ...


@says("Bad.denied", "covers a method that a base has marked", "mark it too, or rename it")
def a_method_that_covers_an_on_of_the_base() -> None:
    class Bad(Telling, key="order_id", starts=Placed):
        def denied(self, event: Denied) -> Compensate: ...


@says("Bad.more is added to Telling.tell", "that class is complete", "write the step tell again in the subclass")
def a_handler_added_in_a_subclass() -> None:
    class Bad(Telling, key="order_id", starts=Placed):
        @Telling.tell.compensate
        def more(self) -> Shipped: ...


@says("Bad.amount", "cannot be filled from Placed, which has no such field", "give it a default", "@start")
def a_field_that_the_start_cannot_fill() -> None:
    class Bad(Saga, key="order_id", starts=Placed):
        order_id: str
        amount: int

        @step(undo=None)
        def book(self) -> Book: ...


@says("Bad.total", "cannot be filled from Placed.total, which is of another type", "annotate both alike", "@start")
def a_field_of_another_type_than_the_start() -> None:
    class Bad(Saga, key="order_id", starts=Placed):
        order_id: str
        total: str

        @step(undo=None)
        def book(self) -> Book: ...


@says("Bad", "has nothing that starts it", "say starts=SomeEvent, or write a @start")
def a_saga_without_a_start() -> None:
    class Bad(Shop, key="order_id"):
        @step(undo=None)
        def book(self) -> Book: ...


@says("Bad", "is started by Placed in two ways", "keep one")
def a_start_in_two_ways() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @classmethod
        @start
        def placed(cls, event: Placed) -> Bad: ...

        @step(undo=None)
        def book(self) -> Book: ...


@says("Bad.placed", "write @classmethod above @start")
def a_start_without_classmethod() -> None:
    class Bad(Shop, key="order_id"):
        @start  # type: ignore[arg-type]
        def placed(self, event: Placed) -> Bad: ...

        @step(undo=None)
        def book(self) -> Book: ...


@says("Bad has starts=", "name an Event class, or a tuple of them")
def a_start_that_is_no_event() -> None:
    class Bad(Shop, key="order_id", starts=Reserve):  # type: ignore[arg-type]
        @step(undo=None)
        def book(self) -> Book: ...


@says("Bad has key='number', but no such field", "add number: str")
def a_key_that_is_no_field() -> None:
    class Bad(Shop, key="number", starts=Placed):
        @step(undo=None)
        def book(self) -> Book: ...


@says("Bad", "for Shipped (shipped) by the field reference, which the event has not", "name another field with key=")
def an_event_without_the_key() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def ask(self) -> Wait: ...

        @ask.on(key="reference")
        def shipped(self, event: Shipped) -> None: ...


@says("Bad has no step", "write at least one @step")
def a_saga_without_steps() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        pass


@says("Bad has deadline=0", "give more than 0 seconds")
def a_deadline_of_nothing() -> None:
    class Bad(Shop, key="order_id", starts=Placed, deadline=0):
        @step(undo=None)
        def book(self) -> Book: ...


@says("Bad has version=0", "versions count from 1")
def a_version_of_nothing() -> None:
    class Bad(Shop, key="order_id", starts=Placed, version=0):
        @step(undo=None)
        def book(self) -> Book: ...


@says("Bad is of version 1", "from_version=1 of a migration is not before it", "version=2")
def a_migration_to_nowhere() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @staticmethod
        @migrate(from_version=1)
        def lift(old: dict[str, Any]) -> dict[str, Any]: ...

        @step(undo=None)
        def book(self) -> Book: ...


@says("Bad.other", "is a second migration from_version=1", "remove one")
def two_migrations_from_one_version() -> None:
    class Bad(Shop, key="order_id", starts=Placed, version=2):
        @staticmethod
        @migrate(from_version=1)
        def lift(old: dict[str, Any]) -> dict[str, Any]: ...

        @staticmethod
        @migrate(from_version=1)
        def other(old: dict[str, Any]) -> dict[str, Any]: ...


@says("Bad.lift", "write @staticmethod above @migrate")
def a_migration_without_staticmethod() -> None:
    class Bad(Shop, key="order_id", starts=Placed, version=2):
        @migrate(from_version=1)
        def lift(old: dict[str, Any]) -> dict[str, Any]: ...  # type: ignore[misc]


@says("Bad.reserve (.on reserved)", "takes Shipped, but what may come is Reserved | PartlyReserved", "annotate it so")
def a_reply_that_is_not_declared() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(undo=None)
        def reserve(self) -> Reserve: ...

        @reserve.on  # type: ignore[arg-type]
        def reserved(self, reply: Reserved | Shipped) -> None: ...


@says("Bad.reserve (.on reserved)", "forgets PartlyReserved", "annotate it so")
def a_reply_that_is_forgotten() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(undo=None)
        def reserve(self) -> Reserve: ...

        @reserve.on  # type: ignore[arg-type]
        def reserved(self, reply: Reserved) -> None: ...


@says("Bad.book (.refused no)", "takes OutOfStock, but what may come is nothing", "annotate it so")
def a_refusal_that_is_not_declared() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(undo=None)
        def book(self) -> Book: ...

        @book.refused  # type: ignore[arg-type]
        def no(self, refusal: OutOfStock) -> None: ...


@says("Bad.book (.failed gone)", "annotate it with Failure")
def a_failure_that_is_none() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(undo=None)
        def book(self) -> Book: ...

        @book.failed  # type: ignore[arg-type]
        def gone(self, failure: OutOfStock) -> None: ...


@says("Bad.book (.compensate undo)", "does not take Book, which the step sends", "annotate its last parameter so")
def a_command_of_another_step() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def book(self) -> Book: ...

        @book.compensate  # type: ignore[arg-type]
        def undo(self, command: Reserve) -> Release: ...


@says("Bad.disk (.on made)", "has one parameter too many", "only a command can be the last")
def a_command_where_a_child_is() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def disk(self) -> Child[Disk]: ...

        @disk.on  # type: ignore[arg-type]
        def made(self, end: Disk, command: Reserve) -> None: ...


@says("Bad.ask (.on answered)", "takes Reserve", "annotate its parameter with your Event class")
def an_event_that_is_a_command() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def ask(self) -> Wait: ...

        @ask.on  # type: ignore[type-var]
        def answered(self, event: Reserve) -> None: ...


@says("Bad.book", "waits for a reply, not for an event", "remove key= from booked")
def a_key_for_a_reply() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(undo=None)
        def book(self) -> Book: ...

        @book.on(key="reference")  # type: ignore[misc]
        def booked(self, reply: Done) -> None: ...


@says("Bad.book", "is a command step and cannot have .late", "remove overdue")
def lateness_of_a_command() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(undo=None)
        def book(self) -> Book: ...

        @book.late  # type: ignore[misc]
        def overdue(self) -> None: ...


@says("Bad.book", "has .on twice", "keep one, it may take a union A | B")
def a_reply_handled_twice() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(undo=None)
        def book(self) -> Book: ...

        @book.on
        def one(self, reply: Done) -> None: ...

        @book.on
        def two(self, reply: Done) -> None: ...


@says("Bad.book", "does not say what it sends", "annotate what it returns")
def a_step_without_annotation() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def book(self): ...  # type: ignore[no-untyped-def]


@says("Bad.book", "returns int", "a step returns a Command, an Event, a Wait, a Child[...], or a list of them")
def a_step_that_sends_no_message() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step  # type: ignore[type-var]
        def book(self) -> int: ...


@says("Bad.book", "must send one kind of thing")
def a_step_that_sends_two_kinds() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def book(self) -> Book | Wait: ...


@says("Bad.book", "returns a list or something else", "return always a list")
def a_step_that_sends_a_list_or_not() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def book(self) -> list[Book] | Book: ...


@says("Bad.ask", "returns a list of Wait", "return one Wait")
def a_list_of_waits() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def ask(self) -> list[Wait]: ...


@says("Bad.book", "must be a plain def", "what waits or does I/O is a participant")
def a_step_that_awaits() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step  # type: ignore[type-var]
        async def book(self) -> Book: ...


@says("Bad.book (.on booked)", "has 0 parameters after self", "give it 1 or 2")
def a_handler_without_parameter() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(undo=None)
        def book(self) -> Book: ...

        @book.on  # type: ignore[arg-type]
        def booked(self) -> None: ...


@says("Bad.book (.on booked)", "does not say what it takes", "annotate reply with the message's class")
def a_handler_without_annotation() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(undo=None)
        def book(self) -> Book: ...

        @book.on
        def booked(self, reply): ...  # type: ignore[no-untyped-def]


@says("Bad.book (.compensate undo)", "does not say how it undoes", "annotate what it returns")
def a_compensation_without_annotation() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def book(self) -> Book: ...

        @book.compensate
        def undo(self): ...  # type: ignore[no-untyped-def]


@says("a field of Bad is annotated with OnlyForCheckers, which is not there yet", "define it above")
def a_field_for_checkers_only() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        amount: OnlyForCheckers | None = None

        @step(undo=None)
        def book(self) -> Book: ...


@says("Bad.counts holds a dict with keys that are no texts", "use dict[str, X]")
def keys_that_are_numbers() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        counts: dict[int, int] = {}

        @step(undo=None)
        def book(self) -> Book: ...


@says("Bad.when holds a object, which has no JSON form", "use a dataclass")
def a_field_that_cannot_be_stored() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        when: object = None

        @step(undo=None)
        def book(self) -> Book: ...


@says("Bad.ask", "sends no command to time out", "a Wait says its own time")
def a_timeout_of_a_wait() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(timeout=5)
        def ask(self) -> Wait: ...


@says("Bad.book", "has timeout=0", "give more than 0 seconds")
def a_timeout_of_nothing() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(timeout=0, undo=None)
        def book(self) -> Book: ...


@says("Bad.book", "sends no list", "remove at_once=")
def at_once_without_a_list() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(at_once=2, undo=None)
        def book(self) -> Book: ...


@says("Bad.books", "has at_once=0", "give 1 or more")
def at_once_of_nothing() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        @step(at_once=0, undo=None)
        def books(self) -> list[Book]: ...


@says("Bad.reserve", "is the step Order.reserve in another place", "write it out with @step")
def a_step_of_another_saga() -> None:
    class Bad(Shop, key="order_id", starts=Placed):
        reserve = Order.reserve


@says("Bad uses two classes of the wire type Release", "give one another with type=")
def two_classes_of_one_wire_type() -> None:
    class Else(Command, type="Release"):
        pass

    class Bad(Shop, key="order_id", starts=Placed):
        @step
        def book(self) -> Book: ...

        @book.compensate
        def undo(self) -> Release | Else: ...


@says("Sick declares OutOfStock as its reply", "name Event classes there")
def a_command_that_declares_nonsense() -> None:
    class Sick(Command[OutOfStock]):  # type: ignore[type-var]
        pass

    class Bad(Shop, key="order_id", starts=Placed):
        @step(undo=None)
        def book(self) -> Sick: ...


@says("Bad.tags holds a list, and a message cannot change", "use tuple[X, ...]")
def a_message_that_can_change() -> None:
    class Bad(Event):
        tags: list[Secret[str]]


@pytest.mark.parametrize(("make", "texts"), WRONG, ids=[make.__name__ for make, _ in WRONG])
def test_a_class_that_cannot_be_right(make: Callable[[], object], texts: tuple[str, ...]) -> None:
    with pytest.raises(DefinitionError) as caught:
        make()
    for text in texts:
        assert text in str(caught.value)
