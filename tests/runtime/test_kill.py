"""kill -9 at any moment: what was acknowledged is there, every order ends, the books are right."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.machine import fold
from orchestrator.ports import MAX_PAGE, Find
from orchestrator.saga import definition_of
from orchestrator_adapters.sqlite import SQLiteStore

from .shop import OrderFulfilment
from .victim import ORDERS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def run(directory: Path, seconds: float | None) -> int:
    """The exit code; a negative one if it was killed, after so many seconds."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "adapters"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.runtime.victim", str(directory)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
    )
    try:
        return process.wait(seconds if seconds is not None else 120)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return process.wait()


@pytest.mark.anyio
async def test_every_order_ends_and_the_books_are_right(tmp_path: Path) -> None:
    rng = random.Random(7)
    began = time.monotonic()
    start_up = _start_up()
    killed = 0
    for _ in range(12):
        if run(tmp_path, start_up * rng.uniform(0.6, 1.6)) == 0:
            break
        killed += 1
    assert run(tmp_path, None) == 0
    assert killed > 3, f"{killed} killed within {time.monotonic() - began:.0f} s"

    async with SQLiteStore(tmp_path / "orders.db", read_only=True) as store:
        instances = (await store.find(Find(limit=MAX_PAGE))).items
        counts = await store.counts(time.time())
        assert (len(instances), counts.outbox, counts.dead, counts.parked) == (ORDERS, 0, 0, 0)
        for instance in instances:
            entries = await store.history(instance.address)
            assert [entry.version for entry in entries] == list(range(1, len(entries) + 1))
            assert fold(definition_of(OrderFulfilment), entries) == instance
    completed = {instance.key for instance in instances if instance.status == "completed"}
    assert {instance.key for instance in instances} - completed == {str(n) for n in range(10, ORDERS + 1, 10)}
    books = sqlite3.connect(tmp_path / "world.db")
    for table in ("reserved", "charged", "shipped", "told"):
        assert {key for (key,) in books.execute(f"SELECT order_id FROM {table}")} == completed, table
    books.close()


def _start_up() -> float:
    """Seconds until a program of this kind does something, on this machine at present."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import tests.runtime.victim"], cwd=ROOT, check=False)
    return time.monotonic() - began + 0.15
