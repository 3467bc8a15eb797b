"""Read models: `python -m tests.benchmarks projections [--events N] [--seconds S]`.

How many events a second a projection takes when it catches up, how long after an append its rows can be read, and what
sagas lose while one is built anew. The events are those of the BPI Challenge 2012 where the file is at hand, else as
many of the same kinds, made up.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import anyio

from orchestrator import App, Event, Orchestrator, Projection, project
from orchestrator_adapters.sqlite import SQLiteStore
from tests.benchmarks.peers import orchestrator_sqlite as orders
from tests.benchmarks.peers.measuring import Load, Options, drive
from tests.proof.projections import applications
from tests.proof.projections.applications import ApplicationSubmitted, Funnel, Progress

AT_ONCE = 2_000  # events appended at a time
LIVE = 500
MIB = 1024 * 1024

T = TypeVar("T")
Row = list[str]


class Nothing(Projection):
    """Every event, and no row: what reading and handing over cost by themselves."""

    tables = "CREATE TABLE empty (n INTEGER) STRICT"

    @project
    def moved(
        self,
        event: ApplicationSubmitted
        | applications.ApplicationAccepted
        | applications.OfferSent
        | applications.ApplicationActivated
        | applications.ApplicationDeclined
        | applications.ApplicationCancelled
        | applications.ActivityRecorded,
    ) -> None:
        pass


def main(argv: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks projections", description=__doc__)
    parser.add_argument("--events", type=int, default=applications.EVENTS, help="in the log")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load of sagas")
    parser.add_argument("--dir", type=Path, help="the disk to measure on; default: the temporary directory's")
    arguments = parser.parse_args(argv)
    with TemporaryDirectory(dir=arguments.dir) as directory:
        path = Path(directory) / "log.db"
        number = _alone(_fill, path, arguments.events)
        for title, rows in (
            (f"catching up with {number:,} events", _catching_up(path, number)),
            ("from an append until its rows can be read", _living(path)),
            ("order sagas, alone and while projections are built anew without end", _beside(path, arguments.seconds)),
        ):
            print(f"\n{title}", flush=True)
            for row in rows:
                print("  ".join(cell.rjust(13) for cell in row), flush=True)


def _alone(function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """What it returns in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, function, arguments).result()


def _run(function: Callable[..., Awaitable[T]], arguments: tuple[Any, ...]) -> T:
    return anyio.run(partial(function, *arguments))


async def _fill(path: Path, number: int) -> int:
    async with SQLiteStore(path) as store:
        pieces = applications.stretches(AT_ONCE, number) if applications.DATA.exists() else _made_up(number)
        for piece in pieces:
            async with anyio.create_task_group() as appending:
                for stream, events in piece:
                    appending.start_soon(store.append, stream, events)
        return await store.last_position()


def _made_up(number: int) -> Iterator[list[tuple[str, list[Event]]]]:
    """Twenty events an application, one of them a submission, as in the file."""
    numbers = iter(range(number))
    while piece := list(islice(numbers, AT_ONCE)):
        yield [(str(each // 20), [_event(each)]) for each in piece]


def _event(number: int) -> Event:
    common = {"application_id": str(number // 20), "at": f"2011-{1 + number % 12:02}-01T00:00:00+01:00"}
    if number % 20 == 0:
        return ApplicationSubmitted(**common, amount=1000)
    return applications.ActivityRecorded(**common, resource="112", activity="W_Valideren", lifecycle="start")


def _catching_up(path: Path, number: int) -> Iterator[Row]:
    yield ["projection", "handled", "s", "log events/s", "handled/s", "grown MiB"]
    for projection in (Nothing, Funnel, Progress):
        yield [projection.__name__, *_alone(_catch_up, path, number, projection)]


async def _catch_up(path: Path, number: int, projection: type[Projection]) -> Row:
    """From an empty table to the head of the log."""
    async with Orchestrator(App("loans", projections=[projection]), SQLiteStore(path)) as orchestrator:
        model = orchestrator.projection(projection)
        await model.reached(number)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        await model.rebuild()
        seconds = time.perf_counter() - began
        seen = await model.look()
        assert seen.current is not None
        assert seen.current.bookmark.position == number
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        handled = seen.current.bookmark.applied
    return [f"{handled:,}", f"{seconds:.2f}", f"{number / seconds:,.0f}", f"{handled / seconds:,.0f}", f"{grown:.0f}"]


def _living(path: Path) -> Iterator[Row]:
    yield ["appends", "p50 ms", "p99 ms"]
    yield _alone(_live, path)


async def _live(path: Path) -> Row:
    times: list[float] = []
    async with Orchestrator(App("loans", projections=[Progress]), SQLiteStore(path)) as orchestrator:
        model = orchestrator.projection(Progress)
        for number in range(LIVE):
            appended = await orchestrator.events.append("live", _event(number))
            began = time.perf_counter()
            await model.reached(appended)
            times.append(1000 * (time.perf_counter() - began))
    times.sort()
    return [f"{LIVE}", f"{times[LIVE // 2]:.2f}", f"{times[LIVE * 99 // 100]:.2f}"]


def _beside(path: Path, seconds: float) -> Iterator[Row]:
    yield ["in flight", "", "sagas/s", "p50 ms", "p99 ms", "built events/s"]
    for in_flight in (1, 32, 256):
        for is_building in (False, True):
            figures = _alone(_orders, path, seconds, in_flight, is_building)
            yield [str(in_flight), "building" if is_building else "alone", *figures]


async def _orders(path: Path, seconds: float, in_flight: int, is_building: bool) -> Row:
    app = App(
        "orders",
        sagas=[orders.Order],
        participants=[orders.reserve_stock, orders.release_stock, orders.pay, orders.ship],
        projections=[Progress],
    )
    async with Orchestrator(app, SQLiteStore(path)) as orchestrator:
        model = orchestrator.projection(Progress)
        await orchestrator.until_idle()
        tag = f"{time.time_ns()}"  # the store has orders of the loads before

        async def order(number: int) -> None:
            run = await orchestrator.start(orders.OrderPlaced(f"{tag}-{number}", number))
            await run.end()

        built = 0.0

        async def build() -> None:
            nonlocal built
            while True:
                await model.rebuild()
                built += 1

        load = Load(Options(warm=20, sagas=0, seconds=seconds, in_flight=in_flight))
        async with anyio.create_task_group() as tasks:
            if is_building:
                tasks.start_soon(build)
            began = time.perf_counter()
            await drive(order, load, in_flight)
            seconds = time.perf_counter() - began
            seen = await model.look()
            tasks.cancel_scope.cancel()
        figures = load.figures()
    begun = seen.building.bookmark.position if seen.building is not None else 0
    total = seen.current.bookmark.position if seen.current is not None else 0
    rate = (built * total + begun) / seconds
    return [
        f"{figures['sagas'] / figures['wall_s']:,.0f}",
        f"{figures['p50_ms']:,.1f}",
        f"{figures['p99_ms']:,.1f}",
        f"{rate:,.0f}" if is_building else "",
    ]
