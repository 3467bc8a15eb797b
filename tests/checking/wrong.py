"""Sagas with one deliberate mistake each."""

from __future__ import annotations

from decimal import Decimal
from enum import Enum

from orchestrator import (
    Child,
    Command,
    Compensate,
    Event,
    Failure,
    Finish,
    Goto,
    Refusal,
    Retry,
    Saga,
    Secret,
    Stay,
    Wait,
    days,
    on,
    step,
)


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class Line(Event):
    product: int
    price: Decimal = Decimal(1)


class Placed(Event):
    order: str
    lines: tuple[Line, ...]
    card: Secret[str]


class Reserved(Event):
    reservation: str
    mood: Mood = Mood.GOOD


class SoldOut(Refusal):
    pass


class Reserve(Command[Reserved, SoldOut]):
    order: str
    product: int = 0


class Release(Command):
    reservation: str


class Approved(Event):
    order: str


class Cancelled(Event):
    order: str


class Moody(Saga, key="order", starts=Placed):
    """Its handler raises on one alternative of a reply."""

    order: str
    card: Secret[str]

    @step(undo=None)
    def first(self) -> Reserve:
        return Reserve(self.order)

    @step(undo=None)
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.on
    def reserved(self, reply: Reserved) -> None:
        if reply.mood is Mood.BAD:
            raise ValueError("in a bad mood")


class Forever(Saga, key="order", starts=Placed):
    """Waits for an event after which it stays."""

    order: str

    @step(undo=None)
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @step
    def approval(self) -> Wait:
        return Wait()

    @approval.on
    def approved(self, event: Approved) -> Stay:
        return Stay()


class Hasty(Saga, key="order", starts=Placed):
    """Leaves one branch while the other is under way."""

    order: str

    @step(undo=None)
    def left(self) -> Reserve:
        return Reserve(self.order, 1)

    @left.refused
    def no_left(self, refusal: SoldOut) -> Finish:
        return Finish()

    @step(after=(), undo=None)
    def right(self) -> Reserve:
        return Reserve(self.order, 2)


class Forgetful(Saga, key="order", starts=Placed):
    """Its undo works only with the reply: without it, it says that there is nothing to undo."""

    order: str
    reservation: str = ""

    @step(retry=Retry(attempts=2))
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.on
    def reserved(self, reply: Reserved) -> None:
        self.reservation = reply.reservation

    @reserve.compensate
    def release(self) -> Release | None:
        return Release(self.reservation) if self.reservation else None


class Demanding(Saga, key="order", starts=Placed):
    """Its undo raises without a field that only the reply brings."""

    order: str
    reservations: tuple[str, ...] = ()

    @step
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.reservations[0])


class Scribbling(Saga, key="order", starts=Placed):
    """Its undo writes to the saga."""

    order: str
    undone: int = 0

    @step
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.compensate
    def release(self) -> Release:
        self.undone += 1
        return Release(self.order)


class Late(Saga, key="order", starts=Placed, deadline=60):
    """Its class-level handler raises once something was reserved; a retry longer than the deadline; a late wait."""

    order: str
    reservation: str = ""

    @step
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.on
    def reserved(self, reply: Reserved) -> None:
        self.reservation = reply.reservation

    @reserve.failed
    def no_answer(self, failure: Failure) -> Compensate:
        if failure.reason == "timeout":
            raise TimeoutError("no answer")
        return Compensate()

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order)

    @step
    def approval(self) -> Wait:
        return Wait(days(1))

    @approval.on
    def approved(self, event: Approved) -> None: ...

    @approval.late
    def overdue(self) -> None:
        raise RuntimeError("nobody came")

    @on
    def cancelled(self, event: Cancelled) -> Compensate:
        assert not self.reservation, "too late"
        return Compensate("cancelled")


class Pack(Saga, key="order", starts=Placed):
    """A child whose parent cannot take its end."""

    order: str

    @step
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order)


class Parent(Saga, key="order", starts=Placed):
    """Loops over the fan-out; its handler cannot take the child's end."""

    order: str
    lines: tuple[Line, ...]
    card: Secret[str]

    @step
    def reserve(self) -> list[Reserve]:
        return [Reserve(self.order, line.product) for line in self.lines]

    @reserve.compensate
    def release(self, command: Reserve) -> Release:
        return Release(str(command.product))

    @step
    def pack(self) -> Child[Pack]:
        return Child(Pack, Placed(self.order, self.lines, self.card))

    @pack.on
    def packed(self, end: Pack) -> None:
        raise KeyError(end.order)


class Circle(Saga, key="order", starts=Placed):
    """Only comes back to its Wait."""

    order: str

    @step
    def approval(self) -> Wait:
        return Wait(days(1))

    @approval.on
    def approved(self, event: Approved) -> Goto:
        return Goto(self.approval)

    @approval.late
    def overdue(self) -> Stay:
        return Stay()


class Overdue(Saga, key="order", starts=Placed):
    """Raises when the time is over: of an attempt, of a wait beside a command."""

    order: str

    @step
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.failed
    def no_answer(self, failure: Failure) -> None:
        if failure.reason == "timeout":
            raise TimeoutError("no answer")

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order)

    @step(after=())
    def approval(self) -> Wait:
        return Wait(days(1))

    @approval.on
    def approved(self, event: Approved) -> None: ...

    @approval.late
    def overdue(self) -> None:
        raise RuntimeError("nobody came")


class Again(Saga, key="order", starts=Placed):
    """Raises in the second round, after a failed attempt there."""

    order: str
    rounds: int = 0

    @step
    def reserve(self) -> Reserve:
        self.rounds += 1
        return Reserve(self.order, self.rounds)

    @reserve.failed
    def no_answer(self, failure: Failure) -> Goto:
        if self.rounds == 2:
            raise LookupError("twice")
        return Goto(self.reserve)

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order)


class Votes(Saga, key="order", starts=Placed):
    """Nothing is wrong with it: it waits for five of the same events."""

    order: str
    votes: int = 0

    @step
    def approval(self) -> Wait:
        return Wait()

    @approval.on
    def approved(self, event: Approved) -> Stay | None:
        self.votes += 1
        return Stay() if self.votes < 5 else None


class Receipt(Event):
    number: str


class Broke(Refusal):
    pass


class Charge(Command[Receipt, Broke]):
    order: str


class Refund(Command):
    receipt: str


class TooLate(Saga, key="order", starts=Placed):
    """What undoes the first step is known only after the second: its undo is registered too late."""

    order: str
    receipt: str = ""

    @step
    def charge(self) -> Charge:
        return Charge(self.order)

    @charge.compensate
    def refund(self) -> Refund | None:
        return Refund(self.receipt) if self.receipt else None

    @step(undo=None)
    def book(self) -> Charge:
        return Charge(self.order)

    @book.on
    def booked(self, reply: Receipt) -> None:
        self.receipt = reply.number

    @step(undo=None)
    def reserve(self) -> Reserve:
        return Reserve(self.order)


class Unheard(Saga, key="order", starts=Placed):
    """Past its pivot a step may be refused, and nothing takes the refusal."""

    order: str

    @step
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order)

    @step(pivot=True)
    def charge(self) -> Charge:
        return Charge(self.order)

    @charge.compensate
    def refund(self) -> Refund:
        return Refund(self.order)

    @step
    def deliver(self) -> Reserve:
        return Reserve(self.order)


class Counting(Saga, key="order", starts=Placed):
    """Only comes back to its wait, and counts how often."""

    order: str
    rounds: int = 0

    @step
    def approval(self) -> Wait:
        return Wait(days(1))

    @approval.late
    def again(self) -> Goto:
        self.rounds += 1
        return Goto(self.even if self.rounds % 2 else self.approval)

    @step
    def even(self) -> Wait:
        return Wait(days(1))

    @even.late
    def back(self) -> Goto:
        self.rounds += 1
        return Goto(self.approval)


class Partial(Saga, key="order", starts=Placed):
    """Of three at once, one alone has an undo that forgets it: elements are not alike."""

    order: str
    done: bool = False

    @step
    def reserve(self) -> list[Reserve]:
        return [Reserve(self.order, number) for number in (1, 2, 3)]

    @reserve.on
    def reserved(self, reply: Reserved) -> None:
        self.done = True

    @reserve.compensate
    def release(self, command: Reserve) -> Release | None:
        if self.done and command.product == 3:
            raise RuntimeError("the third was forgotten")
        return Release(str(command.product))


class Stubborn(Saga, key="order", starts=Placed):
    """A step whose attempts never end; one whose attempts have no timeout."""

    order: str

    @step(undo=None, retry=Retry(attempts=10**9))
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @step(undo=None, retry=Retry(timeout=float("inf")))
    def charge(self) -> Charge:
        return Charge(self.order)
