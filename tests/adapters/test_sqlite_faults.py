"""The SQLite store when the disk does not play along: what is raised, what is kept, what goes on afterwards."""

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec import Raw

from orchestrator.errors import StoreCorrupt, StoreError, StoreFull, StoreUnavailable
from orchestrator.machine.transition import Transition
from orchestrator.testing.store_conformance import NOW, after, early, event, going, made, moved, put, stored
from orchestrator.wire import DeadLetter
from orchestrator_adapters.sqlite import SQLiteStore, errors

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def sqlite_error(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError("something")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("name", "expected", "remedy"),
    [
        ("SQLITE_FULL", StoreFull, "no room"),
        ("SQLITE_CORRUPT", StoreCorrupt, "restore a backup"),
        ("SQLITE_CORRUPT_INDEX", StoreCorrupt, "restore a backup"),
        ("SQLITE_NOTADB", StoreCorrupt, "--store"),
        ("SQLITE_IOERR_WRITE", StoreUnavailable, "SQLITE_IOERR_WRITE"),
        ("SQLITE_READONLY_DBMOVED", StoreUnavailable, "cannot be written"),
        ("SQLITE_BUSY", StoreUnavailable, "another program"),
        ("SQLITE_CANTOPEN", StoreUnavailable, "cannot be opened"),
        ("SQLITE_ERROR", StoreUnavailable, "something"),
        ("", StoreUnavailable, "OperationalError"),
    ],
)
def test_each_error_says_what_to_do(name: str, expected: type[StoreError], remedy: str, tmp_path: Path) -> None:
    error = errors.store_error(sqlite_error(name), tmp_path / "shop.db")
    assert type(error) is expected
    assert remedy in str(error) and str(tmp_path / "shop.db") in str(error)


def test_an_io_error_on_a_full_disk_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.statvfs", lambda path: SimpleNamespace(f_bavail=3, f_frsize=4096))
    assert type(errors.store_error(sqlite_error("SQLITE_IOERR_SHMSIZE"), tmp_path / "shop.db")) is StoreFull


async def set_limit(store: SQLiteStore, more_pages: int) -> None:
    def limit(connection: sqlite3.Connection) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + more_pages}")

    assert store._writer
    await store._writer.run(limit)


async def test_a_full_disk_takes_nothing_of_the_group_and_later_goes_on(tmp_path: Path) -> None:
    big = Raw(b'{"text":"' + b"x" * 9000 + b'"}')
    group = [moved(made(str(n), state=big), put=(going(str(n)),)) for n in range(50)]
    async with SQLiteStore(tmp_path / "shop.db") as store:
        await stored(store, moved(made("before")))
        await set_limit(store, 30)
        for _ in range(2):
            with pytest.raises(StoreFull, match="no room"):
                await store.commit(group)
            assert await store.load([one.instance.address for one in group if one.instance]) == [None] * 50
            assert await store.due(0.0, 100) == []
        await stored(store, moved(after(made("before"))))  # what needs no room still goes
        await set_limit(store, 10_000)
        await stored(store, *group)
        assert len(await store.due(0.0, 100)) == 50


async def test_an_error_in_the_middle_leaves_no_transaction_open(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "shop.db") as store:
        assert store._writer

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM instance")
            assert connection.in_transaction
            raise RuntimeError("in the middle")

        await stored(store, moved(made()))
        with pytest.raises(RuntimeError):
            await store._writer.run(work)
        assert await store._writer.run(lambda connection: connection.in_transaction)  # its own, just begun
        assert await store.load([made().address]) == [made()]
        await stored(store, moved(after(made())))


async def test_after_a_lost_fsync_nothing_more_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shop.db"

    def fails(*_: object) -> None:
        raise sqlite_error("SQLITE_IOERR_FSYNC")

    async with SQLiteStore(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr("orchestrator_adapters.sqlite.store.committing", lambda _: fails)
            with pytest.raises(StoreUnavailable):
                await store.commit([moved(made())])
        with pytest.raises(StoreCorrupt, match="start again"):
            await store.commit([moved(made())])
        with pytest.raises(StoreCorrupt, match="start again"):
            await store.prune(0.0, 0.0)
    async with SQLiteStore(path) as store:
        await stored(store, moved(made()))


async def test_another_error_is_over_when_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise sqlite_error("SQLITE_IOERR_WRITE")

    async with SQLiteStore(tmp_path / "shop.db") as store:
        with monkeypatch.context() as patch:
            patch.setattr("orchestrator_adapters.sqlite.store.committing", lambda _: fails)
            with pytest.raises(StoreUnavailable):
                await store.commit([moved(made())])
        await stored(store, moved(made()))


def damage(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) >= 1
    path.write_bytes(content.replace(old, new))


async def test_a_flipped_bit_in_an_instance_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with SQLiteStore(path) as store:
        await stored(store, moved(made(state=Raw(b'{"total":"100.00"}'))))
    with closing(sqlite3.connect(path)) as connection:
        [(body,)] = connection.execute("SELECT body FROM instance")
    damage(path, body, body[:-1] + bytes([body[-1] ^ 1]))
    async with SQLiteStore(path, read_only=True) as store:
        assert await store.integrity() == ("instance 1 is not what was written",)  # SQLite itself does not notice
        with pytest.raises(StoreCorrupt, match="restore a backup"):
            await store.load([made().address])


async def test_a_flipped_bit_in_the_history_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with SQLiteStore(path) as store:
        await stored(store, moved(made()))
    damage(path, b',{"n":1},', b',{"n":7},')
    async with SQLiteStore(path, read_only=True) as store:
        with pytest.raises(StoreCorrupt, match="restore a backup"):
            await store.history(made().address)


async def test_a_flipped_bit_in_what_waits_to_go_or_to_be_seen_to_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    letter = DeadLetter(NOW, "nobody wants it", event("dead"))
    async with SQLiteStore(path) as store:
        await stored(store, put(going("command")), early("early"), Transition(at=NOW, dead=(letter,)))
    damage(path, b'"data":{"n":1}', b'"data":{"n":7}')
    async with SQLiteStore(path, read_only=True) as store:
        for read in (store.due(NOW, 1), store.waiting(), store.dead_letters()):
            with pytest.raises(StoreCorrupt, match="restore a backup"):
                await read
        assert await store.integrity() == (
            "outbox row 1 is not what was written",
            "row of the waiting room 1 is not what was written",
            "dead letter 1 is not what was written",
        )


async def test_a_flipped_bit_beside_the_message_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with SQLiteStore(path) as store:
        await stored(store, moved(made(), notes=("charged 100",)))
    damage(path, b'["charged 100"]', b'["charged 900"]')
    async with SQLiteStore(path, read_only=True) as store:
        with pytest.raises(StoreCorrupt, match="restore a backup"):
            await store.history(made().address)
        assert await store.integrity() == ("history row 1 is not what was written",)


async def test_an_index_that_says_otherwise_than_its_table_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with SQLiteStore(path) as store:
        await stored(store, put(going("first")))
    damage(path, b"\x03\x17\x09first", b"\x03\x17\x09fjrst")  # the index: its records begin so
    async with SQLiteStore(path, read_only=True) as store:
        assert await store.integrity() != ()


async def test_a_schema_that_is_not_text_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with SQLiteStore(path):
        pass
    damage(path, b"crc INTEGER NOT", b"crc INTEGE\xd2 NOT")
    async with SQLiteStore(path, read_only=True) as store:
        with pytest.raises(StoreCorrupt, match="damaged"):
            await store.counts(NOW)


async def test_a_damaged_page_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with SQLiteStore(path) as store:
        for part in range(5):
            await stored(store, *(moved(made(f"{part} {n}")) for n in range(100)))
    content = bytearray(path.read_bytes())
    for page in range(len(content) // 4096 // 2, len(content) // 4096 - 1):  # the schema stands before
        content[page * 4096 : page * 4096 + 16] = b"\xff" * 16
    path.write_bytes(content)
    async with SQLiteStore(path, read_only=True) as store:
        with pytest.raises(StoreCorrupt, match="damaged"):
            await store.load([made(f"{part} {n}").address for part in range(5) for n in range(100)])
        assert await store.integrity() != ()


async def test_a_log_that_was_left_is_written_again_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, left = tmp_path / "shop.db", tmp_path / "left.db"
    async with SQLiteStore(path) as store:
        await stored(store, moved(made()))
        for end in ("", "-wal"):  # as a kill leaves them
            left.with_name(left.name + end).write_bytes(path.with_name(path.name + end).read_bytes())
    log = left.with_name(left.name + "-wal")
    written: list[tuple[int, bytes]] = []
    synced: list[int] = []
    pwrite, fsync = os.pwrite, os.fsync

    def writes(descriptor: int, data: bytes, at: int) -> int:
        written.append((os.fstat(descriptor).st_ino, data))
        return pwrite(descriptor, data, at)

    def syncs(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "pwrite", writes)
    monkeypatch.setattr(os, "fsync", syncs)
    file, directory, content = log.stat().st_ino, tmp_path.stat().st_ino, log.read_bytes()  # noqa: ASYNC240
    async with SQLiteStore(left) as store:
        assert await store.load([made().address]) == [made()]
    assert written == [(file, content)]
    assert synced == [file, directory]


async def test_a_log_that_does_not_reach_the_disk_keeps_the_store_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shop.db"
    async with SQLiteStore(path) as store:
        await stored(store, moved(made()))
    path.with_name("shop.db-wal").touch()

    def fails(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(StoreUnavailable, match="wal did not reach the disk"):
            await SQLiteStore(path).__aenter__()
    async with SQLiteStore(path) as store:
        assert await store.load([made().address]) == [made()]


async def test_a_tally_that_miscounts_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with SQLiteStore(path) as store:
        await stored(store, moved(made()))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE tally SET instances = 2")
    async with SQLiteStore(path, read_only=True) as store:
        assert await store.integrity() == ("the tally of instances is not what there is",)
