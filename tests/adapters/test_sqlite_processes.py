"""The SQLite store under real processes: who may write, and what a kill -9 leaves."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.errors import StoreLocked, StoreUnavailable
from orchestrator.ports import Find
from orchestrator.testing.store_conformance import NOW, made, moved, stored
from orchestrator.wire import Address
from orchestrator_adapters.sqlite import SQLiteStore, lock

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


HOLDS = """
import sys, anyio
from pathlib import Path
from orchestrator.errors import StoreLocked
from orchestrator_adapters.sqlite import SQLiteStore
async def main():
    try:
        async with SQLiteStore(Path(sys.argv[1])):
            print("open", flush=True)
            await anyio.to_thread.run_sync(sys.stdin.read)
    except StoreLocked as error:
        print(error, flush=True)
anyio.run(main)
"""

WRITES = """
import sys, anyio
from itertools import count
from pathlib import Path
from orchestrator.testing.store_conformance import after, going, made, moved
from orchestrator_adapters.sqlite import SQLiteStore
async def main():
    async with SQLiteStore(Path(sys.argv[1])) as store:
        for number in count(int(sys.argv[2])):
            first = [made(f"{number} {n}") for n in range(10)]
            await store.commit([moved(one, put=(going(one.key),)) for one in first])
            await store.commit([moved(after(one), remove=(one.key,)) for one in first])
            print(number, flush=True)
anyio.run(main)
"""


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(processes: list[subprocess.Popen[str]], script: str, *arguments: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    processes.append(process)
    return process


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


async def test_a_second_process_is_told_who_writes(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    path = tmp_path / "shop.db"
    first = start(processes, HOLDS, path)
    assert line(first) == "open"
    assert (tmp_path / "shop.db.lock").read_text() == f"{first.pid}\n"
    (tmp_path / "link.db").symlink_to(path)
    for name in ("shop.db", "link.db", "../" + tmp_path.name + "/shop.db"):
        with pytest.raises(StoreLocked, match=f"process {first.pid} is writing this store already"):
            async with SQLiteStore(tmp_path / name):
                pass
    async with SQLiteStore(path, read_only=True) as store:
        assert await store.find(Find()) is not None
    first.send_signal(signal.SIGKILL)
    first.wait()
    async with SQLiteStore(path):  # the lock went with the process
        assert (tmp_path / "shop.db.lock").read_text() == f"{os.getpid()}\n"
    assert (tmp_path / "shop.db.lock").read_text() == ""


async def test_a_second_store_of_the_same_process_too(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "shop.db") as store:
        for _ in range(2):  # neither the first refusal nor opening the file elsewhere loosens the lock
            with pytest.raises(StoreLocked, match=f"process {os.getpid()} "):
                async with SQLiteStore(tmp_path / "shop.db"):
                    pass
        await stored(store, moved(made()))


def test_of_many_started_at_once_one_writes(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    started = [start(processes, HOLDS, tmp_path / "shop.db") for _ in range(4)]
    lines = [line(process) for process in started]
    assert lines.count("open") == 1
    (holder,) = [process.pid for process, said in zip(started, lines, strict=True) if said == "open"]
    assert all(said == "open" or f"process {holder} " in said or "another process" in said for said in lines)


def killed_after(process: subprocess.Popen[str], lives_s: float) -> int:
    """The last number that the process acknowledged before it was killed, at some moment."""
    acknowledged = int(line(process))
    time.sleep(lives_s)
    process.send_signal(signal.SIGKILL)
    assert process.stdout
    return max([acknowledged, *map(int, process.stdout.read().split())])


async def test_what_was_acknowledged_is_there_after_a_kill(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    path = tmp_path / "shop.db"
    begin = 0
    for lives_s in (0.0, 0.05, 0.15):
        acknowledged = killed_after(start(processes, WRITES, path, begin), lives_s)
        async with SQLiteStore(path) as store:
            counts = await store.counts(NOW)
            assert sum(counts.instances["Order"].values()) % 10 == 0  # each group whole or not at all
            assert counts.outbox % 10 == 0
            for number in range(begin, acknowledged + 1):
                addresses = [Address("Order", f"{number} {n}") for n in range(10)]
                assert [one and one.version for one in await store.load(addresses)] == [2] * 10
                assert [len(await store.history(address)) for address in addresses] == [2] * 10
            assert await store.integrity() == ()
        begin = acknowledged + 3
    assert begin > 3


def test_a_store_left_open_by_an_error_does_not_hang_the_interpreter(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    script = """
import sys, anyio
from pathlib import Path
from orchestrator_adapters.sqlite import SQLiteStore
async def main():
    async with SQLiteStore(Path(sys.argv[1])) as store:
        with anyio.move_on_after(0):
            await store.next_wake()
        raise KeyboardInterrupt
try:
    anyio.run(main)
except KeyboardInterrupt:
    print("interrupted")
"""
    process = start(processes, script, tmp_path / "shop.db")
    assert process.communicate(timeout=30)[0] == "interrupted\n"
    assert process.returncode == 0


async def test_a_forked_child_may_not_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SQLiteStore(tmp_path / "shop.db") as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)
            with pytest.raises(StoreUnavailable, match="fork"):
                await store.commit([moved(made())])
            with pytest.raises(StoreUnavailable, match="fork"):
                await store.next_wake()


def test_a_holder_that_is_about_to_write_its_id_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its taking the lock and its writing there is a moment, long on a busy machine."""
    store = tmp_path / "shop.db"
    place = tmp_path / "shop.db.lock"
    with place.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        monkeypatch.setattr(lock, "time", SimpleNamespace(sleep=lambda seconds: place.write_text("4711\n")))
        with pytest.raises(StoreLocked, match="process 4711 "):
            lock.FileLock(store).acquire()
