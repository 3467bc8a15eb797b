"""The file of the SQLite store: what may be opened, by whom, and what is said when it may not."""

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from orchestrator.errors import ConfigError, NoStore, StoreCorrupt, StoreError, StoreUnavailable
from orchestrator.testing.store_conformance import NOW, made, moved, stored
from orchestrator_adapters.sqlite import SQLiteStore, lock, schema

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def url(path: Path) -> str:
    return f"sqlite:///{path}"


async def filled(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await stored(store, moved(made()))


async def refusal(path: Path, *, read_only: bool = False) -> StoreError:
    with pytest.raises(StoreError) as caught:
        async with SQLiteStore(path, read_only=read_only):
            pass
    assert str(path) in str(caught.value)
    return caught.value


# --- the URL ---


def test_three_slashes_are_relative_four_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert SQLiteStore.from_url("sqlite:///shop.db").path == tmp_path.resolve() / "shop.db"
    assert SQLiteStore.from_url("sqlite:///./a/../shop.db").path == tmp_path.resolve() / "shop.db"
    assert SQLiteStore.from_url("sqlite:////var/shop.db").path == Path("/var/shop.db")
    assert SQLiteStore.from_url("sqlite:////var/a%20b%3F.db").path == Path("/var/a b?.db")


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ("sqlite://shop.db", "sqlite:///relative.db"),
        ("sqlite:shop.db", "sqlite:///relative.db"),
        ("shop.db", "sqlite:///relative.db"),
        ("sqlite:///", "sqlite:///relative.db"),
        ("sqlite:///shop.db?mode=ro", "no option 'mode=ro'"),
        ("sqlite:///shop.db?", "no option"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///a%00b", "does not name a file"),
        ("sqlite:///folder/", "does not name a file"),
    ],
)
def test_a_wrong_url_says_how_it_is_written(wrong: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy.replace("?", r"\?")) as caught:
        SQLiteStore.from_url(wrong)
    assert repr(wrong) in str(caught.value)


# --- making and keeping it ---


async def test_only_the_owner_reads_any_of_its_files(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    before = os.umask(0)
    try:
        async with SQLiteStore(path) as store:
            await stored(store, moved(made()))
            names = ("shop.db", "shop.db-shm", "shop.db-wal", "shop.db.lock")
            assert tuple(sorted(os.listdir(tmp_path))) == names
            assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names} == {0o600}
        path.chmod(0o644)
        async with SQLiteStore(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


async def test_the_settings_that_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"

    def settings(connection: sqlite3.Connection) -> list[object]:
        asked = ("journal_mode", "synchronous", "mmap_size", "trusted_schema", "cell_size_check", "query_only")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in asked]

    async with SQLiteStore(path) as store:
        assert store._writer and store._reader
        assert await store._writer.run(settings) == ["wal", 2, 0, 0, 1, 0]
        assert await store._reader.run(settings) == ["wal", 2, 0, 0, 1, 1]
        autocheckpoint = await store._reader.run(lambda c: c.execute("PRAGMA wal_autocheckpoint").fetchone()[0])
        assert autocheckpoint == 0


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    problem = await refusal(tmp_path / "none" / "shop.db")
    assert isinstance(problem, StoreUnavailable) and f"no directory {tmp_path}/none" in str(problem)


async def test_a_directory_is_no_store(tmp_path: Path) -> None:
    assert "is a directory" in str(await refusal(tmp_path))


async def test_a_store_with_two_names_is_refused(tmp_path: Path) -> None:
    await filled(tmp_path / "shop.db")
    (tmp_path / "also.db").hardlink_to(tmp_path / "shop.db")
    assert "hard link" in str(await refusal(tmp_path / "also.db"))


async def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    await filled(tmp_path / "shop.db")
    (tmp_path / "link.db").symlink_to(tmp_path / "shop.db")
    async with SQLiteStore(tmp_path / "link.db") as store:
        assert store.path == tmp_path / "shop.db"
        assert await store.load([made().address]) == [made()]
    assert sorted(os.listdir(tmp_path)) == ["link.db", "shop.db", "shop.db.lock"]


async def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "shop.db")
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.commit([moved(made())])
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.load([made().address])


# --- the gate ---


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    text = b"not a database, and long enough that SQLite looks at it\n" * 100
    path.write_bytes(text)
    for read_only in (False, True):
        problem = await refusal(path, read_only=read_only)
        assert isinstance(problem, StoreCorrupt)
        assert "not a SQLite database" in str(problem) and "--store" in str(problem)
    assert path.read_bytes() == text


async def test_a_database_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE t (x)")
        other.commit()
    content = path.read_bytes()
    for read_only in (False, True):
        problem = await refusal(path, read_only=read_only)
        assert isinstance(problem, StoreCorrupt) and "another program" in str(problem)
    assert path.read_bytes() == content


async def test_a_database_of_a_newer_version(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    await filled(path)
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 99")
    for read_only in (False, True):
        problem = await refusal(path, read_only=read_only)
        assert isinstance(problem, StoreCorrupt) and "newer version (schema 99" in str(problem)


async def test_an_older_file_is_brought_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shop.db"
    await filled(path)
    newer = (*schema.MIGRATIONS, ("CREATE TABLE extra (x) STRICT".replace("x)", "x INTEGER)"),), ("DROP TABLE extra",))
    monkeypatch.setattr(schema, "MIGRATIONS", newer)
    problem = await refusal(path, read_only=True)
    assert isinstance(problem, StoreCorrupt) and "orchestrator run" in str(problem)
    async with SQLiteStore(path) as store:
        assert (await store.counts(NOW)).schema == len(newer)
        assert await store.load([made().address]) == [made()]


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shop.db"
    await filled(path)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE extra (x INTEGER)", "NONSENSE")))
        assert isinstance(await refusal(path), StoreUnavailable)
    async with SQLiteStore(path) as store:
        assert (await store.counts(NOW)).schema == len(schema.MIGRATIONS)
        assert await store.load([made().address]) == [made()]


async def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    path.touch()  # as a crash right after its making leaves it
    assert isinstance(await refusal(path, read_only=True), NoStore)
    await filled(path)


# --- reading beside it ---


async def test_nothing_to_read_is_said_and_nothing_made(tmp_path: Path) -> None:
    problem = await refusal(tmp_path / "x.db", read_only=True)
    assert isinstance(problem, NoStore)
    assert str(problem) == f"no store at {tmp_path}/x.db: has `orchestrator run` been started there once?"
    assert isinstance(await refusal(tmp_path / "none" / "x.db", read_only=True), NoStore)
    assert os.listdir(tmp_path) == []


async def test_reading_while_another_writes_and_when_none_does(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with SQLiteStore(path) as writer:
        await stored(writer, moved(made("1")))
        async with SQLiteStore(path, read_only=True) as reader:
            assert await reader.load([made("1").address]) == [made("1")]
            await stored(writer, moved(made("2")))
            assert await reader.load([made("2").address]) == [made("2")]
            with pytest.raises(StoreUnavailable, match="not open for writing"):
                await reader.commit([moved(made("3"))])
    async with SQLiteStore(path, read_only=True) as reader:
        assert (await reader.counts(NOW)).instances == {"Order": {"running": 2}}
        async with SQLiteStore(path) as writer:  # reading does not keep a daemon from starting
            await stored(writer, moved(made("3")))
        assert await reader.load([made("3").address]) == [made("3")]


async def test_a_reader_cannot_write_even_by_mistake(tmp_path: Path) -> None:
    await filled(tmp_path / "shop.db")
    async with SQLiteStore(tmp_path / "shop.db") as store:
        assert store._reader
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await store._reader.run(lambda connection: connection.execute("DELETE FROM instance"))


READS = """
import os, sys, anyio
from pathlib import Path
from orchestrator.errors import StoreError
from orchestrator.ports import Find
from orchestrator_adapters.sqlite import SQLiteStore
async def main():
    async with SQLiteStore(Path(sys.argv[1]), read_only=True) as store:
        print([one.key for one in (await store.find(Find())).items])
    try:
        async with SQLiteStore(Path(sys.argv[1])):
            print("opened")
    except StoreError as error:
        print(error)
anyio.run(anyio.sleep, 0)  # imports what the next line may put out of reach
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
anyio.run(main)
"""


def test_a_directory_that_cannot_be_written_can_be_read() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        anyio.run(filled, folder / "shop.db")
        (folder / "shop.db").chmod(0o444)
        folder.chmod(0o555)
        try:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
            command = [sys.executable, "-W", "error", "-c", READS, str(folder / "shop.db")]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
            assert sorted(os.listdir(folder)) == ["shop.db", "shop.db.lock"]
        finally:
            folder.chmod(0o755)
    read, write = done.stdout.splitlines()
    assert read == "['1']", done
    assert str(folder / "shop.db") in write and "Permission denied" in write


# --- where SQLite cannot be trusted ---

MOUNTS = r"""
/dev/root / ext4 rw 0 0
proc /proc proc rw 0 0
server:/home /home nfs4 rw,vers=4.2 0 0
/dev/sdb /home/me/disk ext4 rw 0 0
//server/share /mnt/my\040share cifs rw 0 0
tmpfs /mnt/a tmpfs rw 0 0
server:/b /mnt/a nfs rw 0 0
incomplete
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/var/shop.db", ("ext4", "/")),
        ("/home/shop.db", ("nfs4", "/home")),
        ("/home/me/disk/shop.db", ("ext4", "/home/me/disk")),
        ("/homes/shop.db", ("ext4", "/")),
        ("/mnt/my share/shop.db", ("cifs", "/mnt/my share")),
        ("/mnt/a/shop.db", ("nfs", "/mnt/a")),
    ],
)
def test_the_file_system_of_a_path(path: str, expected: tuple[str, str]) -> None:
    assert lock.file_system(Path(path), MOUNTS) == expected


async def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "file_system", lambda path, mounts: ("nfs4", "/home"))
    for read_only in (False, True):
        (tmp_path / "shop.db").touch()
        with pytest.raises(ConfigError, match=r"network file system \(nfs4 at /home\)"):
            async with SQLiteStore(tmp_path / "shop.db", read_only=read_only):
                pass
    assert os.listdir(tmp_path) == ["shop.db"]
