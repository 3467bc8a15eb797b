"""The thread and the transactions of a connection: one hop each, nothing left behind."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest

from orchestrator.errors import StoreUnavailable
from orchestrator.testing.store_conformance import made, moved
from orchestrator_adapters.sqlite import SQLiteStore
from orchestrator_adapters.sqlite.connection import Database, TxConnection

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if "connection_worker" in thread.name:  # told to end when its connection was closed, it may not have yet
            thread.join(5)
            assert not thread.is_alive()


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=TxConnection)


async def test_a_function_is_one_transaction(tmp_path: Path) -> None:
    database = await Database.open(partial(connect, tmp_path / "x.db"))
    try:
        await database.run(lambda c: c.execute("CREATE TABLE t (x)"))
        with pytest.raises(ZeroDivisionError):
            await database.run(lambda c: (c.execute("INSERT INTO t VALUES (1)"), 1 / 0))
        assert await database.run(lambda c: c.execute("SELECT count(*) FROM t").fetchone()[0]) == 0
        await database.run(lambda c: c.execute("INSERT INTO t VALUES (2)"))
        assert await database.run(lambda c: c.execute("SELECT x FROM t").fetchall()) == [(2,)]
    finally:
        await database.close()


async def test_tasks_do_not_interleave_within_a_transaction(tmp_path: Path) -> None:
    database = await Database.open(partial(connect, tmp_path / "x.db"))
    log: list[str] = []

    def work(name: str, connection: sqlite3.Connection) -> None:
        for part in range(3):
            log.append(f"{name}{part}")
            connection.execute("SELECT 1").fetchone()

    try:
        async with anyio.create_task_group() as tasks:
            for name in "abc":
                tasks.start_soon(database.run, partial(work, name))
    finally:
        await database.close()
    assert log == ["a0", "a1", "a2", "b0", "b1", "b2", "c0", "c1", "c2"]


async def test_a_cancelled_caller_leaves_no_transaction_open(tmp_path: Path) -> None:
    database = await Database.open(partial(connect, tmp_path / "x.db"))
    inside, go_on = threading.Event(), threading.Event()

    def work(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE t (x)")
        inside.set()
        go_on.wait(10)

    try:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(database.run, work)
                await anyio.to_thread.run_sync(inside.wait, 10)
                scope.cancel()
        go_on.set()
        assert await database.run(lambda c: c.execute("SELECT count(*) FROM t").fetchone()[0]) == 0
    finally:
        await database.close()


async def test_a_commit_is_not_cut_short(tmp_path: Path) -> None:
    results: list[object] = []

    async def commit(store: SQLiteStore) -> None:
        results.extend(await store.commit([moved(made())]))

    async with SQLiteStore(tmp_path / "shop.db") as store:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(commit, store)
                await anyio.lowlevel.checkpoint()
                scope.cancel()
        assert len(results) == 1
        assert await store.load([made().address]) == [made()]


async def test_opening_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fails() -> sqlite3.Connection:
        raise sqlite3.OperationalError("no")

    for _ in range(3):
        with pytest.raises(sqlite3.OperationalError):
            await Database.open(fails)


def test_opening_that_fails_does_not_outlive_the_loop() -> None:
    def fails() -> sqlite3.Connection:
        time.sleep(0.01)
        raise sqlite3.OperationalError("no")

    with pytest.raises(sqlite3.OperationalError):
        asyncio.run(Database.open(fails))


def test_opening_that_is_cancelled_from_outside_leaves_nothing(tmp_path: Path) -> None:
    opened: list[sqlite3.Connection] = []
    inside = threading.Event()

    def slow() -> sqlite3.Connection:
        inside.set()
        time.sleep(0.05)
        opened.append(connect(tmp_path / "x.db"))
        return opened[0]

    async def main() -> None:
        task = asyncio.create_task(Database.open(slow))
        await asyncio.to_thread(inside.wait, 10)
        task.cancel()  # asyncio's own way, which no shield stops
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


async def test_closing_while_cancelled_closes(tmp_path: Path) -> None:
    with anyio.CancelScope() as scope:
        async with SQLiteStore(tmp_path / "shop.db") as store:
            scope.cancel()
            await anyio.sleep_forever()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.next_wake()
    async with SQLiteStore(tmp_path / "shop.db"):
        pass


async def test_using_a_closed_connection_is_said(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "shop.db") as store:
        assert store._reader
        await store._reader.close()
        with pytest.raises(StoreUnavailable, match="not open"):
            await store.next_wake()
