"""What is done to the store while the power fails: a real engine, its sagas in all their shapes, on virtual time."""

from __future__ import annotations

import asyncio
import logging
import os
import selectors
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import anyio
from msgspec import Raw

from orchestrator.app import App
from orchestrator.config import Limits
from orchestrator.errors import BadMessage
from orchestrator.machine.transition import Transition
from orchestrator.memory import MemoryBus
from orchestrator.messages import Done, Event, encode, type_name
from orchestrator.participant import Call, participant
from orchestrator.ports import BusMessage, Result
from orchestrator.runtime.engine import Engine
from orchestrator.wire import Address, Envelope, Kind, Request, Verb
from orchestrator_adapters.sqlite import SQLiteStore
from orchestrator_adapters.sqlite.connection import Database, TxConnection
from orchestrator_adapters.sqlite.errors import store_errors
from orchestrator_adapters.sqlite.schema import connect_writer
from tests.machine import cast as sagas
from tests.runtime import shop

from .disk import Disk
from .vfs import DiskVFS, Fault, no_fault, opener

T = TypeVar("T")

PATH = Path("/power/shop.db")
START = 1_700_000_000.0
HOUR = 3_600.0
BAD = b'{"specversion":"1.0","id":"x","source":"/t","type":"OrderPlaced","data":{"order_id":7}}'
LIMITS = Limits(retention_s=2 * HOUR, waiting_room_s=HOUR / 2, hot_instances=4)

State = dict[str, list[tuple[Any, ...]]]


def state(connection: Any) -> State:
    """Every row of every table."""
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in sorted(tables)}


class PoweredStore(SQLiteStore):
    """The store as it is, but on a disk that forgets, and without threads.

    `states`: what it held after it was opened and after each of its transactions. `groups`, `results`: its commits.
    """

    writes_again = True

    def __init__(self, disk: Disk, instead: Mapping[str, str] | None = None) -> None:
        super().__init__(PATH)
        self.disk = disk
        self.states: list[State] = []
        self.groups: list[list[Transition]] = []
        self.results: list[list[Result]] = []
        self.connection: TxConnection
        self._instead = instead
        self.fault: Fault = no_fault
        self._seen = 0
        self.is_killed = False
        self.is_watched = True

    async def __aenter__(self) -> PoweredStore:
        if str(PATH) not in self.disk.names:
            self.disk.create(str(PATH))
        elif self.writes_again:
            self._write_again()
        self._vfs = DiskVFS(self.disk, self.fault)
        with store_errors(self.path):
            self.connection = connect_writer(self.path, opener(self._vfs, self._instead))
        self._writer = cast(Database, _Direct(self, self._acknowledged))
        self._reader = cast(Database, _Direct(self, lambda: None))
        self._lost = ""
        self._pid = os.getpid()
        if not self.states and self.is_watched:
            self.states.append(state(self.connection))
        return self

    def _write_again(self) -> None:
        """What `write_again` does to the log."""
        file = self.disk.names.get(f"{PATH}-wal")
        if file is not None and self.disk.bytes[file]:
            self.disk.write(file, 0, bytes(self.disk.bytes[file]))
            self.disk.sync(file, and_directory=True)

    async def __aexit__(self, *exc: object) -> None:
        if self.is_killed:
            self.is_killed, self._vfs.fault = False, lambda _act: "SQLITE_IOERR"  # the dead do not tidy up
        self.connection.close()
        self._writer = self._reader = None

    async def commit(self, transitions: Sequence[Transition]) -> list[Result]:
        results = await super().commit(transitions)
        self.groups.append(list(transitions))
        self.results.append(results)
        return results

    def _acknowledged(self) -> None:
        if not self.is_watched:
            return
        is_changed = len(self.disk.log) != self._seen
        self._seen = len(self.disk.log)
        self.states.append(state(self.connection) if is_changed else self.states[-1])
        self.disk.acked = len(self.states) - 1


class _Direct:
    """A Database without a thread."""

    def __init__(self, store: PoweredStore, done: Callable[[], None]) -> None:
        self._store = store
        self._done = done

    async def run(self, work: Callable[[Any], T]) -> T:
        for _ in range(5):  # others come between, as they do while a thread works
            await anyio.lowlevel.checkpoint()
        value = cast(T, self._store.connection.execute(work).fetchall())
        self._done()
        return value


@participant
async def do_all(
    command: sagas.Reserve | sagas.Release | sagas.Charge | sagas.Refund, call: Call[shop.World]
) -> sagas.Reserved | sagas.SoldOut | sagas.Charged | sagas.Declined | Done:
    name = type(command).__name__
    usual = {"Reserve": sagas.Reserved(), "Charge": sagas.Charged()}.get(name)
    return cast(Done, await call.resources.answer(f"{name} {command.order}", usual, command))


def app(world: shop.World) -> App[shop.World]:
    """Sagas of all shapes: linear with a pivot, waiting, restartable, with a child, fan-out, branches."""
    return App(
        "power",
        sagas=[
            shop.OrderFulfilment,
            shop.Napping,
            sagas.Again,
            sagas.Machine,
            sagas.Disk,
            sagas.FanOut,
            sagas.Branches,
        ],
        participants=[shop.carry_out, do_all],
        listeners=[shop.send_mail, shop.count],
        resources=world.open,
    )


async def work(store: PoweredStore) -> None:
    """Three incarnations on one store; the first is killed and leaves a log, the others are closed."""
    world, bus, clock = shop.World(), MemoryBus(), _Clock()
    async with Engine(app(world), store, bus, clock=clock, limits=LIMITS) as engine:
        await _first_day(engine, world, bus)
        store.is_killed = True
    async with Engine(app(world), store, bus, clock=clock, limits=LIMITS) as engine:
        await _later(engine, world)
    async with Engine(app(world), store, bus, clock=clock, limits=LIMITS) as engine:
        await _together(*[engine.accept(_event(sagas.Placed(f"z{n}", ("a",)), f"z{n}")) for n in range(2)])
        await engine.until_idle()


async def _first_day(engine: Engine, world: shop.World, bus: MemoryBus) -> None:
    await engine.accept(_event(shop.Approved("2")))  # before its instance: the waiting room
    await engine.accept(_event(shop.Approved("never")))
    await bus.publish([BusMessage("OrderPlaced", BAD)])
    world.will("ReserveStock", shop.OutOfStock(), RuntimeError("away"))
    world.will("ChargeCard", shop.CardDeclined())
    await _together(*[engine.accept(_event(shop.OrderPlaced(str(n)))) for n in range(4)])
    await engine.until_idle()
    world.will("Charge p0", sagas.Declined())
    world.will("Reserve p2", *[RuntimeError("no")] * 3)
    await _together(*[_append(engine, f"s{n % 2}", n) for n in range(6)])
    await _together(*[engine.accept(_event(sagas.Placed(f"p{n}"), f"placed {n}")) for n in range(3)])
    await engine.until_idle()
    await engine.accept(_event(sagas.Placed("p0"), "placed again"))  # a new run over an ended one
    await engine.accept(_event(sagas.Placed("p0"), "placed again"))
    for verb in (Verb.PAUSE, Verb.RESUME, Verb.CANCEL):
        await engine.verb(Address("Branches", "p2"), verb, Request(why="to see"), "me")
    await engine.until_idle()
    await anyio.sleep(1.2 * HOUR)  # what waited is overdue, in the waiting room too


async def _later(engine: Engine, world: shop.World) -> None:
    world.will("mail", RuntimeError("no mail"), RuntimeError("no mail"), RuntimeError("no mail"))
    await _together(*[_append(engine, f"s{n % 3}", n) for n in range(4, 9)])
    await _together(*[engine.accept(_event(shop.OrderPlaced(f"later {n}"))) for n in range(5)])
    await engine.until_idle()
    for letter in await engine.store.dead_letters():
        if letter.envelope is not None and not letter.raw:
            await engine.drop_dead([letter.id])
    await anyio.sleep(3 * HOUR)  # the first ones are forgotten
    await engine.accept(_event(shop.OrderPlaced("1"), "anew"))
    await engine.until_idle()


async def _append(engine: Engine, stream: str, number: int) -> None:
    """Some under a key that was used before, some published."""
    events = [sagas.Reserved(), shop.OrderFulfilled(f"appended {number}")]
    with suppress(BadMessage):  # the key of another stream
        await engine.events.append(stream, events[: 1 + number % 2], key=f"append {number}", publish=number % 3 == 0)


def _event(message: Event, id: str = "") -> Envelope:
    name = type_name(type(message))
    return Envelope(
        id=id or f"{name} {encode(message).decode()}", kind=Kind.EVENT, type=name, data=Raw(encode(message))
    )


async def _together(*calls: Awaitable[Any]) -> None:
    async def run(call: Awaitable[Any]) -> None:
        await call

    async with anyio.create_task_group() as tasks:
        for call in calls:
            tasks.start_soon(run, call)


class _Clock:
    def now(self) -> float:
        return START + anyio.current_time()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class _Selector(selectors.DefaultSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "all wait for what nobody does"
        self.loop.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes when all wait, and only then; there are no threads."""

    now = 0.0

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run(store: PoweredStore) -> None:
    """Do the work, to the end or until the store cannot."""
    logging.disable(logging.CRITICAL)  # what goes wrong in it is meant to
    try:
        anyio.run(work, store, backend_options={"loop_factory": VirtualLoop})
    finally:
        logging.disable(logging.NOTSET)
