"""Sagas as strangers write them: loops, counters, logs, keys of their own, branches. Nothing is wrong with these."""

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
    hours,
    now,
    on,
    start,
    step,
    unique_id,
)
from tests.machine.cast import Disk, DiskWanted


class Opened(Event):
    id: str


class Reopened(Event):
    id: str
    weight: int


class Taken(Event):
    number: str


class Full(Refusal):
    pass


class Take(Command[Taken, Full]):
    id: str
    what: str = ""


class GiveBack(Command):
    id: str
    what: str = ""


class Paid(Event):
    receipt: str


class Broke(Refusal):
    pass


class Pay(Command[Paid, Broke]):
    id: str
    month: int = 0


class PayBack(Command):
    id: str


class Ready(Event):
    is_ready: bool


class Ask(Query[Ready]):
    id: str


class Noted(Event):
    id: str
    text: str


class Signed(Event):
    contract: str
    by: str | None


class Countersigned(Event):
    invoice: str


class Withdrawn(Event):
    id: str


class Told(Event):
    id: str
    reminder: int


PATIENT = Retry(attempts=3, timeout=10)


class Renewal(Saga, key="id", starts=Opened):
    """A subscription: paid month after month, for ever; the number of months grows without end."""

    id: str
    month: int = 0
    receipts: tuple[str, ...] = ()

    @step
    def seat(self) -> Take:
        self.month += 1
        return Take(self.id, f"seat of month {self.month}")

    @seat.compensate
    def free(self) -> GiveBack:
        return GiveBack(self.id, f"seat of month {self.month}")

    @step(pivot=True, retry=PATIENT)
    def pay(self) -> Pay:
        return Pay(self.id, self.month)

    @pay.compensate
    def pay_back(self) -> PayBack:
        return PayBack(self.id)

    @pay.on
    def paid(self, reply: Paid) -> None:
        self.receipts = (*self.receipts, reply.receipt)

    @step
    def period(self) -> Wait:
        return Wait(days(30))

    @period.on
    def withdrawn(self, event: Withdrawn) -> Finish:
        return Finish()

    @period.late
    def renew(self) -> Goto:
        return Goto(self.seat)


class Poll(Saga, key="id", starts=Opened):
    """Asks until something is ready, at most twenty times."""

    id: str
    asked: int = 0

    @step
    def pause(self) -> Wait:
        return Wait(30)

    @step
    def ask(self) -> Ask:
        self.asked += 1
        return Ask(self.id)

    @ask.on
    def answered(self, reply: Ready) -> Goto | Compensate | None:
        if reply.is_ready:
            return None
        return Goto(self.pause) if self.asked < 20 else Compensate("it never was")

    @step
    def take(self) -> Take:
        return Take(self.id, unique_id("take"))

    @take.compensate
    def give_back(self) -> GiveBack:
        return GiveBack(self.id)


class Endless(Saga, key="id", starts=Opened):
    """Polls as long as it takes, with a new id each time."""

    id: str
    ticket: str = ""

    @step
    def ask(self) -> Ask:
        self.ticket = unique_id("ticket")
        return Ask(self.ticket)

    @ask.on
    def answered(self, reply: Ready) -> Goto | None:
        return None if reply.is_ready else Goto(self.ask)


class Reminded(Saga, key="id", starts=Opened, deadline=days(365)):
    """Reminds three times, by a step before the wait."""

    id: str
    reminders: int = 0

    @step
    def take(self) -> Take:
        return Take(self.id)

    @take.compensate
    def give_back(self) -> GiveBack:
        return GiveBack(self.id)

    @step
    def remind(self) -> Told | None:
        return Told(self.id, self.reminders) if self.reminders else None

    @step
    def answer(self) -> Wait:
        return Wait(days(3))

    @answer.on
    def noted(self, event: Noted) -> Compensate | None:
        return Compensate("no") if event.text == "no" else None

    @answer.late
    def silent(self) -> Goto | Compensate:
        if self.reminders >= 3:
            return Compensate("nobody answers")
        self.reminders += 1
        return Goto(self.remind)


class Signatures(Saga, key="id", starts=Opened):
    """Two people sign, each under a key of their own, in any order; a third may withdraw it."""

    id: str
    contract: str = "c"
    signed_by: str = ""

    @step
    def take(self) -> Take:
        return Take(self.id)

    @take.compensate
    def give_back(self) -> GiveBack:
        return GiveBack(self.id)

    @step
    def signature(self) -> Wait:
        return Wait(days(9))

    @signature.on(key="contract")
    def signed(self, event: Signed) -> Stay | None:
        self.signed_by = event.by or ""
        return None if event.by else Stay()

    @signature.late
    def forgotten(self) -> Compensate:
        return Compensate("nobody signed")

    @step(after=take)
    def countersignature(self) -> Wait:
        return Wait(days(9))

    @countersignature.on(key="invoice")
    def countersigned(self, event: Countersigned) -> None: ...

    @on
    def withdrawn(self, event: Withdrawn) -> Compensate:
        return Compensate("withdrawn")

    @step(undo=None)
    def pay(self) -> Pay:
        return Pay(self.id)


class Restarted(Saga, key="id", starts=Opened, restartable=True):
    """Its key starts again, and keeps a log of what it was told."""

    id: str
    log: tuple[str, ...] = ()

    @step
    def take(self) -> Take:
        return Take(self.id)

    @take.compensate
    def give_back(self) -> GiveBack:
        return GiveBack(self.id)

    @on
    def noted(self, event: Noted) -> None:
        self.log = (*self.log, event.text)


class Computed(Saga, key="id"):
    """Computes its first state, from either of two events; one of its ways is taken over a Goto."""

    id: str
    weight: int
    is_heavy: bool
    at: str = ""

    @classmethod
    @start
    def opened(cls, event: Opened) -> Computed:
        return cls(id=event.id, weight=1, is_heavy=False)

    @classmethod
    @start
    def reopened(cls, event: Reopened) -> Computed:
        return cls(id=event.id, weight=event.weight, is_heavy=event.weight > 0)

    @step
    def weigh(self) -> Ask | None:
        self.at = now().isoformat()
        return Ask(self.id) if self.is_heavy else None

    @weigh.on
    def weighed(self, reply: Ready) -> Goto | None:
        return None if reply.is_ready else Goto(self.pay)

    @step(retry=PATIENT)
    def take(self) -> Take:
        return Take(self.id)

    @take.failed
    def silent(self, failure: Failure) -> None: ...

    @take.refused
    def full(self, refusal: Full) -> Goto:
        return Goto(self.pay)

    @take.compensate
    def give_back(self) -> GiveBack:
        return GiveBack(self.id)

    @step(timeout=hours(1))
    def pay(self) -> Pay:
        return Pay(self.id)

    @pay.compensate
    def pay_back(self) -> PayBack:
        return PayBack(self.id)


class Family(Saga, key="id", starts=Opened):
    """Three children at once, then one more; it goes on without those that say no."""

    id: str
    names: tuple[str, ...] = ()

    @step
    def disks(self) -> list[Child[Disk]]:
        return [Child(Disk, DiskWanted(size)) for size in (1, 2, 3)]

    @disks.on
    def made(self, end: Disk) -> None:
        self.names = (*self.names, end.name)

    @disks.refused
    def unmade(self, refusal: Unwound) -> None: ...

    @step
    def spare(self) -> Child[Disk]:
        return Child(Disk, DiskWanted(9))

    @step(undo=None)
    def pay(self) -> Pay:
        return Pay(self.id)


class ThreeSteps(Saga, key="id", starts=Opened):
    """Three steps in a row, each with its undo."""

    id: str

    @step
    def a(self) -> Take:
        return Take(self.id, "a")

    @a.compensate
    def un_a(self) -> GiveBack:
        return GiveBack(self.id, "a")

    @step
    def b(self) -> Take:
        return Take(self.id, "b")

    @b.compensate
    def un_b(self) -> GiveBack:
        return GiveBack(self.id, "b")

    @step
    def c(self) -> Take:
        return Take(self.id, "c")

    @c.compensate
    def un_c(self) -> GiveBack:
        return GiveBack(self.id, "c")


class FiveSteps(ThreeSteps, key="id", starts=Opened, deadline=days(3)):
    """Five in a row, the fourth the pivot; a wait; a cancel."""

    receipt: str = ""

    @step
    def signature(self) -> Wait:
        return Wait(days(1))

    @signature.on
    def noted(self, event: Noted) -> None: ...

    @step(pivot=True, retry=PATIENT)
    def pay(self) -> Pay:
        return Pay(self.id)

    @pay.compensate
    def pay_back(self) -> PayBack:
        return PayBack(self.id)

    @pay.on
    def paid(self, reply: Paid) -> None:
        self.receipt = reply.receipt

    @step(retry=PATIENT)
    def tell(self) -> Ask:
        return Ask(self.id)

    @on
    def withdrawn(self, event: Withdrawn) -> Compensate:
        return Compensate("withdrawn")


class FourBranches(Saga, key="id", starts=Opened):
    """Four branches at once, one of them of two steps, and a join."""

    id: str

    @step
    def a(self) -> Take:
        return Take(self.id, "a")

    @a.compensate
    def un_a(self) -> GiveBack:
        return GiveBack(self.id, "a")

    @step(after=())
    def b(self) -> Take:
        return Take(self.id, "b")

    @b.compensate
    def un_b(self) -> GiveBack:
        return GiveBack(self.id, "b")

    @step(after=())
    def c(self) -> Take:
        return Take(self.id, "c")

    @c.compensate
    def un_c(self) -> GiveBack:
        return GiveBack(self.id, "c")

    @step(after=())
    def d(self) -> Take:
        return Take(self.id, "d")

    @d.compensate
    def un_d(self) -> GiveBack:
        return GiveBack(self.id, "d")

    @step(after=(a, b, c, d))
    def join(self) -> Pay:
        return Pay(self.id)

    @join.compensate
    def pay_back(self) -> PayBack:
        return PayBack(self.id)


class Eight(Saga, key="id", starts=Opened):
    """Eight at once; those that are full are done without."""

    id: str
    numbers: tuple[str, ...] = ()

    @step
    def take(self) -> list[Take]:
        return [Take(self.id, str(number)) for number in range(8)]

    @take.on
    def taken(self, reply: Taken) -> None:
        self.numbers = (*self.numbers, reply.number)

    @take.refused
    def full(self, refusal: Full) -> None: ...

    @take.compensate
    def give_back(self, command: Take) -> GiveBack:
        return GiveBack(self.id, command.what)

    @step(undo=None)
    def pay(self) -> Pay:
        return Pay(self.id)


class EightNamed(Saga, key="id", starts=Opened):
    """The same, and a handler is told which it was."""

    id: str
    missing: tuple[str, ...] = ()

    @step(at_once=3)
    def take(self) -> list[Take]:
        return [Take(self.id, str(number)) for number in range(8)]

    @take.refused
    def full(self, refusal: Full, command: Take) -> None:
        self.missing = (*self.missing, command.what)

    @take.compensate
    def give_back(self, command: Take) -> GiveBack | None:
        return GiveBack(self.id, command.what)

    @step(undo=None)
    def pay(self) -> Pay:
        return Pay(self.id)


class Counted(Saga, key="id", starts=Opened):
    """Counts without end, and its decisions look at more than how far it came."""

    id: str
    asked: int = 0

    @step
    def ask(self) -> Ask:
        self.asked += 1
        return Ask(self.id)

    @ask.on
    def answered(self, reply: Ready) -> Goto | None:
        return None if reply.is_ready and self.asked % 2 else Goto(self.ask)


class Packed(Saga, key="id", starts=Opened):
    """Until its child has answered, the compensation has nothing to undo: a child under way is unwound all the same."""

    id: str
    disk: str = ""

    @step
    def make(self) -> Child[Disk]:
        return Child(Disk, DiskWanted(10))

    @make.on
    def made(self, end: Disk) -> None:
        self.disk = end.name

    @make.compensate
    def give_back(self) -> GiveBack | None:
        return GiveBack(self.id, self.disk) if self.disk else None

    @step(undo=None)
    def take(self) -> Take:
        return Take(self.id)
