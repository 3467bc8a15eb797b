"""Projections of a program that runs: up to date, built anew, stopped, paused, changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from orchestrator import (
    App,
    NotAccepting,
    NotFound,
    Orchestrator,
    OrchestratorError,
    Projection,
    Refused,
    open_projection,
    project,
)
from orchestrator.memory import MemoryStore
from orchestrator.ports import Store
from orchestrator.projecting.files import Claim, Files, directory_of, names_in
from orchestrator.projecting.looking import State
from orchestrator.projecting.pace import Pace
from orchestrator_adapters.sqlite import SQLiteStore

from . import bank
from .bank import Noted, Paid, PaidInWords, Sums, Texts, payments, read, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "bank.db")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bank.db"


@pytest.fixture(autouse=True)
def good_numbers() -> Iterator[None]:
    yield
    Sums.bad.clear()


async def pay(orchestrator: Orchestrator, *cents: int) -> int:
    """The position of the last."""
    return (await orchestrator.events.append("account", [Paid(each) for each in cents])).position


async def test_rows_follow_the_log(store: Store) -> None:
    async with Orchestrator(bank.app, store) as orchestrator:
        sums = orchestrator.projection(Sums)
        await sums.reached(await pay(orchestrator, 1, 2))
        assert read(sums.open()) == [1, 2]
        await sums.reached(await pay(orchestrator, 3))
        assert read(sums.open()) == [1, 2, 3]


async def test_idle_means_that_projections_know_all(store: Store) -> None:
    async with Orchestrator(bank.app, store) as orchestrator:
        await pay(orchestrator, *range(1200))
        await orchestrator.events.append("notes", Noted("hello"))
        await orchestrator.until_idle()
        assert read(orchestrator.projection(Sums).open()) == [*range(1200)]
        db = orchestrator.projection("Texts").open()
        assert db.execute("SELECT text FROM texts").fetchall() == [("hello",)]
        db.close()


async def test_a_restart_goes_on_where_it_was(path: Path) -> None:
    for number in range(3):
        async with Orchestrator(bank.app, SQLiteStore(path)) as orchestrator:
            await orchestrator.projection(Sums).reached(await pay(orchestrator, number))
    assert read(open_projection(path, Sums)) == [0, 1, 2]
    assert read(open_projection(f"sqlite:///{path}", "Sums")) == [0, 1, 2]
    assert names_in(directory_of(path)) == ["Sums", "Texts"]
    assert Files(directory_of(path), "Sums").numbers() == [1]


async def test_a_projection_that_is_not_built_cannot_be_read(path: Path) -> None:
    with pytest.raises(NotFound, match="Sums has not been built"):
        open_projection(path, Sums)
    async with Orchestrator(bank.app, SQLiteStore(path)) as orchestrator:
        with pytest.raises(NotFound, match="there are Sums, Texts"):
            await orchestrator.projection("Nothing").rebuild()


async def test_the_files_are_their_owners_only(path: Path) -> None:
    async with Orchestrator(bank.app, SQLiteStore(path)) as orchestrator:
        await orchestrator.projection(Sums).reached(await pay(orchestrator, 1))
        directory = directory_of(path)
        assert directory.stat().st_mode & 0o077 == 0
        assert [it.name for it in directory.glob("*.db*") if it.stat().st_mode & 0o077] == []


async def test_a_reader_can_not_write(store: Store) -> None:
    async with Orchestrator(bank.app, store) as orchestrator:
        await orchestrator.projection(Sums).reached(await pay(orchestrator, 1))
        db = orchestrator.projection(Sums).open()
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            db.execute("DELETE FROM payment")
        db.close()


# Built anew.


async def test_a_rebuild_gives_the_same_rows_while_events_arrive(store: Store) -> None:
    async with Orchestrator(bank.app, store) as orchestrator:
        sums = orchestrator.projection(Sums)
        cents = [*range(3000)]
        await sums.reached(await pay(orchestrator, *cents))
        seen: list[int] = []

        async def look() -> None:
            while True:
                seen.append(len(read(sums.open())))
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            tasks.start_soon(sums.rebuild)
            for each in range(3000, 3100):
                cents.append(each)
                last = await pay(orchestrator, each)
            await sums.rebuild()
            await sums.reached(last)
            tasks.cancel_scope.cancel()
        assert read(sums.open()) == cents
        assert seen[0] == 3000
        assert seen == sorted(seen)  # a reader never goes back


async def test_an_open_reader_reads_on_what_was_there(store: Store) -> None:
    async with Orchestrator(bank.app, store) as orchestrator:
        sums = orchestrator.projection(Sums)
        await sums.reached(await pay(orchestrator, 1, 2))
        before = sums.open()
        before.execute("BEGIN")
        assert payments_within(before) == [1, 2]
        await sums.rebuild()
        await sums.reached(await pay(orchestrator, 3))
        assert payments_within(before) == [1, 2]
        before.execute("COMMIT")
        assert payments(before) == [1, 2]
        before.close()
        assert read(sums.open()) == [1, 2, 3]


def payments_within(db: sqlite3.Connection) -> list[int]:
    return [cents for (cents,) in db.execute("SELECT cents FROM payment ORDER BY position")]


async def test_what_was_replaced_goes_a_minute_later(path: Path) -> None:
    clock = Clock()
    files = Files(directory_of(path), "Sums")
    async with Orchestrator(bank.app, SQLiteStore(path), clock=clock) as orchestrator:
        sums = orchestrator.projection(Sums)
        await sums.reached(await pay(orchestrator, 1))
        await sums.rebuild()
        assert files.numbers() == [1, 2]
        assert files.current() == 2
        await clock.passes(61)
        await until(lambda: files.numbers() == [2])
        assert read(sums.open()) == [1]


class Clock:
    """One that the test moves."""

    def __init__(self) -> None:
        self._now = 1_000_000.0
        self._moved = anyio.Event()

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        until = self._now + seconds
        while self._now < until:
            await self._moved.wait()

    async def passes(self, seconds: float) -> None:
        self._now += seconds
        moved, self._moved = self._moved, anyio.Event()
        moved.set()


async def test_a_changed_version_is_built_beside_the_old_one(path: Path) -> None:
    async with Orchestrator(bank.app, SQLiteStore(path)) as orchestrator:
        await orchestrator.projection(Sums).reached(await pay(orchestrator, 1, 2))

    app = App("bank", projections=[sums_in_tenths()])
    Sums.bad.add(2)
    async with Orchestrator(app, SQLiteStore(path)) as orchestrator:
        sums = orchestrator.projection("Sums")
        with pytest.raises(OrchestratorError, match="not yet"):
            await sums.reached(2)
        seen = await sums.look()
        assert (seen.state, seen.current and seen.current.bookmark.version) == (State.LIVE, 1)
        assert seen.problem is not None
        assert seen.building is not None
        assert (seen.building.bookmark.version, seen.building.bookmark.position) == (2, 1)
        assert read(sums.open()) == [1, 2]  # the old one is read
        Sums.bad.clear()
        await sums.resume()
        await sums.reached(2)
        assert read(sums.open()) == [10, 20]


def sums_in_tenths() -> type[Projection]:
    """The projection as the next release has it."""

    class Sums(bank.Sums, version=2):
        @project
        def paid(self, event: Paid) -> None:
            if event.cents in self.bad:
                raise ValueError("not yet")
            self.db.execute("INSERT INTO payment (cents) VALUES (?)", (10 * event.cents,))
            self.db.execute("UPDATE sum SET cents = cents + ?", (10 * event.cents,))

    return Sums


async def test_changed_tables_are_built_anew(path: Path) -> None:
    async with Orchestrator(bank.app, SQLiteStore(path)) as orchestrator:
        await orchestrator.projection(Sums).reached(await pay(orchestrator, 1, 2))
    app = App("bank", projections=[sums_with_an_index()])
    async with Orchestrator(app, SQLiteStore(path)) as orchestrator:
        sums = orchestrator.projection("Sums")
        await sums.reached(2)
        db = sums.open()
        assert db.execute("SELECT name FROM sqlite_schema WHERE name = 'payment_cents'").fetchall()
        assert read(db) == [1, 2]


def sums_with_an_index() -> type[Projection]:
    class Sums(bank.Sums):
        tables = bank.Sums.tables + "; CREATE INDEX payment_cents ON payment (cents)"

    return Sums


async def test_another_log_is_read_from_its_start(path: Path, tmp_path: Path) -> None:
    async with Orchestrator(bank.app, SQLiteStore(path)) as orchestrator:
        await orchestrator.projection(Sums).reached(await pay(orchestrator, 1, 2))
        async with SQLiteStore(path, read_only=True) as store:
            await store.backup(tmp_path / "backup.db")
        await orchestrator.projection(Sums).reached(await pay(orchestrator, 3, 4))
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    (tmp_path / "backup.db").rename(path)  # 3 and 4 never were
    async with Orchestrator(App("bank"), SQLiteStore(path)) as orchestrator:
        await pay(orchestrator, 5, 6, 7)
    async with Orchestrator(bank.app, SQLiteStore(path)) as orchestrator:
        await orchestrator.projection(Sums).reached(5)
        assert read(orchestrator.projection(Sums).open()) == [1, 2, 5, 6, 7]


async def test_a_damaged_file_is_built_anew(path: Path) -> None:
    async with Orchestrator(bank.app, SQLiteStore(path)) as orchestrator:
        await orchestrator.projection(Sums).reached(await pay(orchestrator, 1, 2))
    file = directory_of(path) / "Sums.1.db"
    file.write_bytes(b"nothing of SQLite's" * 1000)
    async with Orchestrator(bank.app, SQLiteStore(path)) as orchestrator:
        await orchestrator.projection(Sums).reached(2)
        assert read(orchestrator.projection(Sums).open()) == [1, 2]


# Stopped.


async def test_an_event_that_fails_stops_its_projection_only(store: Store) -> None:
    Sums.bad.add(3)
    async with Orchestrator(bank.app, store) as orchestrator:
        sums, texts = orchestrator.projection(Sums), orchestrator.projection(Texts)
        await sums.reached(await pay(orchestrator, 1))
        last = await pay(orchestrator, 2, 3, 4)
        with pytest.raises(OrchestratorError, match=r"account@3 \(Paid\) at position 3(.|\n)*3 is a bad number"):
            await sums.reached(last)
        await texts.reached(await orchestrator.events.append("notes", Noted("on")))
        await orchestrator.until_idle()  # it waits for a person, nobody waits for it
        seen = await sums.look()
        assert seen.state is State.STOPPED
        assert seen.current is not None
        assert (seen.current.bookmark.failed_position, seen.current.behind) == (3, 3)
        assert read(sums.open()) == [1, 2]  # what stands before it is in

        with pytest.raises(Refused, match=r"neither paused nor stopped"):
            await texts.resume()
        await sums.resume()  # nothing has changed: it stops there again, and says since when
        with pytest.raises(OrchestratorError, match="3 is a bad number"):
            await sums.reached(last)
        again = (await sums.look()).problem
        assert again is not None
        assert again.failed_since == seen.current.bookmark.failed_since

        Sums.bad.clear()
        await sums.resume()
        await sums.reached(last)
        assert read(sums.open()) == [1, 2, 3, 4]
        assert (await sums.look()).state is State.LIVE


async def test_a_start_tries_again_where_it_stopped(path: Path) -> None:
    Sums.bad.add(3)
    async with Orchestrator(bank.app, SQLiteStore(path)) as orchestrator:
        last = await pay(orchestrator, 1, 3, 4)
        with pytest.raises(OrchestratorError):
            await orchestrator.projection(Sums).reached(last)
    Sums.bad.clear()
    async with Orchestrator(bank.app, SQLiteStore(path)) as orchestrator:
        await orchestrator.projection(Sums).reached(last)
        assert read(orchestrator.projection(Sums).open()) == [1, 3, 4]


async def test_an_event_that_cannot_be_read_stops_too(store: Store) -> None:
    async with Orchestrator(bank.app, store) as orchestrator:
        await pay(orchestrator, 1)
        last = await orchestrator.events.append("account", PaidInWords("two"))
        with pytest.raises(OrchestratorError, match=r"account@2 .* at position 2 cannot be read"):
            await orchestrator.projection(Sums).reached(last)


async def test_a_rebuild_that_fails_leaves_what_was_there(store: Store) -> None:
    async with Orchestrator(bank.app, store) as orchestrator:
        sums = orchestrator.projection(Sums)
        await sums.reached(await pay(orchestrator, 1, 2, 3))
        Sums.bad.add(2)
        with pytest.raises(OrchestratorError, match="2 is a bad number"):
            await sums.rebuild()
        assert read(sums.open()) == [1, 2, 3]
        await sums_reached_past(orchestrator)
        Sums.bad.clear()
        await sums.rebuild()
        assert read(sums.open()) == [1, 2, 3, 4]
        seen = await sums.look()
        assert (seen.state, seen.building) == (State.LIVE, None)


async def sums_reached_past(orchestrator: Orchestrator) -> None:
    """What is read goes on while what is built has stopped."""
    sums = orchestrator.projection(Sums)
    await pay(orchestrator, 4)
    await until(lambda: read(sums.open()) == [1, 2, 3, 4])


async def test_a_rebuild_passes_by_what_stopped_the_old_one(store: Store) -> None:
    Sums.bad.add(2)
    async with Orchestrator(bank.app, store) as orchestrator:
        sums = orchestrator.projection(Sums)
        last = await pay(orchestrator, 1, 2, 3)
        with pytest.raises(OrchestratorError):
            await sums.reached(last)
        Sums.bad.clear()
        await sums.rebuild()
        assert read(sums.open()) == [1, 2, 3]


# One transaction.


async def test_rows_and_place_are_committed_together_or_not_at_all(path: Path) -> None:
    """The file refuses the bookmark for a while: no row is there without it, and none twice afterwards."""
    async with Orchestrator(bank.app, SQLiteStore(path)) as orchestrator:
        sums = orchestrator.projection(Sums)
        await sums.reached(await pay(orchestrator, 1))
        with sqlite3.connect(directory_of(path) / "Sums.1.db") as breaking:
            breaking.execute(
                "CREATE TRIGGER no BEFORE UPDATE ON orchestrator_projection BEGIN SELECT RAISE(ABORT, 'no room'); END"
            )
        breaking.close()
        last = await pay(orchestrator, 2, 3)
        projector = orchestrator._engine.projections["Sums"]
        await until(lambda: projector.trouble.text)
        assert "no room" in projector.trouble.text
        assert read(sums.open()) == [1]
        with sqlite3.connect(directory_of(path) / "Sums.1.db") as mending:
            mending.execute("DROP TRIGGER no")
        mending.close()
        with anyio.fail_after(10):
            await sums.reached(last)
        assert read(sums.open()) == [1, 2, 3]


class Meddling(bank.Sums):
    """Handlers that would end the transaction, each in its way."""

    how: str = ""

    @project
    def paid(self, event: Paid) -> None:
        self.db.execute("INSERT INTO payment (cents) VALUES (?)", (event.cents,))
        match self.how:
            case "commit":
                self.db.commit()
            case "with":
                with self.db:
                    pass
            case "script":
                self.db.executescript("SELECT 1")
            case "sql":
                self.db.execute("COMMIT")
            case _:
                self.db.execute("UPDATE sum SET cents = cents + ?", (event.cents,))


@pytest.mark.parametrize("how", ["commit", "with", "script", "sql"])
async def test_a_handler_does_not_end_the_transaction(path: Path, how: str) -> None:
    app = App("bank", projections=[Meddling])
    Meddling.how = how
    async with Orchestrator(app, SQLiteStore(path)) as orchestrator:
        meddling = orchestrator.projection(Meddling)
        last = await pay(orchestrator, 1, 2)
        with pytest.raises(OrchestratorError, match=r"neither commits nor rolls back|ended the transaction"):
            await meddling.reached(last)
    Meddling.how = ""
    async with Orchestrator(app, SQLiteStore(path)) as orchestrator:
        meddling = orchestrator.projection(Meddling)
        await meddling.reached(last)
        assert read(meddling.open()) == [1, 2]  # also the one that had left rows without the bookmark


# Paused; kept by somebody else.


async def test_a_pause_holds_over_a_restart(path: Path) -> None:
    async with Orchestrator(bank.app, SQLiteStore(path)) as orchestrator:
        sums = orchestrator.projection(Sums)
        await sums.reached(await pay(orchestrator, 1))
        await sums.pause("looking into it")
        with pytest.raises(Refused, match="paused already"):
            await sums.pause()
        with pytest.raises(Refused, match="resume it first"):
            await sums.rebuild()
        await pay(orchestrator, 2)
        await orchestrator.until_idle()
    async with Orchestrator(bank.app, SQLiteStore(path)) as orchestrator:
        sums = orchestrator.projection(Sums)
        last = await pay(orchestrator, 3)
        await orchestrator.until_idle()
        seen = await sums.look()
        assert seen.pause is not None
        assert (seen.state, seen.pause.why, seen.current and seen.current.behind) == (
            State.PAUSED,
            "looking into it",
            2,
        )
        assert read(sums.open()) == [1]
        await sums.resume()
        await sums.reached(last)
        assert read(sums.open()) == [1, 2, 3]


async def test_a_projection_that_another_program_keeps_is_waited_for(path: Path) -> None:
    files = Files(directory_of(path), "Sums")
    files.make_directory()
    claim = Claim(files)
    claim.acquire()
    async with Orchestrator(bank.app, SQLiteStore(path)) as orchestrator:
        last = await pay(orchestrator, 1)
        projector = orchestrator._engine.projections["Sums"]
        await until(lambda: "keeps this projection" in projector.trouble.text)
        claim.release()
        with anyio.fail_after(5):
            await orchestrator.projection(Sums).reached(last)
        assert projector.trouble.text == ""


async def test_who_waits_is_told_when_nothing_keeps_it_any_more(path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        async with Orchestrator(bank.app, SQLiteStore(path)) as orchestrator:
            sums = orchestrator.projection(Sums)
            await sums.reached(await pay(orchestrator, 1))
            told = anyio.Event()

            async def wait() -> None:
                with pytest.raises(NotAccepting, match="nothing keeps projection Sums any more"):
                    await sums.reached(99)
                told.set()

            tasks.start_soon(wait)
            await anyio.lowlevel.checkpoint()
        with anyio.fail_after(5):
            await told.wait()


async def test_a_place_that_cannot_be_written_leaves_the_sagas_alone(path: Path) -> None:
    directory_of(path).write_text("in the way")
    async with Orchestrator(bank.app, SQLiteStore(path)) as orchestrator:
        last = await pay(orchestrator, 1)
        projector = orchestrator._engine.projections["Sums"]
        await until(lambda: projector.trouble.text)
        directory_of(path).unlink()
        with anyio.fail_after(10):
            await orchestrator.projection(Sums).reached(last)


def test_projections_go_slower_beside_other_work() -> None:
    busy = False
    pace = Pace(500, lambda: busy)
    assert pace.batch == 500
    busy = True
    assert pace.batch < 500
    assert Pace(10, lambda: True).batch == 10
