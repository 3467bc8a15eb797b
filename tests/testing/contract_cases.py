"""Participants that break the contract, each in its way; run by test_contract.py, not collected here."""

import json
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from orchestrator import Call, Command, Event, Fatal, Participant, Refusal, participant
from orchestrator.testing import ParticipantContract

Db = sqlite3.Connection


class Taken(Event):
    left: int


class SoldOut(Refusal):
    left: int


class Take(Command[Taken, SoldOut]):
    units: int


class Give(Command):
    units: int


class Contract(ParticipantContract):
    command = Take(2)
    undo_command = Give(2)
    refused_command = Take(11)

    @asynccontextmanager
    async def open_resources(self, place: Path) -> AsyncGenerator[Db]:
        with closing(sqlite3.connect(place / "shelf.db", isolation_level=None, check_same_thread=False)) as db:
            db.executescript(
                "PRAGMA synchronous = OFF;"  # a kill is no power cut
                "CREATE TABLE IF NOT EXISTS shelf (id INTEGER PRIMARY KEY, units INTEGER);"
                "CREATE TABLE IF NOT EXISTS seen (key TEXT PRIMARY KEY, row TEXT);"
                "INSERT OR IGNORE INTO shelf VALUES (1, 10);"
            )
            yield db

    def effects(self, resources: Db) -> Any:
        return units(resources)

    def world_turns(self, resources: Db) -> None:
        resources.execute("UPDATE shelf SET units = 20")


def units(db: Db) -> int:
    found: int = db.execute("SELECT units FROM shelf").fetchone()[0]
    return found


def move(db: Db, by: int) -> Taken | SoldOut:
    left = units(db) + by
    if left < 0:
        return SoldOut(left - by)
    db.execute("UPDATE shelf SET units = ?", [left])
    return Taken(left)


# No idea of keys.


def naive() -> tuple[Participant[Db], Participant[Db]]:
    @participant
    async def take(command: Take, call: Call[Db]) -> Taken | SoldOut:
        return move(call.resources, -command.units)

    @participant
    async def give(command: Give, call: Call[Db]) -> None:
        move(call.resources, command.units)

    return take, give


class TestNaive(Contract):
    participant, undo_participant = naive()


# Right, as plain functions with the kit.


def threaded() -> tuple[Participant[Db], Participant[Db]]:
    @participant
    def take(command: Take, call: Call[Db]) -> Taken | SoldOut:
        with call.once(call.resources) as first:
            if not first:
                return first.answer
            return first.answers(move(call.resources, -command.units))

    @participant
    def give(command: Give, call: Call[Db]) -> None:
        with call.once(call.resources) as first:
            if first:
                move(call.resources, command.units)

    return take, give


class TestThreaded(Contract):
    participant, undo_participant = threaded()


# By hand, right but for one flaw. What is kept of a key: [units, what was left or -1 if refused, whether it is undone].

MEMORY: dict[str, list[Any]] = {}


def by_hand(flaw: str) -> tuple[Participant[Db], Participant[Db]]:
    def seen(db: Db, key: str) -> list[Any] | None:
        if flaw == "memory":
            return MEMORY.get(key)
        row = db.execute("SELECT row FROM seen WHERE key = ?", [key]).fetchone()
        return row and json.loads(row[0])

    def note(db: Db, key: str, row: list[Any]) -> None:
        if flaw == "memory":
            MEMORY[key] = row
        else:
            db.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", [key, json.dumps(row)])

    def again(db: Db, row: list[Any], command: Take) -> Taken | SoldOut:
        asked, left, undone = row
        if undone and flaw != "done again":
            raise Fatal("undone already")
        if asked != command.units and flaw != "any payload":
            raise Fatal("another payload")
        if flaw == "another answer" and left >= 0:
            left = units(db)
        return SoldOut(10) if left < 0 else Taken(left)

    @participant
    async def take(command: Take, call: Call[Db]) -> Taken | SoldOut:
        db = call.resources
        row = seen(db, call.key)
        if flaw == "hurried":
            await anyio.lowlevel.checkpoint()
        async with transaction(db):
            if flaw != "hurried":
                row = seen(db, call.key)
            if row is not None:
                return again(db, row, command)
            if flaw == "answer first":
                note(db, call.key, [command.units, units(db) - command.units, False])
                db.execute("COMMIT")
                db.execute("BEGIN")
            answer = move(db, -command.units)
            if flaw == "two transactions":
                db.execute("COMMIT")
                db.execute("BEGIN")
            if isinstance(answer, Taken):
                note(db, call.key, [command.units, answer.left, False])
            elif flaw != "refusal forgotten":
                note(db, call.key, [command.units, -1, False])
        return answer

    @participant
    async def give(command: Give, call: Call[Db]) -> None:
        db = call.resources
        assert call.undoes is not None
        async with transaction(db):
            row = seen(db, call.undoes)
            if row is None and flaw == "undo fails":
                raise LookupError("nothing to undo")
            if row is not None and row[1] >= 0 and (flaw == "undo twice" or not row[2]):
                move(db, command.units)
            if flaw == "undo in two":
                db.execute("COMMIT")
                db.execute("BEGIN")
            if row is not None or flaw != "no tombstone":
                note(db, call.undoes, [*(row or [0, -1])[:2], True])

    return take, give


@asynccontextmanager
async def transaction(db: Db) -> AsyncGenerator[None]:
    """Waits for its turn, also where tasks share a connection."""
    while db.in_transaction:  # noqa: ASYNC110 the end of a transaction is no event
        await anyio.sleep(0.001)
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


class TestByHand(Contract):
    participant, undo_participant = by_hand("")


class Quick(Contract):
    """For flaws that have nothing to do with crashes."""

    test_a_crash_between_effect_and_answer = None
    test_a_crash_between_effect_and_answer_of_the_undo = None


class TestMemory(Contract):
    participant, undo_participant = by_hand("memory")


class TestTwoTransactions(Contract):
    participant, undo_participant = by_hand("two transactions")


class TestAnswerFirst(Contract):
    participant, undo_participant = by_hand("answer first")


class TestUndoTwice(Contract):
    participant, undo_participant = by_hand("undo twice")


class TestUndoInTwo(Contract):
    participant, undo_participant = by_hand("undo in two")


class TestNoTombstone(Quick):
    participant, undo_participant = by_hand("no tombstone")


class TestDoneAgain(Quick):
    participant, undo_participant = by_hand("done again")


class TestAnyPayload(Quick):
    participant, undo_participant = by_hand("any payload")


class TestRefusalForgotten(Quick):
    participant, undo_participant = by_hand("refusal forgotten")


class TestAnotherAnswer(Quick):
    participant, undo_participant = by_hand("another answer")


class TestHurried(Quick):
    participant, undo_participant = by_hand("hurried")


class TestUndoFails(Quick):
    participant, undo_participant = by_hand("undo fails")
