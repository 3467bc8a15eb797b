"""One event a commit at the end of a stream, here: the SQLite store as it is shipped, without an engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.util import find_spec

import anyio

from orchestrator import App, Event, EventLog, Orchestrator, open_store
from tests.benchmarks.peers.measuring import Load, Options, checkpoint, drive, options

EVENTS = 20  # of a stream, about as many as a process in an office has


class Completed(Event):
    activity: str
    resource: str
    amount: int


def appending(log: EventLog) -> Callable[[int], Awaitable[object]]:
    """Each stream grows to EVENTS events, each of which expects the one before."""
    ready: list[tuple[int, int]] = []
    streams = iter(range(10**9))

    async def append(number: int) -> None:
        stream, version = ready.pop() if ready else (next(streams), 0)
        event = Completed("W_Completeren aanvraag", f"r-{number % 69}", number)
        await log.append(f"application-{stream}", event, expected_version=version)
        if version + 1 < EVENTS:
            ready.append((stream, version + 1))

    return append


async def run(options: Options) -> None:
    path = options.dir / "events.db"
    async with open_store(f"sqlite:///{path}") as store:
        load = Load(options)
        await drive(appending(store), load, options.in_flight)
        load.report()
    checkpoint(path)


async def run_engine(options: Options) -> None:
    """The same through a running engine."""
    path = options.dir / "events.db"
    async with Orchestrator(App("events"), f"sqlite:///{path}") as orchestrator:
        load = Load(options)
        await drive(appending(orchestrator.events), load, options.in_flight)
        load.report(commits=orchestrator.stats().commits)
    checkpoint(path)


if __name__ == "__main__":
    anyio.run(run, options(), backend_options={"use_uvloop": find_spec("uvloop") is not None})
