"""With much in the store: `python -m tests.benchmarks growth [--quick] [--part NAME]`.

Every measurement is a process of its own; the store is filled before, through the Store port, by another.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import anyio
from msgspec import Raw, Struct
from msgspec.structs import replace

from orchestrator import App, Event, Find, Orchestrator, Saga, Stay, Wait, on, step
from orchestrator.definition import definition_of
from orchestrator.machine.instance import Status
from orchestrator.machine.react import react
from orchestrator.machine.transition import Transition
from orchestrator.messages import encode
from orchestrator.wire import Address, Envelope, Kind
from orchestrator_adapters.sqlite import SQLiteStore
from tests.benchmarks.peers import orchestrator_sqlite as orders
from tests.benchmarks.peers.measuring import Load, Options, drive, resident_bytes
from tests.benchmarks.running import ROOT
from tests.benchmarks.shapes import Letter, LetterWritten, print_letter, stamp

LONG_S = 10 * 365 * 86_400.0
GROUP = 1_000
MANY = 256
FEW = 32
MIB = 1024 * 1024
PATIENCE_S = 60.0

T = TypeVar("T")
Row = list[str]


class AccountOpened(Event):
    account: str
    wait_s: float


class Deposited(Event):
    account: str
    amount: int


class Account(Saga, key="account", starts=AccountOpened):
    """Waits, and counts what is deposited meanwhile."""

    account: str
    wait_s: float
    balance: int = 0

    @step
    def stands(self) -> Wait:
        return Wait(self.wait_s)

    @on
    def deposited(self, event: Deposited) -> Stay:
        self.balance += event.amount
        return Stay()


app = App(
    "growth",
    sagas=[orders.Order, Account, Letter],
    participants=[orders.reserve_stock, orders.release_stock, orders.pay, orders.ship, print_letter, stamp],
)


class Sizes(Struct, frozen=True, kw_only=True):
    """How much of everything."""

    instances: tuple[int, ...] = (0, 100_000, 1_000_000)
    histories: tuple[int, ...] = (10, 1_000, 100_000)
    payloads: tuple[int, ...] = (300, 3_000, 30_000)
    hot: int = 5_000
    timers: int = 100_000
    seconds: float = 5.0


QUICK = Sizes(instances=(0, 5_000), histories=(10, 1_000), payloads=(300, 3_000), hot=500, timers=2_000, seconds=1.0)


def main(argv: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--part", choices=PARTS, action="append", help="only these; default: all")
    parser.add_argument("--dir", type=Path, help="the disk to measure on; default: the temporary directory's")
    arguments = parser.parse_args(argv)
    sizes = QUICK if arguments.quick else Sizes()
    for name in arguments.part or PARTS:
        with TemporaryDirectory(dir=arguments.dir) as directory:
            print(f"\n{name}: {PARTS[name].__doc__}", flush=True)
            for row in PARTS[name](Path(directory), sizes):
                print("  ".join(cell.rjust(13) for cell in row), flush=True)


def _alone(function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """What it returns in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, function, arguments).result()


def _run(function: Callable[..., Awaitable[T]], arguments: tuple[Any, ...]) -> T:
    return anyio.run(partial(function, *arguments))


# --- many instances ---


def instances(directory: Path, sizes: Sizes) -> Iterator[Row]:
    """so many instances sleep in the store while the order saga runs, 256 in flight"""
    load = ("sagas/s", "p50 ms", "p99 ms", "CPU ms", "peak MiB")
    looks = ("status ms", "newest ms", "by key ms", "open ms", "prune ms", "status cold s")
    yield ["instances", "filled in s", "opened in s", *load, *looks]
    for number in sizes.instances:
        path = directory / f"{number}.db"
        began = time.perf_counter()
        _alone(_fill, path, number, LONG_S, time.time())
        filled = time.perf_counter() - began
        yield [f"{number:,}", f"{filled:.1f}", *_alone(_with_instances, path, sizes.seconds), f"{_status_s(path):.2f}"]
        path.unlink()


async def _fill(path: Path, number: int, wait_s: float, at: float) -> None:
    """That many accounts, of which none is like another, opened at a moment."""
    first = _opened("0", wait_s, at)
    assert first.instance is not None and first.message is not None
    async with SQLiteStore(path) as store:
        for keys in _groups((f"sleeper-{n}" for n in range(number)), GROUP):
            await store.commit(
                [
                    replace(
                        first,
                        instance=replace(first.instance, key=key, starter=key),
                        message=replace(first.message, id=key, key=key),
                    )
                    for key in keys
                ]
            )


def _opened(key: str, wait_s: float, at: float) -> Transition:
    event = AccountOpened(key, wait_s)
    return react(definition_of(Account), None, _envelope(event, key, key, at), at)


def _envelope(event: Event, id: str, key: str, at: float) -> Envelope:
    return Envelope(
        id=id, kind=Kind.EVENT, type=type(event).__name__, data=Raw(encode(event)), time=at, saga="Account", key=key
    )


def _groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group


async def _with_instances(path: Path, seconds: float) -> Row:
    began = time.perf_counter()
    async with Orchestrator(app, SQLiteStore(path)) as orchestrator:
        opened = time.perf_counter() - began
        load = _load(seconds, MANY)
        await drive(partial(_order, orchestrator), load, MANY)
        shown = _shown(load)
    async with SQLiteStore(path, read_only=True) as reader:
        looks = [
            await _median_ms(lambda: reader.counts(time.time())),
            await _median_ms(lambda: reader.find(Find())),
            await _median_ms(lambda: reader.find(Find(key="7"))),
            await _median_ms(lambda: reader.find(Find(saga="Account", status=Status.RUNNING, limit=100))),
        ]
    async with SQLiteStore(path) as store:
        looks.append(await _median_ms(lambda: store.prune(time.time(), time.time() - LONG_S)))
    return [f"{opened:.2f}", *shown, *(f"{look:.1f}" for look in looks)]


async def _order(orchestrator: Orchestrator, number: int) -> None:
    run = await orchestrator.start(orders.OrderPlaced(str(number), number))
    await run.end()


def _load(seconds: float, in_flight: int) -> Load:
    return Load(Options(warm=20, sagas=0, seconds=seconds, in_flight=in_flight))


def _shown(load: Load) -> Row:
    """sagas/s, p50 ms, p99 ms, CPU ms, peak MiB"""
    figures = load.figures()
    return [
        f"{figures['sagas'] / figures['wall_s']:,.0f}",
        f"{figures['p50_ms']:,.1f}",
        f"{figures['p99_ms']:,.1f}",
        f"{1000 * figures['cpu_s'] / figures['sagas']:.2f}",
        f"{figures['peak_bytes'] / MIB:.0f}",
    ]


async def _median_ms(look: Callable[[], Awaitable[object]]) -> float:
    times: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        await look()
        times.append(time.perf_counter() - began)
    return 1000 * sorted(times)[2]


def _status_s(path: Path) -> float:
    """How long `orchestrator status` takes from the start of its process."""
    command = [sys.executable, "-c", "from orchestrator.operate.cli import main; main()", "status"]
    began = time.perf_counter()
    subprocess.run(
        [*command, "--store", f"sqlite:///{path}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "adapters")},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - began


# --- long histories ---


def histories(directory: Path, sizes: Sizes) -> Iterator[Row]:
    """one instance has so many transitions behind it and handles events one after another"""
    yield ["rows", "filled in s", "first event ms", "events/s", "p50 ms", "p99 ms", "first page ms", "last page ms"]
    for number in sizes.histories:
        path = directory / f"{number}.db"
        began = time.perf_counter()
        _alone(_fill_history, path, number)
        yield [f"{number:,}", f"{time.perf_counter() - began:.1f}", *_alone(_with_history, path, number, sizes.seconds)]


async def _fill_history(path: Path, number: int) -> None:
    def transitions() -> Iterator[Transition]:
        at = time.time()
        latest = _opened("a", LONG_S, at)
        yield latest
        for n in range(number - 1):
            message = _envelope(Deposited("a", 1), f"d-{n}", "a", at)
            latest = react(definition_of(Account), latest.instance, message, at)
            yield latest

    async with SQLiteStore(path) as store:
        for group in _groups(transitions(), GROUP):
            await store.commit(group)


async def _with_history(path: Path, number: int, seconds: float) -> Row:
    address = Address("Account", "a")
    async with Orchestrator(app, SQLiteStore(path)) as orchestrator:
        began = time.perf_counter()
        await orchestrator.emit(Deposited("a", 1))
        first = time.perf_counter() - began
        load = _load(seconds, 1)
        await drive(lambda _: orchestrator.emit(Deposited("a", 1)), load, 1)
        shown = _shown(load)
    async with SQLiteStore(path, read_only=True) as reader:
        pages = [
            await _median_ms(lambda: reader.history(address)),
            await _median_ms(lambda: reader.history(address, max(0, number - 500))),
        ]
    return [f"{1000 * first:.1f}", *shown[:3], *(f"{page:.1f}" for page in pages)]


# --- big payloads ---


def payloads(directory: Path, sizes: Sizes) -> Iterator[Row]:
    """so many bytes in the event, the state and one of two commands of each saga, 256 in flight"""
    yield ["bytes", "sagas/s", "p50 ms", "p99 ms", "CPU ms", "peak MiB", "payload MB/s"]
    for number in sizes.payloads:
        row = _alone(_with_payload, directory / f"{number}.db", number, sizes.seconds)
        yield [f"{number:,}", *row, f"{float(row[0].replace(',', '')) * number / 1e6:.1f}"]


async def _with_payload(path: Path, size: int, seconds: float) -> Row:
    async with Orchestrator(app, SQLiteStore(path)) as orchestrator:

        async def letter(number: int) -> None:
            run = await orchestrator.start(LetterWritten(str(number), "x" * size))
            await run.end()

        load = _load(seconds, MANY)
        await drive(letter, load, MANY)
        return _shown(load)


# --- memory ---


def memory(directory: Path, sizes: Sizes) -> Iterator[Row]:
    """what is resident while orders go on and on, 256 in flight"""
    yield ["sagas so far", "resident MiB"]
    yield from _alone(_memory, directory / "orders.db", sizes.seconds * 6)


async def _memory(path: Path, seconds: float) -> list[Row]:
    rows: list[Row] = []
    done = count(1)
    began = time.perf_counter()
    async with Orchestrator(app, SQLiteStore(path)) as orchestrator:

        async def order(number: int) -> None:
            await _order(orchestrator, number)
            so_far = next(done)
            if time.perf_counter() - began > seconds * (len(rows) + 1) / 7:
                rows.append([f"{so_far:,}", f"{resident_bytes() / MIB:.1f}"])

        await drive(order, _load(seconds, MANY), MANY)
    return rows


# --- a hot key ---


def hot(directory: Path, sizes: Sizes) -> Iterator[Row]:
    """orders, 32 in flight, alone and beside an instance that gets events: from so many who send one after another, or
    a burst of so many at once"""
    yield ["events", "events/s to it", "sagas/s", "p50 ms", "p99 ms"]
    for number, senders in enumerate((0, 1, FEW)):
        yield [f"from {senders}", *_alone(_with_hot_key, directory / f"{number}.db", senders, 0, sizes.seconds)]
    yield [f"{sizes.hot:,} at once", *_alone(_with_hot_key, directory / "burst.db", sizes.hot, 1, sizes.seconds)]


async def _with_hot_key(path: Path, senders: int, each: int, seconds: float) -> Row:
    """`each`: how many events each of them sends; 0: without end."""
    handled = count()
    async with Orchestrator(app, SQLiteStore(path)) as orchestrator:
        await orchestrator.start(AccountOpened("hot", LONG_S))

        async def send() -> None:
            for _ in range(each) if each else count():
                await orchestrator.emit(Deposited("hot", 1))
                next(handled)

        load = Load(Options(warm=0, sagas=0, seconds=seconds, in_flight=FEW))
        began = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(senders):
                tasks.start_soon(send)
            with anyio.move_on_after(PATIENCE_S) as patience:
                await drive(partial(_order, orchestrator), load, FEW)
            rate = next(handled) / (time.perf_counter() - began)
            tasks.cancel_scope.cancel()
        if patience.cancelled_caught:
            return [f"{rate:,.0f}", "-", "-", f"over {PATIENCE_S * 1000:,.0f}"]
        return [f"{rate:,.0f}", *_shown(load)[:3]]


# --- overdue timers ---


def timers(directory: Path, sizes: Sizes) -> Iterator[Row]:
    """so many instances whose wait was over long ago when the engine starts, beside new orders, 32 in flight"""
    yield ["timers", "served in s", "timers/s", "sagas/s", "p50 ms", "p99 ms", "CPU ms", "peak MiB"]
    path = directory / "timers.db"
    _alone(_fill, path, sizes.timers, 60.0, time.time() - 86_400)
    yield [f"{sizes.timers:,}", *_alone(_with_timers, path, sizes.timers)]


async def _with_timers(path: Path, number: int) -> Row:
    began = time.perf_counter()
    served = 0.0
    async with Orchestrator(app, SQLiteStore(path)) as orchestrator, SQLiteStore(path, read_only=True) as reader:
        load = Load(Options(warm=0, sagas=0, seconds=LONG_S, in_flight=FEW))

        async def watch() -> None:
            nonlocal served
            while await reader.wakes(time.time(), 1):  # noqa: ASYNC110 the store tells nobody
                await anyio.sleep(0.1)
            served = time.perf_counter() - began
            load.stop()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await drive(partial(_order, orchestrator), load, FEW)
        shown = _shown(load)
    return [f"{served:.1f}", f"{number / served:,.0f}", *shown]


PARTS: dict[str, Callable[[Path, Sizes], Iterator[Row]]] = {
    part.__name__: part for part in (instances, histories, payloads, memory, hot, timers)
}
