"""R7 at a participant: one effect a key, one answer, and nothing after the undo."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import pytest

from orchestrator import Command, Done, Event, Fatal, OrchestratorError, Refusal
from orchestrator.participant import Call

DO = "Order/1~k3f9/reserve#1"


class Reserved(Event):
    id: str


class SoldOut(Refusal):
    left: int


class Released(Event):
    count: int


class Reserve(Command[Reserved, SoldOut]):
    units: int = 1


class Release(Command):
    units: int = 1


class Count(Command[Released]):
    units: int = 1


RESERVE, RELEASE = Reserve(3), Release(3)


def do(command: Command[Any, Any] = RESERVE, key: str = DO, **more: Any) -> Call[None]:
    return Call(command, key=key, resources=None, **more)


def undo(command: Command[Any, Any] = RELEASE, key: str = DO, **more: Any) -> Call[None]:
    return Call(command, key=f"{key}/undo", undoes=key, resources=None, **more)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "stock.db"
    with closing(opened(path)) as db:
        db.execute("CREATE TABLE moves (key TEXT, units INTEGER)")
        db.commit()
    return path


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(opened(path)) as db:
        yield db


def opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, check_same_thread=False)


def moved(path: Path) -> list[int]:
    with closing(opened(path)) as db:
        return [units for (units,) in db.execute("SELECT units FROM moves ORDER BY rowid")]


async def reserve(db: sqlite3.Connection, call: Call[None]) -> Reserved:
    async with call.once(db) as first:
        if not first:
            return first.answer
        db.execute("INSERT INTO moves VALUES (?, ?)", (call.key, -3))
        return first.answers(Reserved("r1"))


async def release(db: sqlite3.Connection, call: Call[None]) -> bool:
    async with call.once(db) as first:
        if first:
            db.execute("INSERT INTO moves VALUES (?, ?)", (call.key, 3))
        return bool(first)


async def test_the_same_key_has_one_effect_and_the_same_answer(db: sqlite3.Connection, path: Path) -> None:
    assert await reserve(db, do()) == Reserved("r1")
    assert await reserve(db, do(attempt=2)) == Reserved("r1")
    assert moved(path) == [-3]


async def test_another_key_is_another_effect(db: sqlite3.Connection, path: Path) -> None:
    await reserve(db, do())
    await reserve(db, do(key="Order/2~k3f9/reserve#1"))
    assert moved(path) == [-3, -3]


def test_a_plain_def_writes_plain_with(db: sqlite3.Connection, path: Path) -> None:
    def carried_out(call: Call[None]) -> Reserved:
        with call.once(db) as first:
            if not first:
                return first.answer
            db.execute("INSERT INTO moves VALUES (?, ?)", (call.key, -3))
            return first.answers(Reserved("r1"))

    assert [carried_out(do()), carried_out(do())] == [Reserved("r1"), Reserved("r1")]
    assert moved(path) == [-3]


async def test_an_undo_after_its_do(db: sqlite3.Connection, path: Path) -> None:
    await reserve(db, do())
    assert await release(db, undo())
    assert not await release(db, undo(attempt=2))
    assert moved(path) == [-3, 3]


async def test_an_undo_before_its_do_succeeds_and_the_do_is_refused(db: sqlite3.Connection, path: Path) -> None:
    assert not await release(db, undo())
    assert not await release(db, undo())
    with pytest.raises(Fatal, match="undone already"):
        await reserve(db, do())
    assert moved(path) == []


async def test_a_do_that_comes_again_after_its_undo_is_refused(db: sqlite3.Connection, path: Path) -> None:
    await reserve(db, do())
    await release(db, undo())
    with pytest.raises(Fatal, match="undone already"):
        await reserve(db, do())
    assert moved(path) == [-3, 3]


async def test_a_refused_do_left_nothing_to_undo(db: sqlite3.Connection, path: Path) -> None:
    async with do().once(db) as first:
        first.answers(SoldOut(2))
    async with do().once(db) as first:
        assert first.answer == SoldOut(2)
    assert not await release(db, undo())
    with pytest.raises(Fatal, match="undone already"):
        await reserve(db, do())


async def test_an_undo_of_nothing_answers_done_whatever_it_declares(db: sqlite3.Connection) -> None:
    for _ in range(2):
        async with undo(Count(3)).once(db) as first:
            assert not first
            assert first.answer == Done()


async def test_an_undo_remembers_its_own_answer(db: sqlite3.Connection) -> None:
    await reserve(db, do())
    async with undo(Count(3)).once(db) as first:
        first.answers(Released(3))
    async with undo(Count(3)).once(db) as first:
        assert first.answer == Released(3)


async def test_done_is_remembered_without_being_said(db: sqlite3.Connection) -> None:
    async with do(Release(1)).once(db) as first:
        assert first
    async with do(Release(1)).once(db) as first:
        assert not first
        assert first.answer == Done()


async def test_a_block_left_without_an_answer_is_rolled_back(db: sqlite3.Connection, path: Path) -> None:
    with pytest.raises(Fatal, match=r"first\.answers"):
        async with do().once(db):
            db.execute("INSERT INTO moves VALUES ('x', 1)")
    assert moved(path) == []
    assert await reserve(db, do()) == Reserved("r1")


async def test_there_is_no_answer_on_a_first_run(db: sqlite3.Connection) -> None:
    with pytest.raises(OrchestratorError, match="was not carried out before"):
        async with do().once(db) as first:
            _ = first.answer


async def test_an_answer_that_the_command_does_not_declare(db: sqlite3.Connection) -> None:
    with pytest.raises(Fatal, match=r"Released is no answer .* declares Reserved, SoldOut"):
        async with do().once(db) as first:
            first.answers(Released(1))


async def test_a_second_answer(db: sqlite3.Connection) -> None:
    with pytest.raises(Fatal, match="has an answer already"):
        async with do().once(db) as first:
            first.answers(Reserved("r1"))
            first.answers(Reserved("r2"))


async def test_after_an_exception_the_next_attempt_is_the_first(db: sqlite3.Connection, path: Path) -> None:
    with pytest.raises(RuntimeError):
        async with do().once(db) as first:
            db.execute("INSERT INTO moves VALUES ('x', 1)")
            first.answers(Reserved("r1"))
            raise RuntimeError("crash between effect and answer")
    assert moved(path) == []
    assert not db.in_transaction
    assert await reserve(db, do()) == Reserved("r1")


async def test_a_cancelled_block_is_rolled_back(db: sqlite3.Connection, path: Path) -> None:
    with anyio.move_on_after(0):
        async with do().once(db):
            db.execute("INSERT INTO moves VALUES ('x', 1)")
            await anyio.sleep_forever()
    assert moved(path) == []
    assert await reserve(db, do()) == Reserved("r1")


KILLED = """
import asyncio, os, signal, sqlite3, sys
from tests.test_ledger import do, Reserved

async def main():
    db = sqlite3.connect(sys.argv[1])
    async with do().once(db) as first:
        db.execute("INSERT INTO moves VALUES ('x', 1)")
        first.answers(Reserved("r1"))
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_a_process_killed_between_effect_and_answer_leaves_neither(db: sqlite3.Connection, path: Path) -> None:
    root = Path(__file__).parent.parent
    done = await anyio.to_thread.run_sync(lambda: subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=root))
    assert done.returncode == -9
    assert moved(path) == []
    assert await reserve(db, do()) == Reserved("r1")


async def test_another_payload_under_the_same_key(db: sqlite3.Connection, path: Path) -> None:
    await reserve(db, do())
    with pytest.raises(Fatal, match="another payload"):
        await reserve(db, do(Reserve(4)))
    await release(db, undo())
    with pytest.raises(Fatal, match="another payload"):
        await release(db, undo(Release(4)))
    assert moved(path) == [-3, 3]


async def test_a_payload_is_compared_as_it_came(db: sqlite3.Connection) -> None:
    await reserve(db, do(payload=b'{"units":3}'))
    assert await reserve(db, do(Reserve(99), payload=b'{"units":3}')) == Reserved("r1")


async def test_attempts_of_one_key_exclude_each_other(path: Path) -> None:
    """Each has its own connection and is in the middle of its block when the next comes."""

    async def attempt() -> None:
        with closing(opened(path)) as db:
            async with do().once(db) as first:
                await anyio.lowlevel.checkpoint()
                if first:
                    db.execute("INSERT INTO moves VALUES ('x', -3)")
                    await anyio.lowlevel.checkpoint()
                    first.answers(Reserved("r1"))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(attempt)
    assert moved(path) == [-3]


async def test_a_do_and_its_undo_at_once_leave_nothing(path: Path) -> None:
    async def carry_out(call: Call[None]) -> None:
        with closing(opened(path)) as db:
            try:
                await (release if call.undoes else reserve)(db, call)
            except Fatal:
                assert call.undoes is None

    for n in range(10):
        async with anyio.create_task_group() as tasks:
            for call in (do(key=str(n)), undo(key=str(n)), do(key=str(n))):
                tasks.start_soon(carry_out, call)
    assert sum(moved(path)) == 0


async def test_one_connection_shared_by_many_tasks(db: sqlite3.Connection, path: Path) -> None:
    async def attempt(n: int) -> None:
        async with do(key=str(n % 5)).once(db) as first:
            await anyio.lowlevel.checkpoint()
            if first:
                db.execute("INSERT INTO moves VALUES ('x', 1)")
                first.answers(Reserved("r1"))

    async with anyio.create_task_group() as tasks:
        for n in range(25):
            tasks.start_soon(attempt, n)
    assert moved(path) == [1] * 5


def test_threads_share_a_connection(db: sqlite3.Connection, path: Path) -> None:
    def attempt(n: int) -> None:
        with do(key=str(n % 4)).once(db) as first:
            if first:
                db.execute("INSERT INTO moves VALUES ('x', 1)")
                first.answers(Reserved("r1"))

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert moved(path) == [1] * 4


async def test_threads_and_tasks_wait_for_each_other(db: sqlite3.Connection, path: Path) -> None:
    def in_thread(n: int) -> None:
        with do(key=str(n)).once(db) as first:
            db.execute("INSERT INTO moves VALUES ('x', 1)")
            first.answers(Reserved("r1"))

    async def in_task(n: int) -> None:
        async with do(key=str(n)).once(db) as first:
            await anyio.lowlevel.checkpoint()
            db.execute("INSERT INTO moves VALUES ('x', 1)")
            first.answers(Reserved("r1"))

    async with anyio.create_task_group() as tasks:
        for n in range(0, 20, 2):
            tasks.start_soon(in_task, n)
            tasks.start_soon(anyio.to_thread.run_sync, in_thread, n + 1)
    assert moved(path) == [1] * 20


async def test_who_is_cancelled_while_waiting_does_not_hold_up_the_next(path: Path) -> None:
    with closing(opened(path)) as one, closing(opened(path)) as two:
        async with anyio.create_task_group() as tasks, do(key="a").once(one) as first:
            with anyio.move_on_after(0):
                async with do(key="b").once(two):
                    pytest.fail("not its turn")
            tasks.start_soon(reserve, two, do(key="c"))
            await anyio.lowlevel.checkpoint()
            first.answers(Reserved("r1"))
    assert moved(path) == [-3]


async def test_the_loop_goes_on_while_another_process_writes(db: sqlite3.Connection, path: Path) -> None:
    ticks = 0
    with closing(opened(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reserve, db, do())
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
                ticks += 1
            assert moved(path) == []
            other.execute("ROLLBACK")
    assert ticks == 5
    assert moved(path) == [-3]
    assert db.execute("PRAGMA busy_timeout").fetchone() == (5000,)


async def test_a_database_that_stays_locked_is_a_failure(
    db: sqlite3.Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.ledger.BUSY_S", 0.01)
    with closing(opened(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await reserve(db, do())


def test_a_thread_does_not_wait_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.ledger.BUSY_S", 0.01)
    with closing(opened(path)) as one, closing(opened(path)) as two, do(key="a").once(one) as first:
        with pytest.raises(TimeoutError, match="held this database"), do(key="b").once(two):
            pytest.fail("not its turn")
        first.answers(Reserved("r1"))


@pytest.mark.parametrize("end", ["commit", "rollback", "with", "script"])
async def test_a_transaction_ended_inside_the_block_is_an_error(db: sqlite3.Connection, end: str) -> None:
    with pytest.raises(Fatal, match="ended inside"):
        async with do().once(db) as first:
            match end:
                case "commit":
                    db.commit()
                case "rollback":
                    db.rollback()
                case "with":
                    with db:
                        db.execute("INSERT INTO moves VALUES ('x', 1)")
                case _:
                    db.executescript("SELECT 1")
            first.answers(Reserved("r1"))


async def test_an_effect_committed_without_its_answer_is_not_repeated(db: sqlite3.Connection, path: Path) -> None:
    with pytest.raises(Fatal):
        async with do().once(db) as first:
            db.execute("INSERT INTO moves VALUES ('x', -3)")
            db.commit()
            first.answers(Reserved("r1"))
    with pytest.raises(Fatal, match="may have taken effect without an answer"):
        await reserve(db, do())
    assert await release(db, undo())
    assert moved(path) == [-3, 3]


async def test_a_connection_in_a_transaction(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO moves VALUES ('x', 1)")
    with pytest.raises(OrchestratorError, match="in a transaction already"):
        await reserve(db, do())


async def test_a_block_within_a_block_of_one_call(db: sqlite3.Connection) -> None:
    call = do(Release(1))
    with pytest.raises(Fatal, match="would wait for itself"):
        async with call.once(db), call.once(db):
            pass
    async with call.once(db) as first:
        assert first


async def test_plain_with_in_an_async_participant(db: sqlite3.Connection) -> None:
    with pytest.raises(Fatal, match="async with"), do().once(db):
        pass


def test_plain_with_for_another_database() -> None:
    with pytest.raises(Fatal, match="async with"), do().once(Dictionary()):
        pass


async def test_something_that_is_no_database() -> None:
    with pytest.raises(Fatal, match="not str"):
        async with do().once("stock.db"):  # type: ignore[arg-type]
            pass


@pytest.mark.parametrize("how", ["row", "dict", "autocommit", "bytes"])
async def test_connections_as_users_open_them(path: Path, how: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None if how == "autocommit" else "")) as db:
        if how == "row":
            db.row_factory = sqlite3.Row
        if how == "dict":
            db.row_factory = lambda cursor, row: {c[0]: v for c, v in zip(cursor.description, row, strict=True)}
        if how == "bytes":
            db.text_factory = bytes
        assert await reserve(db, do()) == Reserved("r1")
        assert await reserve(db, do()) == Reserved("r1")
    assert moved(path) == [-3]


async def test_a_database_in_memory() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE moves (key TEXT, units INTEGER)")
        assert await reserve(db, do()) == Reserved("r1")
        assert await reserve(db, do()) == Reserved("r1")


async def test_what_is_remembered_survives_the_process(path: Path) -> None:
    for _ in range(2):
        with closing(opened(path)) as db:
            assert await reserve(db, do()) == Reserved("r1")
    assert moved(path) == [-3]


async def test_an_answer_that_is_declared_no_more(db: sqlite3.Connection) -> None:
    await reserve(db, do())
    with pytest.raises(Fatal, match="answered by Reserved, which its command declares no more"):
        async with do(Count(3), payload=b'{"units":3}').once(db):
            pass


# aiosqlite, and other databases.


async def test_an_aiosqlite_connection(path: Path) -> None:
    async with aiosqlite.connect(path) as db:

        async def carried_out() -> Reserved:
            async with do().once(db) as first:
                if not first:
                    return first.answer
                await db.execute("INSERT INTO moves VALUES ('x', -3)")
                return first.answers(Reserved("r1"))

        assert [await carried_out(), await carried_out()] == [Reserved("r1")] * 2
        with pytest.raises(RuntimeError):
            async with undo().once(db):
                await db.execute("INSERT INTO moves VALUES ('x', 3)")
                raise RuntimeError
        assert moved(path) == [-3]
        async with undo().once(db) as first:
            assert first
        with pytest.raises(Fatal, match="undone already"):
            await carried_out()


async def test_aiosqlite_ended_inside_and_begun_outside(path: Path) -> None:
    async with aiosqlite.connect(path) as db:
        with pytest.raises(Fatal, match="ended inside"):
            async with do().once(db) as first:
                await db.commit()
                first.answers(Reserved("r1"))
        await db.execute("INSERT INTO moves VALUES ('x', 1)")
        with pytest.raises(OrchestratorError, match="in a transaction already"):
            async with do(key="b").once(db):
                pass


async def test_tasks_share_an_aiosqlite_connection_and_some_are_cancelled(path: Path) -> None:
    async with aiosqlite.connect(path) as db:

        async def attempt(n: int) -> None:
            async with asyncio.timeout(0 if n % 3 == 0 else None), do(key=str(n)).once(db) as first:
                await db.execute("INSERT INTO moves VALUES ('x', 1)")
                first.answers(Reserved("r1"))

        async def tolerant(n: int) -> None:
            try:
                await attempt(n)
            except TimeoutError:
                assert n % 3 == 0

        async with anyio.create_task_group() as tasks:
            for n in range(9):
                tasks.start_soon(tolerant, n)
        assert not db.in_transaction
    assert moved(path) == [1] * 6


class Dictionary:
    """A Ledger in plain Python: what an adapter for another database has to do."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}
        self.effects: list[str] = []
        self._turn = anyio.Lock()

    @asynccontextmanager
    async def transaction(self, key: str) -> AsyncGenerator[None]:
        async with self._turn:
            before = dict(self.rows), list(self.effects)
            try:
                yield
            except BaseException:
                self.rows, self.effects = before
                raise

    async def find(self, key: str) -> bytes | None:
        return self.rows.get(key)

    async def put(self, key: str, record: bytes) -> None:
        self.rows[key] = record


async def test_a_ledger_of_another_database() -> None:
    ledger = Dictionary()

    async def carried_out(call: Call[None], fail: bool = False) -> Any:
        async with call.once(ledger) as first:
            if not first:
                return first.answer
            ledger.effects.append(call.key)
            if fail:
                raise RuntimeError
            return first.answers(Done() if call.undoes else Reserved("r1"))

    with pytest.raises(RuntimeError):
        await carried_out(do(), fail=True)
    assert ledger.rows == {}
    assert [await carried_out(do()), await carried_out(do())] == [Reserved("r1")] * 2
    assert [await carried_out(undo()), await carried_out(undo())] == [Done()] * 2
    assert ledger.effects == [DO, f"{DO}/undo"]
    with pytest.raises(Fatal, match="undone already"):
        await carried_out(do())


async def test_a_file_by_two_names_is_one(path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    with closing(opened(path)) as one, closing(opened(link)) as two:
        async with do(key="a").once(one) as first:
            with anyio.move_on_after(0), pytest.raises(anyio.get_cancelled_exc_class()):
                async with do(key="b").once(two):
                    pytest.fail("not its turn")
            first.answers(Reserved("r1"))
