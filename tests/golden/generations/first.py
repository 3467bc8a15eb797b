"""The first generation: nothing has an older version."""

from __future__ import annotations

from dataclasses import dataclass

import anyio

from orchestrator import (
    Aggregate,
    App,
    Call,
    Command,
    Event,
    EventLog,
    Refusal,
    Repository,
    Retry,
    Saga,
    Secret,
    Wait,
    apply,
    days,
    participant,
    step,
)

LATER_S = 10_000.0


@dataclass(frozen=True)
class Line:
    product: str
    units: int


class Placed(Event, type="golden.placed"):
    order: str
    amount: int
    card: Secret[str]
    lines: tuple[Line, ...] = ()


class Approved(Event, type="golden.approved"):
    order: str


class Fulfilled(Event, type="golden.fulfilled"):
    order: str


class Reserved(Event, type="golden.reserved"):
    place: str


class SoldOut(Refusal):
    product: str


class Reserve(Command[Reserved, SoldOut]):
    order: str
    units: int


class Release(Command):
    order: str


class Charge(Command):
    order: str
    amount: int


class Refund(Command):
    order: str


class Order(Saga, key="order", starts=Placed):
    order: str
    amount: int
    card: Secret[str]
    place: str = ""

    @step
    def reserve(self) -> Reserve:
        return Reserve(self.order, self.amount)

    @reserve.on
    def reserved(self, reply: Reserved) -> None:
        self.place = reply.place

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order)

    @step(retry=Retry(attempts=3, initial=LATER_S))
    def charge(self) -> Charge:
        return Charge(self.order, self.amount)

    @charge.compensate
    def refund(self) -> Refund:
        return Refund(self.order)

    @step
    def approval(self) -> Wait:
        return Wait(days(3))

    @approval.on
    def approved(self, event: Approved) -> None: ...

    @step
    def tell(self) -> Fulfilled:
        return Fulfilled(self.order)


class Deposited(Event, type="golden.deposited"):
    amount: int


class Spent(Event, type="golden.spent"):
    amount: int


class Purse(Aggregate):
    amount: int = 0

    @apply
    def deposited(self, event: Deposited) -> None:
        self.amount += event.amount

    @apply
    def spent(self, event: Spent) -> None:
        self.amount -= event.amount


@participant
async def reserve(command: Reserve, call: Call) -> Reserved | SoldOut:
    if command.order == "asked" and call.attempt == 1:
        await anyio.sleep(LATER_S)
    return SoldOut("tea") if command.order == "refused" else Reserved("shelf 3")


@participant
async def charge(command: Charge, call: Call) -> None:
    if command.order == "retried" and call.attempt == 1:
        raise ConnectionError("the bank is away")


@participant
async def undo(command: Release | Refund, call: Call) -> None: ...


app = App("golden", sagas=[Order], participants=[reserve, charge, undo])

EVENTS: list[Event] = [
    *(
        Placed(order, 20, Secret("4111"), (Line("tea", 2),))
        for order in ("done", "waits", "retried", "refused", "asked")
    ),
    Approved("done"),
    Approved("early"),
]
PAYLOADS = [*EVENTS, Fulfilled("done"), Reserve("1", 2), Charge("1", 20), SoldOut("tea"), Deposited(5), Spent(2)]


async def append(log: EventLog) -> None:
    """Two streams, one of them with snapshots."""
    for id, every in (("a", 0), ("b", 2)):
        purse = Repository(Purse, log, snapshot_every=every)
        for event in (Deposited(5), Deposited(7), Spent(2)):
            await purse.update(id, lambda it, event=event: it.record(event), new=True)
