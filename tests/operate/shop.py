"""A small shop whose instances fill the stores of these tests; `app` is what --app finds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import anyio

from orchestrator import Child, Command, Event, Refusal, Retry, Saga, Secret, Wait, days, step
from orchestrator.app import App
from orchestrator.machine import Transition
from orchestrator.testing import Dialogue, drive
from orchestrator_adapters.sqlite import SQLiteStore


class Placed(Event):
    order: str
    card: Secret[str] = Secret("4111-1111")
    lines: tuple[str, ...] = ("tea", "jam")


class Reserved(Event):
    pass


class SoldOut(Refusal):
    card: Secret[str] = Secret("")
    line: str = ""


class Charged(Event):
    pass


class Declined(Refusal):
    reason: str = ""


class Approved(Event):
    order: str


class Denied(Event):
    order: str


class Packed(Event):
    order: str


class Reserve(Command[Reserved, SoldOut]):
    line: str


class Release(Command):
    line: str


class Charge(Command[Charged, Declined]):
    card: Secret[str]


class Ship(Command):
    order: str


class PackWanted(Event):
    order: str


class Pack(Saga, key="order", starts=PackWanted):
    """A child that waits to be packed."""

    order: str

    @step
    def packing(self) -> Wait:
        return Wait(60)


class Order(Saga, key="order", starts=Placed):
    """Reserve each line, have it approved, charge, pack in a child, ship."""

    order: str
    card: Secret[str]
    lines: tuple[str, ...]

    @step(at_once=1)
    def reserve(self) -> list[Reserve]:
        return [Reserve(line) for line in self.lines]

    @reserve.compensate
    def release(self, command: Reserve) -> Release:
        return Release(command.line)

    @step
    def approval(self) -> Wait:
        return Wait(days(3))

    @approval.on
    def decided(self, event: Approved | Denied) -> None:
        if isinstance(event, Denied):
            raise KeyError("nobody thought of that")

    @step(retry=Retry(attempts=3, timeout=10, initial=4), pivot=True)
    def charge(self) -> Charge:
        return Charge(self.card)

    @step
    def pack(self) -> Child[Pack]:
        return Child(Pack, PackWanted(self.order))

    @step(retry=Retry(attempts=2, timeout=10, initial=1))
    def ship(self) -> Ship:
        return Ship(self.order)

    @step
    def tell(self) -> Packed:
        return Packed(self.order)


app = App("shop", sagas=[Order])


def placed(key: str = "1", **fields: object) -> Dialogue:
    return drive(Order, Placed(key, **fields))  # type: ignore[arg-type]


def reserving() -> Dialogue:
    return placed("reserving")


def waiting() -> Dialogue:
    return placed("waiting").expect(Reserve("tea")).answer(Reserved()).expect(Reserve("jam")).answer(Reserved())


def charging(key: str = "charging") -> Dialogue:
    begun = placed(key).expect(Reserve("tea")).answer(Reserved()).expect(Reserve("jam")).answer(Reserved())
    return begun.tell(Approved(key))


def backing_off() -> Dialogue:
    return charging("backing-off").expect(Charge(Secret("4111-1111"))).fail("gateway timeout", once=True)


def undoing() -> Dialogue:
    return charging("undoing").expect(Charge(Secret("4111-1111"))).answer(Declined("limit"))


def undone() -> Dialogue:
    t = charging("undone").expect(Charge(Secret("4111-1111"))).answer(Declined("limit"))
    return t.expect(Release("tea")).done().expect(Release("jam")).done().ends("compensated")


def with_child() -> Dialogue:
    return charging("with-child").expect(Charge(Secret("4111-1111"))).answer(Charged())


def shipping(key: str) -> Dialogue:
    t = charging(key).expect(Charge(Secret("4111-1111"))).answer(Charged())
    return t.answer(Pack(order="x"))


def parked() -> Dialogue:
    return shipping("parked").expect(Ship("parked")).fail("no driver\x1b[31m today")


def completed() -> Dialogue:
    return shipping("completed").expect(Ship("completed")).done()


def bug() -> Dialogue:
    return waiting().tell(Denied("waiting"))


def paused() -> Dialogue:
    return placed("paused").verb("pause", why="stock taking").expect(Reserve("tea")).answer(Reserved())


def killed() -> Dialogue:
    return placed("killed").verb("kill", why="a test order")


def store(path: Path, dialogues: Iterable[Dialogue], *others: Transition) -> str:
    """A store with these instances and their history; its URL."""

    async def fill() -> None:
        async with SQLiteStore(path) as opened:
            for dialogue in dialogues:
                for transition in dialogue.history:
                    await opened.commit([transition])
            if others:
                await opened.commit(others)

    anyio.run(fill)
    return f"sqlite:///{path}"
