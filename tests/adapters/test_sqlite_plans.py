"""The questions to a large store are answered from indexes."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.machine.instance import Status
from orchestrator.ports import Find
from orchestrator.testing.store_conformance import NOW, ended, made, moved, stored
from orchestrator_adapters.sqlite import SQLiteStore, commit, reading, schema, upkeep
from orchestrator_adapters.sqlite.bulk import with_rows

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def database(tmp_path: Path) -> Any:
    path = tmp_path / "shop.db"
    path.touch()
    connection = schema.connect_writer(path)
    yield connection
    connection.close()


def plan(connection: sqlite3.Connection, sql: str, parameters: Any = ()) -> list[str]:
    rows = connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
    return [detail for _, _, _, detail in rows]


def scanned(details: list[str]) -> list[str]:
    """What is read from end to end, other than an index that holds all that is asked, or our own list of rows."""
    harmless = (
        "COVERING INDEX",
        "VALUES",
        "asked",
        "new",
        "CONSTANT ROW",
        "SUBQUERY",
        "name",
        "(subquery",
        "pragma",
        "instance_retrying",
    )
    return [detail for detail in details if detail.startswith("SCAN") and not any(word in detail for word in harmless)]


def scanned_tables(details: list[str]) -> list[str]:
    return [detail for detail in scanned(details) if "instance" in detail or "history" in detail]


NOTHING_SORTED = [
    reading.WAKES,
    reading.NEXT_WAKE,
    reading.NEXT_DUE,
    reading.OLDEST_RETRY,
]


@pytest.mark.parametrize("sql", NOTHING_SORTED)
def test_the_next_in_line_is_found_by_its_index(database: sqlite3.Connection, sql: str) -> None:
    details = plan(database, sql, [1] * sql.count("?"))
    assert not scanned(details) and not any("TEMP B-TREE" in detail for detail in details), details


def test_due_rows_are_found_by_their_index(database: sqlite3.Connection) -> None:
    details = plan(database, reading.DUE, {"now": NOW, "after": 0, "limit": 5})
    assert any("outbox_due (due_at=? AND rowid>?)" in detail for detail in details)
    assert any("outbox_due (due_at>? AND due_at<?)" in detail or "outbox_due (due_at<?" in detail for detail in details)
    assert not [detail for detail in scanned(details) if "outbox" in detail], details


@pytest.mark.parametrize(
    "sql",
    [
        reading.BY_STATUS,
        reading.TOTALS,
        reading.SAGAS,
        reading.HISTORY,
        reading.SINCE,
        reading.STANDING,
        upkeep.PRUNABLE,
    ],
)
def test_people_and_housekeeping_read_indexes_only(database: sqlite3.Connection, sql: str) -> None:
    parameters: Any = {"instance": 1, "limit": 5, "after": 0} if ":instance" in sql else [1] * sql.count("?")
    assert not scanned_tables(plan(database, sql, parameters))


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        (commit.STORED_ALONE, 4),
        (commit.STORED, 4),
        (commit.SEEN, 2),
        (commit.WAITS, 3),
        (commit.WAITING, 3),
        (commit.MOVED, 8),
        (commit.CHANGED, 13),
    ],
)
def test_a_commit_finds_each_of_its_rows(database: sqlite3.Connection, sql: str, columns: int) -> None:
    many = with_rows(sql, 3, columns)
    details = plan(database, many, [1] * columns * (1 if many == sql else 3))
    tables = ("instance", "history", "seen", "waiting")
    assert any(detail.startswith("SEARCH") for detail in details)
    assert not [detail for detail in details if detail.startswith("SCAN") and detail.split()[1] in tables], details


async def test_find_reads_no_more_than_its_page(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "shop.db") as store:
        for saga in ("A", "B"):
            await stored(store, *(moved(made(str(n), saga=saga, updated_at=NOW + n)) for n in range(20)))
            await stored(store, *(moved(ended(made(str(n), saga=saga))) for n in range(10)))
        for query in (
            Find(),
            Find(saga="A"),
            Find(status=Status.RUNNING),
            Find(saga="A", status=Status.COMPLETED),
            Find(is_open=True),
            Find(parked=True),
            Find(parked=True, saga="A", is_open=True),
            Find(key="7"),
            Find(key="7", saga="A"),
            Find(since=NOW + 15),
            Find(since=NOW + 15, saga="A", is_open=True),
        ):

            def look(connection: sqlite3.Connection, query: Find = query) -> list[list[str]]:
                return [plan(connection, sql, parameters) for sql, parameters in reading.searches(connection, query, 5)]

            assert store._reader
            for details in await store._reader.run(look):
                assert not scanned(details), (query, details)
                if query.key or query.since is not None:
                    continue
                assert not any("TEMP B-TREE" in detail for detail in details), (query, details)


async def test_since_long_ago_does_not_sort_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FEW", 10)
    async with SQLiteStore(tmp_path / "shop.db") as store:
        for saga in ("A", "B"):
            await stored(store, *(moved(made(str(n), saga=saga, updated_at=NOW + n)) for n in range(20)))
        for query in (Find(since=NOW), Find(since=NOW, saga="A"), Find(since=NOW, is_open=True)):

            def look(connection: sqlite3.Connection, query: Find = query) -> list[list[str]]:
                return [plan(connection, sql, parameters) for sql, parameters in reading.searches(connection, query, 5)]

            assert store._reader
            assert not any("TEMP B-TREE" in str(details) for details in await store._reader.run(look))
            page = await store.find(query)
            assert [one.key for one in page.items][:3] == ["19", "18", "17"]


async def test_status_of_twenty_thousand_in_a_blink(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "shop.db") as store:
        for part in range(20):
            await stored(store, *(moved(made(f"{part} {n}", deadline_at=NOW + n)) for n in range(1000)))
        begin = time.perf_counter()
        counts = await store.counts(NOW + 100)
        took = time.perf_counter() - begin
        assert counts.instances == {"Order": {"running": 20_000}} and counts.overdue == 70 * 20
        assert took < 0.5  # 3 ms here; a scan of the bodies would take more even on a slow machine
