"""The log in a SQLite file: found by indexes, small, whole after a kill, and damage is noticed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import StoreCorrupt
from orchestrator.recorded import Append
from orchestrator.testing.log_conformance import NOW, Opened, appended, happened, to
from orchestrator_adapters.sqlite import SQLiteStore, log, schema
from orchestrator_adapters.sqlite.bulk import with_rows
from tests.adapters.test_sqlite_plans import plan

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# Plans.

QUESTIONS = [
    (with_rows(log.LOOK, 2, 1), ["[]", "[]", 1, 2]),
    (with_rows(log.KNOWN, 3, 1), [1, 2, 3]),
    (log.STREAM, {"name": "s", "after": 1, "limit": 5}),
    (log.STREAM_VERSION, ["s"]),
    (log.LOGGED, ["1"]),
    (log.LOG, {"after": 1, "limit": 5}),
    (log.LOG_OF_TYPES, {"after": 1, "until": 9, "limit": 5, "types": "[]"}),
    (log.LAST, []),
]


@pytest.mark.parametrize(("sql", "parameters"), QUESTIONS)
def test_every_question_is_answered_from_an_index_and_nothing_is_sorted(
    tmp_path: Path, sql: str, parameters: object
) -> None:
    path = tmp_path / "x.db"
    path.touch()
    connection = schema.connect_writer(path)
    details = plan(connection, sql, parameters)
    connection.close()
    tables = ("log", "stream", "event_type")
    assert not [line for line in details if line.startswith("SCAN") and line.split()[1] in tables], details
    assert not any("TEMP B-TREE" in line for line in details), details
    assert any(line.startswith("SEARCH") for line in details), details


async def test_a_filtered_reading_looks_at_so_many_and_says_how_far_it_got(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "LOOKED_AT", 10)
    async with SQLiteStore(tmp_path / "x.db") as store:
        await appended(store, to("s", *map(str, range(35))))
        await appended(store, Append("s", None, (happened("last", "Rare"),)))
        untils = [0]
        while (stretch := await store.log(untils[-1], 5, ["Rare"])).until > untils[-1]:
            untils.append(stretch.until)
            found = stretch.rows
        assert untils == [0, 10, 20, 30, 36]
        assert [row.envelope.id for row in found] == ["last"]
        assert [row.position async for row in store.read_all(types=["Rare"])] == [36]


async def test_an_event_takes_little_room(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with SQLiteStore(path) as store:
        before = (await store.counts(NOW)).size_bytes
        for part in range(100):
            await store.append(f"application-{part}", [Opened(n) for n in range(100)])
    grown = path.stat().st_size - before
    assert grown / 10_000 < 110


# Damage.

DAMAGE: list[tuple[str, str]] = [
    ("UPDATE log SET body = X'5b7b7d5d' WHERE position = 2", "event 2 is not what was written"),
    ("UPDATE log SET at = 5 WHERE position = 2", "event 2 is not what was written"),
    ("UPDATE log SET type = 2 WHERE position = 2", "event 2 is not what was written"),
    ("DELETE FROM log WHERE position = 2", "positions in the log have gaps"),
    ("DELETE FROM log WHERE position = 1", "versions in the stream a have gaps"),
    ("DELETE FROM stream WHERE name = 'a'", "event 1 is not what was written"),
]


@pytest.mark.parametrize(("sql", "found"), DAMAGE)
async def test_what_was_changed_behind_our_back_is_noticed(tmp_path: Path, sql: str, found: str) -> None:
    path = tmp_path / "x.db"
    async with SQLiteStore(path) as store:
        await appended(store, to("a", "1", "2"), to("b", "3", "4"))
        await appended(store, Append("a", None, (happened("5", "Other"),)))
        assert await store.integrity() == ()
    with sqlite3.connect(path) as connection:
        connection.execute(sql)
    connection.close()
    async with SQLiteStore(path) as store:
        assert found in await store.integrity()


async def test_a_damaged_event_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with SQLiteStore(path) as store:
        await appended(store, to("a", "1", "2"))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE log SET body = X'5b7b7d5d' WHERE position = 2")
    connection.close()
    async with SQLiteStore(path) as store:
        assert len(await store.stream("a", 0, 1)) == 1
        for reading in (store.stream("a"), store.log(), store.logged("2")):
            with pytest.raises(StoreCorrupt):
                await reading


async def test_a_file_without_a_log_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.db"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        async with SQLiteStore(path):
            pass
    async with SQLiteStore(path) as store:
        await appended(store, to("a", "1"))
        assert await store.integrity() == ()


# kill -9.

WRITER = """
import sys, anyio
from orchestrator.testing.log_conformance import Opened
from orchestrator_adapters.sqlite import SQLiteStore

async def write(store, writer):
    version = await store.stream_version(f"s{writer}")
    while True:
        events = [Opened(version + 1 + n) for n in range(1 + version % 3)]
        told = await store.append(f"s{writer}", events, expected_version=version, publish=True)
        version = told.version
        sys.stdout.write(f"{writer} {version} {told.position}\\n")
        sys.stdout.flush()

async def main():
    async with SQLiteStore.from_url(sys.argv[1]) as store, anyio.create_task_group() as tasks:
        for writer in range(8):
            tasks.start_soon(write, store, writer)

anyio.run(main)
"""


async def test_after_kills_every_acknowledged_event_is_there_and_nothing_half(tmp_path: Path) -> None:
    url, chance = f"sqlite:///{tmp_path}/x.db", random.Random(3)
    acknowledged: dict[str, int] = {}
    furthest = 0
    for _ in range(6):
        told = _killed(url, chance.randrange(50, 2_000))
        for writer, version, position in told:
            acknowledged[writer] = max(acknowledged.get(writer, 0), version)
            furthest = max(furthest, position)
        async with SQLiteStore.from_url(url) as store:
            rows = [row async for row in store.read_all(types=[Opened])]
            assert [row.position for row in rows] == list(range(1, len(rows) + 1)) and len(rows) >= furthest
            versions: dict[str, int] = {}
            for row in rows:
                versions[row.stream] = versions.get(row.stream, 0) + 1
                assert row.version == versions[row.stream] and row.event == Opened(row.version)
            assert all(versions[f"s{writer}"] >= version for writer, version in acknowledged.items())
            assert (await store.counts(NOW)).outbox == len(rows)  # what is published, in the same commit
            assert await store.integrity() == ()
    assert furthest > 300


def _killed(url: str, lines: int) -> list[tuple[str, int, int]]:
    """What a writing process had said when it was killed, after so many lines."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "adapters"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, "-c", WRITER, url]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        told += process.stdout.readlines()
    whole = [line.split() for line in told if line.endswith("\n")]
    return [(writer, int(version), int(position)) for writer, version, position in whole]
