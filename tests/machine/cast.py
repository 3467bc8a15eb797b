"""Sagas for the machine's tests, one per shape."""

from __future__ import annotations

from orchestrator import (
    Child,
    Command,
    Compensate,
    Event,
    Failure,
    Finish,
    Goto,
    Query,
    Refusal,
    Retry,
    Saga,
    Stay,
    Unwound,
    Wait,
    days,
    on,
    step,
    unique_id,
)


class Placed(Event):
    order: str
    lines: tuple[str, ...] = ("a", "b")


class Reserved(Event):
    reservation: str = "r"


class SoldOut(Refusal):
    line: str = ""


class Charged(Event):
    receipt: str = "c"


class Declined(Refusal):
    pass


class Shipped(Event):
    tracking: str = "t"


class Reserve(Command[Reserved, SoldOut]):
    order: str
    line: str = ""


class Release(Command):
    order: str
    line: str = ""
    reservation: str = ""


class Charge(Command[Charged, Declined]):
    order: str


class Refund(Command):
    order: str


class Ship(Command[Shipped]):
    order: str


class Rush(Command[Shipped, Declined]):
    order: str


class Look(Query[Reserved, SoldOut]):
    order: str


class Announced(Event):
    order: str


class Withdrawn(Event):
    order: str


class Cancelled(Event):
    order: str


class Approved(Event):
    order: str
    reference: str = ""


class Hurry(Event):
    order: str


FAST = Retry(attempts=3, timeout=10, initial=1)


class Linear(Saga, key="order", starts=Placed):
    """Reserve, charge, ship; the charge is the pivot and can be refunded while in doubt."""

    order: str
    reservation: str = ""
    tracking: str = ""

    @step
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.on
    def reserved(self, reply: Reserved) -> None:
        self.reservation = reply.reservation

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order, reservation=self.reservation)

    @step(retry=FAST, pivot=True)
    def charge(self) -> Charge:
        return Charge(self.order)

    @charge.compensate
    def refund(self) -> Refund:
        return Refund(self.order)

    @step(retry=FAST)
    def ship(self) -> Ship:
        return Ship(self.order)

    @ship.on
    def shipped(self, reply: Shipped) -> None:
        self.tracking = reply.tracking

    @step
    def announce(self) -> Announced:
        return Announced(self.order)


class NoWayBack(Saga, key="order", starts=Placed):
    """A pivot that nothing undoes, and a cancel."""

    order: str

    @step
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order)

    @step(pivot=True, retry=FAST)
    def charge(self) -> Charge:
        return Charge(self.order)

    @step(retry=FAST)
    def rush(self) -> Rush:
        return Rush(self.order)

    @on
    def cancelled(self, event: Cancelled) -> Compensate:
        return Compensate("cancelled by the customer")


class Branches(Saga, key="order", starts=Placed):
    """Two branches from the start, joined by a third step."""

    order: str

    @step
    def flight(self) -> Reserve:
        return Reserve(self.order, "flight")

    @flight.compensate
    def no_flight(self) -> Release:
        return Release(self.order, "flight")

    @step(after=())
    def hotel(self) -> Reserve:
        return Reserve(self.order, "hotel")

    @hotel.compensate
    def no_hotel(self) -> Release:
        return Release(self.order, "hotel")

    @step
    def tour(self) -> Reserve:
        return Reserve(self.order, "tour")

    @tour.compensate
    def no_tour(self) -> Release:
        return Release(self.order, "tour")

    @step(retry=FAST, undo=None)
    def pay(self) -> Charge:
        return Charge(self.order)


class FanOut(Saga, key="order", starts=Placed):
    """One command per line, two at once; a sold-out line is done without."""

    order: str
    lines: tuple[str, ...]
    missing: tuple[str, ...] = ()

    @step(at_once=2, retry=FAST)
    def reserve(self) -> list[Reserve]:
        return [Reserve(self.order, line) for line in self.lines]

    @reserve.refused
    def sold_out(self, refusal: SoldOut, command: Reserve) -> None:
        self.missing = (*self.missing, command.line)

    @reserve.compensate
    def release(self, command: Reserve) -> Release:
        return Release(self.order, command.line)

    @step(retry=FAST, undo=None)
    def charge(self) -> Charge:
        return Charge(self.order)


class Approval(Saga, key="order", starts=Placed, deadline=days(30)):
    """Waits for a person; reminded once; can be hurried."""

    order: str
    reminders: int = 0
    hurried: bool = False

    @step
    def accept(self) -> Announced:
        return Announced(self.order)

    @accept.compensate
    def reject(self) -> Withdrawn:
        return Withdrawn(self.order)

    @step
    def approval(self) -> Wait:
        return Wait(days(3))

    @approval.on
    def decided(self, event: Approved) -> Stay | Compensate | None:
        if event.reference == "later":
            return Stay()
        return Compensate("denied") if event.reference == "no" else None

    @approval.late
    def overdue(self) -> Goto | Compensate:
        self.reminders += 1
        return Goto(self.approval) if self.reminders < 2 else Compensate("nobody decided")

    @on
    def hurry(self, event: Hurry) -> None:
        self.hurried = True

    @step
    def pause(self) -> Wait:
        return Wait(60)

    @step(undo=None)
    def charge(self) -> Charge:
        return Charge(self.order)


class Choosy(Saga, key="order", starts=Placed):
    """Handlers that decide: go on, go back, go forward, finish."""

    order: str
    tries: int = 0

    @step
    def look(self) -> Look:
        return Look(self.order)

    @look.refused
    def nothing_there(self, refusal: SoldOut) -> Finish:
        return Finish()

    @step(retry=FAST)
    def reserve(self) -> Reserve:
        self.tries += 1
        return Reserve(self.order, str(self.tries))

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order, str(self.tries))

    @reserve.failed
    def no_answer(self, failure: Failure) -> Goto | None:
        return Goto(self.reserve) if self.tries < 2 else None

    @step(retry=FAST)
    def charge(self) -> Charge:
        return Charge(self.order)

    @charge.refused
    def declined(self, refusal: Declined) -> Goto:
        return Goto(self.reserve)

    @charge.compensate
    def refund(self) -> Refund:
        return Refund(self.order)

    @step
    def maybe(self) -> Ship | None:
        return None

    @maybe.compensate
    def unship(self) -> Refund:
        return Refund("never")


class DiskWanted(Event):
    size: int


class Disk(Saga, key="size", starts=DiskWanted):
    """A child that can be undone."""

    size: int
    name: str = ""

    @step
    def make(self) -> Reserve:
        return Reserve(str(self.size), str(self.size))

    @make.on
    def made(self, reply: Reserved) -> None:
        self.name = reply.reservation

    @make.compensate
    def scrap(self) -> Release:
        return Release(str(self.size))


class Machine(Saga, key="order", starts=Placed):
    """A parent of one child."""

    order: str
    disk_name: str = ""
    id: str = ""

    @step
    def disk(self) -> Child[Disk]:
        self.id = unique_id("disk")
        return Child(Disk, DiskWanted(10))

    @disk.on
    def made(self, end: Disk) -> None:
        self.disk_name = end.name

    @disk.refused
    def unwound(self, refusal: Unwound) -> None:
        self.disk_name = "none"

    @step(retry=FAST, undo=None)
    def charge(self) -> Charge:
        return Charge(self.order)


class Monthly(Saga, key="order", starts=Placed):
    """A loop over a pivot."""

    order: str
    months: int = 0

    @step
    def reserve(self) -> Reserve:
        return Reserve(self.order, str(self.months))

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order, str(self.months))

    @step(pivot=True, retry=FAST)
    def charge(self) -> Charge:
        return Charge(self.order)

    @charge.compensate
    def refund(self) -> Refund:
        return Refund(self.order)

    @charge.on
    def charged(self, reply: Charged) -> None:
        self.months += 1

    @step
    def month(self) -> Wait:
        return Wait(days(30))

    @step
    def again(self) -> Wait:
        return Wait(1)

    @again.late
    def go_round(self) -> Goto:
        return Goto(self.reserve)


class Buggy(Saga, key="order", starts=Placed):
    """Its handler cannot take one kind of reply."""

    order: str
    reservation: str = ""

    @step(undo=None)
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.on
    def reserved(self, reply: Reserved) -> None:
        if reply.reservation == "poison":
            raise ValueError("cannot take poison")
        self.reservation = reply.reservation

    @step
    def approval(self) -> Wait:
        return Wait(days(1))

    @approval.on
    def approved(self, event: Approved) -> None: ...


class Again(Saga, key="order", starts=Placed, restartable=True):
    """A finished key starts again."""

    order: str

    @step(undo=None)
    def charge(self) -> Charge:
        return Charge(self.order)


class Referenced(Saga, key="order", starts=Placed):
    """An event routed by another field."""

    order: str

    @step
    def approval(self) -> Wait:
        return Wait(days(1))

    @approval.on(key="reference")
    def approved(self, event: Approved) -> None: ...


class Cash(Saga, key="order", starts=Placed):
    """A refused card is passed by: cash on delivery, over the pivot."""

    order: str

    @step
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order)

    @step(pivot=True, retry=FAST)
    def charge(self) -> Charge:
        return Charge(self.order)

    @charge.compensate
    def refund(self) -> Refund:
        return Refund(self.order)

    @charge.refused
    def declined(self, refusal: Declined) -> Goto:
        return Goto(self.ship)

    @step
    def ship(self) -> Ship:
        return Ship(self.order)

    @step(retry=FAST)
    def rush(self) -> Rush:
        return Rush(self.order)


class LateBug(Saga, key="order", starts=Placed):
    """What it does when it waited too long raises; a wait in whole seconds."""

    order: str

    @step
    def approval(self) -> Wait:
        return Wait(60)

    @approval.on
    def approved(self, event: Approved) -> None: ...

    @approval.late
    def overdue(self) -> Goto | Compensate:
        raise ExceptionGroup("several", [ValueError("too late")])
