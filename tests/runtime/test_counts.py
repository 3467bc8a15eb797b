"""What an order costs, counted and not timed, so that a slower road is noticed without a clock.

Whoever changes the road writes the new numbers here; one that grew wants a reason.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import msgspec
import pytest

from orchestrator import Orchestrator, Status
from orchestrator_adapters.sqlite import SQLiteStore
from tests.benchmarks.peers.orchestrator_sqlite import OrderPlaced, app
from tests.benchmarks.recording import Recording, recorded, writer

# Of one order, alone: completed (reserve, pay, ship), and compensated (reserve, pay says no, release).
#   commits, statements    transactions, and statements that write
#   reads                  statements that look, on any connection
#   rows                   inserted, changed and deleted
#   bytes                  texts and blobs handed to SQLite to be written; how well zlib packs them is its own affair
#   encodes, decodes       how often JSON is written and read
#   tasks                  begun in the event loop
EXPECTED = {
    "completed": {
        "commits": 4,
        "statements": 18,
        "reads": 7,
        "rows": 21,
        "bytes": 2785,
        "encodes": 31,
        "decodes": 19,
        "tasks": 0,
    },
    "compensated": {
        "commits": 4,
        "statements": 18,
        "reads": 7,
        "rows": 21,
        "bytes": 2972,
        "encodes": 29,
        "decodes": 18,
        "tasks": 0,
    },
}
ROUGHLY = {"bytes": 0.05}
WARM = 3
ORDERS = 10
CODERS = (msgspec.json.Encoder, msgspec.json.Decoder)
FUNCTIONS = (msgspec.json.encode, msgspec.json.decode)


class StoppedClock:
    """Times of one length, so that bytes can be counted."""

    def now(self) -> float:
        return 1_700_000_000.5

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("outcome", EXPECTED)
async def test_an_order_costs_what_it_did(outcome: str, tmp_path: Path) -> None:
    """Per order, of ten that come one after another."""
    numbers = [number for number in range(100, 1_000) if (number % 10 == 0) == (outcome == "compensated")]
    with recorded() as connections, counted_codings() as codings, counted_tasks() as tasks:
        async with Orchestrator(app, SQLiteStore(tmp_path / "orders.db"), clock=StoppedClock()) as orchestrator:

            def counts() -> Counter[str]:
                return said(connections) + Counter(codings) + Counter(tasks)

            for number in numbers[:WARM]:
                await play(orchestrator, number, outcome)
            await orchestrator.until_idle()
            before = counts()
            for number in numbers[WARM : WARM + ORDERS]:
                await play(orchestrator, number, outcome)
            after = counts()
    each = {name: (after[name] - before[name]) / ORDERS for name in EXPECTED[outcome]}
    wrong = [
        f"{name} {expected}, now {each[name]:g}"
        for name, expected in EXPECTED[outcome].items()
        if abs(each[name] - expected) > ROUGHLY.get(name, 0.0) * expected
    ]
    assert not wrong, f"a {outcome} order costs other than it did: " + "; ".join(wrong)


async def play(orchestrator: Orchestrator, number: int, outcome: str) -> None:
    run = await orchestrator.start(OrderPlaced(str(number), number), id=f"placed-{number}")
    assert (await run.end()).status is Status(outcome)


def said(connections: list[Recording]) -> Counter[str]:
    writing = writer(connections)
    writes = [one for one in writing.said if one.writes]
    return Counter(
        commits=sum(one.verb == "COMMIT" for one in writing.said),
        statements=len(writes),
        reads=sum(one.verb in ("SELECT", "WITH") for each in connections for one in each.said),
        rows=writing.total_changes,
        bytes=sum(one.bytes for one in writes),
    )


@contextmanager
def counted_codings() -> Iterator[list[str]]:
    """JSON that msgspec writes and reads, in this thread and those that are begun meanwhile."""
    found: list[str] = []

    def called(_frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call":
            owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
            if name in ("encode", "decode") and (isinstance(owner, CODERS) or function in FUNCTIONS):
                found.append(f"{name}s")

    threading.setprofile(called)
    sys.setprofile(called)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@contextmanager
def counted_tasks() -> Iterator[list[str]]:
    found: list[str] = []
    loop = asyncio.get_running_loop()
    usual = loop.get_task_factory()

    def make(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **more: Any) -> Any:
        found.append("tasks")
        return usual(loop, coroutine, **more) if usual else asyncio.Task(coroutine, loop=loop, **more)

    loop.set_task_factory(make)
    try:
        yield found
    finally:
        loop.set_task_factory(usual)
