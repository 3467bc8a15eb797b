"""Reference sagas whose waits are short, beside those of the machine's tests."""

from __future__ import annotations

from orchestrator import (
    Child,
    Compensate,
    Delivery,
    Event,
    Finish,
    Goto,
    Retry,
    Saga,
    Stay,
    Unwound,
    Wait,
    listener,
    migrate,
    on,
    step,
)
from tests.machine.cast import (
    FAST,
    Announced,
    Approved,
    Cancelled,
    Charge,
    Disk,
    DiskWanted,
    Hurry,
    Placed,
    Refund,
    Release,
    Reserve,
    Reserved,
    Rush,
    Ship,
    SoldOut,
    Withdrawn,
)


class Waiting(Saga, key="order", starts=Placed):
    """Waits for a person; reminded once; can be hurried; a reference of its own."""

    order: str
    reminders: int = 0
    hurried: bool = False

    @step
    def accept(self) -> Announced:
        return Announced(self.order)

    @accept.compensate
    def reject(self) -> Withdrawn:
        return Withdrawn(self.order)

    @step(retry=FAST)
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order)

    @step
    def approval(self) -> Wait:
        return Wait(300)

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
        return Wait(5)

    @step(retry=FAST, undo=None)
    def charge(self) -> Charge:
        return Charge(self.order)


class Deadlined(Saga, key="order", starts=Placed, deadline=90):
    """Its time is over while it waits."""

    order: str

    @step(retry=FAST)
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order)

    @step
    def approval(self) -> Wait:
        return Wait(600)

    @approval.on
    def approved(self, event: Approved) -> None: ...

    @step(retry=FAST, undo=None)
    def charge(self) -> Charge:
        return Charge(self.order)


class Renewal(Saga, key="order", starts=Placed):
    """A loop over a pivot, ended by an event."""

    order: str
    months: int = 0
    is_over: bool = False

    @step(retry=FAST)
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

    @on
    def hurry(self, event: Hurry) -> None:
        self.is_over = True

    @step
    def month(self) -> Wait:
        return Wait(60)

    @month.late
    def go_round(self) -> Goto | Finish:
        self.months += 1
        return Finish() if self.is_over or self.months == 3 else Goto(self.reserve)


class Brief(Saga, key="order", starts=Placed):
    """Begins and ends in one commit."""

    order: str

    @step
    def announce(self) -> Announced:
        return Announced(self.order)

    @on
    def hurry(self, event: Hurry) -> None: ...


class Family(Saga, key="order", starts=Placed):
    """A parent whose child is unwound when what follows is refused."""

    order: str
    disk_name: str = ""

    @step(retry=FAST)
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order)

    @step
    def disks(self) -> list[Child[Disk]]:
        return [Child(Disk, DiskWanted(10)), Child(Disk, DiskWanted(20))]

    @disks.on
    def made(self, end: Disk) -> None:
        self.disk_name = end.name

    @disks.refused
    def unwound(self, refusal: Unwound) -> Compensate:
        return Compensate("no disk")

    @step(retry=FAST)
    def rush(self) -> Rush:
        return Rush(self.order)

    @rush.compensate
    def refund(self) -> Refund:
        return Refund(self.order)


def moved_1() -> type[Saga]:
    class Moved(Saga, key="order", starts=Placed):
        order: str
        name: str = ""

        @step(retry=FAST)
        def reserve(self) -> Reserve:
            return Reserve(self.order)

        @reserve.on
        def reserved(self, reply: Reserved) -> None:
            self.name = reply.reservation

        @reserve.compensate
        def release(self) -> Release:
            return Release(self.order)

        @step
        def pause(self) -> Wait:
            return Wait(30)

        @step(retry=FAST, undo=None)
        def charge(self) -> Charge:
            return Charge(self.order)

    return Moved


def moved_2() -> type[Saga]:
    class Moved(Saga, key="order", starts=Placed, version=2):
        order: str
        reservation: str = ""

        @staticmethod
        @migrate(from_version=1)
        def renamed(old: dict[str, object]) -> dict[str, object]:
            return {"order": old["order"], "reservation": old.get("name", "")}

        @step(retry=FAST)
        def reserve(self) -> Reserve:
            return Reserve(self.order)

        @reserve.on
        def reserved(self, reply: Reserved) -> None:
            self.reservation = reply.reservation

        @reserve.compensate
        def release(self) -> Release:
            return Release(self.order)

        @step
        def pause(self) -> Wait:
            return Wait(30)

        @step(retry=FAST, undo=None)
        def charge(self) -> Charge:
            return Charge(self.order)

        @step(retry=FAST)
        def ship(self) -> Rush:
            return Rush(self.order)

        @ship.compensate
        def unship(self) -> Refund:
            return Refund(self.order)

    return Moved


class Told(Event):
    order: str


@listener
async def tell(event: Announced, delivery: Delivery[object]) -> Told:
    """Choreography: what it publishes is wanted by the next."""
    return Told(event.order)


@listener
async def hear(event: Told | Withdrawn) -> None: ...


class Cancellable(Saga, key="order", starts=Placed):
    """Can be cancelled by the customer at any time before it is shipped."""

    order: str

    @step(retry=FAST)
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order)

    @step(retry=FAST)
    def charge(self) -> Charge:
        return Charge(self.order)

    @charge.compensate
    def refund(self) -> Refund:
        return Refund(self.order)

    @step(retry=FAST, pivot=True)
    def ship(self) -> Ship:
        return Ship(self.order)

    @on
    def cancelled(self, event: Cancelled) -> Compensate:
        return Compensate("cancelled by the customer")


class Patient(Saga, key="order", starts=Placed):
    """Twice in a step with a long time between, so that what is late for the first visit comes in the second."""

    order: str
    rounds: int = 0

    @step(retry=Retry(attempts=20, timeout=10, initial=1, maximum=10))
    def reserve(self) -> Reserve:
        self.rounds += 1
        return Reserve(self.order, str(self.rounds))

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order, str(self.rounds))

    @step
    def pause(self) -> Wait:
        return Wait(560)

    @pause.late
    def again(self) -> Goto | None:
        return Goto(self.reserve) if self.rounds == 1 else None


class Revocable(Saga, key="order", starts=Placed):
    """Has no pivot, so that only its end is too late."""

    order: str

    @step(retry=FAST)
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order)

    @on
    def cancelled(self, event: Cancelled) -> Compensate:
        return Compensate("cancelled by the customer")


class Returning(Saga, key="order", starts=Placed, restartable=True):
    """May end before the step that an early event was kept for, and begin again."""

    order: str
    lines: tuple[str, ...]

    @step(retry=FAST, undo=None)
    def reserve(self) -> Reserve:
        return Reserve(self.order, self.lines[0])

    @reserve.refused
    def sold_out(self, refusal: SoldOut) -> Finish:
        return Finish()

    @step
    def approval(self) -> Wait:
        return Wait(100)

    @approval.on
    def approved(self, event: Approved) -> None: ...

    @approval.late
    def overdue(self) -> None: ...


class Followed(Saga, key="order", starts=Told):
    """Follows from what a listener tells."""

    order: str

    @step(retry=FAST, undo=None)
    def rush(self) -> Rush:
        return Rush(self.order)


def puzzled(is_mended: bool) -> type[Saga]:
    class Puzzled(Saga, key="order", starts=Placed):
        order: str
        hurried: bool = False

        @step(retry=FAST)
        def reserve(self) -> Reserve:
            return Reserve(self.order)

        @reserve.on
        def reserved(self, reply: Reserved) -> None:
            if not is_mended:
                raise ValueError("not thought of")

        @reserve.compensate
        def release(self) -> Release:
            return Release(self.order)

        @on
        def hurry(self, event: Hurry) -> None:
            self.hurried = True

        @step
        def approval(self) -> Wait:
            return Wait(1_000)

        @approval.on
        def approved(self, event: Approved) -> None: ...

        @step(retry=FAST, undo=None)
        def charge(self) -> Charge:
            return Charge(self.order)

    return Puzzled
