"""An app to be killed: sagas of every shape, over participants that write down every call and every effect.

PROOF_BOOKS names the folder of two SQLite files. `effects.db` is the participants' own: what they did and undid, in
order, and what stands of it. `calls.db` has a row for each call as it came, and whether it came to its end. Neither
waits for the disk, since a kill -9 leaves to the system what was written.

What goes wrong is in the events: each command carries a mood, one word for how it is to go.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import anyio

from orchestrator import (
    App,
    Call,
    Child,
    Command,
    Compensate,
    Event,
    Fatal,
    Query,
    Refusal,
    Retry,
    Saga,
    Wait,
    hours,
    on,
    participant,
    step,
)
from orchestrator.messages import encode

ATTEMPT_S = 0.6
STEP_S = 2.0
MOODS = (
    "well",
    "slow",  # takes some time before its effect,
    "held",  # or with its transaction open
    "down",  # the first attempt fails, nothing done
    "lost",  # the first attempt is carried out, but its answer gets lost
    "late",  # the first attempt answers when its time is over
    "no",  # refused
    "gone",  # fails for good
)
FORWARD_MOODS = tuple(mood for mood in MOODS if mood not in ("no", "gone"))


class Did(Event):
    note: str = ""


class No(Refusal):
    pass


class Do(Command[Did, No]):
    task: str
    mood: str


class Take(Command):
    """Undo."""

    task: str
    mood: str


class Look(Query[Did, No]):
    task: str
    mood: str


class LinearWanted(Event):
    key: str
    moods: tuple[str, ...]


class ParallelWanted(Event):
    key: str
    moods: tuple[str, ...]


class ManyWanted(Event):
    key: str
    moods: tuple[str, ...]


class FamilyWanted(Event):
    key: str
    moods: tuple[str, ...]


class PartWanted(Event):
    key: str
    mood: str


class WaitingWanted(Event):
    key: str
    moods: tuple[str, ...]


class Decided(Event):
    key: str
    is_yes: bool


class Cancelled(Event):
    key: str


class Ended(Event):
    key: str


# Nobody looks after these sagas: a crash loop must not use their attempts up and leave them to a person.
PATIENT = Retry(attempts=500, timeout=ATTEMPT_S, initial=0.05, maximum=0.3)


class Linear(Saga, key="key", starts=LinearWanted):
    """Look, reserve, charge (the pivot), ship, announce; can be cancelled by an event."""

    key: str
    moods: tuple[str, ...]

    @step(retry=PATIENT)
    def look(self) -> Look:
        return Look("look", self.moods[0])

    @step(retry=PATIENT)
    def reserve(self) -> Do:
        return Do("reserve", self.moods[1])

    @reserve.compensate
    def release(self) -> Take:
        return Take("reserve", self.moods[0])

    @step(retry=PATIENT, pivot=True)
    def charge(self) -> Do:
        return Do("charge", self.moods[2])

    @charge.compensate
    def refund(self) -> Take:
        return Take("charge", self.moods[1])

    @step(retry=PATIENT)
    def ship(self) -> Do:
        return Do("ship", forward(self.moods[3]))

    @step
    def announce(self) -> Ended:
        return Ended(self.key)

    @on
    def cancelled(self, event: Cancelled) -> Compensate:
        return Compensate("the customer wants it no more")


class Parallel(Saga, key="key", starts=ParallelWanted):
    """Two branches with a time limit, joined by the pivot."""

    key: str
    moods: tuple[str, ...]

    @step(retry=PATIENT, timeout=STEP_S)
    def flight(self) -> Do:
        return Do("flight", self.moods[0])

    @flight.compensate
    def unbook_flight(self) -> Take:
        return Take("flight", self.moods[1])

    @step(after=(), retry=PATIENT, timeout=STEP_S)
    def hotel(self) -> Do:
        return Do("hotel", self.moods[1])

    @hotel.compensate
    def unbook_hotel(self) -> Take:
        return Take("hotel", self.moods[2])

    @step(after=hotel, retry=PATIENT)
    def spa(self) -> Do:
        return Do("spa", self.moods[2])

    @spa.compensate
    def unbook_spa(self) -> Take:
        return Take("spa", self.moods[0])

    @step(after=(flight, spa), retry=PATIENT, pivot=True)
    def pay(self) -> Do:
        return Do("pay", self.moods[3])

    @pay.compensate
    def refund(self) -> Take:
        return Take("pay", self.moods[0])


class Many(Saga, key="key", starts=ManyWanted):
    """A list of commands, three at a time."""

    key: str
    moods: tuple[str, ...]

    @step(at_once=3, retry=PATIENT)
    def gather(self) -> list[Do]:
        return [Do(f"gather {n}", mood) for n, mood in enumerate(self.moods)]

    @gather.compensate
    def scatter(self, command: Do) -> Take:
        return Take(command.task, "down" if command.mood == "slow" else "well")

    @step(retry=PATIENT, pivot=True)
    def pay(self) -> Do:
        return Do("pay", self.moods[-1])

    @pay.compensate
    def refund(self) -> Take:
        return Take("pay", "well")


class Part(Saga, key="key", starts=PartWanted):
    """The child of a family."""

    key: str
    mood: str

    @step(retry=PATIENT)
    def cut(self) -> Do:
        return Do("cut", self.mood)

    @cut.compensate
    def mend(self) -> Take:
        return Take("cut", "slow")

    @step(retry=PATIENT)
    def sew(self) -> Do:
        return Do("sew", forward(self.mood))

    @sew.compensate
    def unpick(self) -> Take:
        return Take("sew", "lost")


class Family(Saga, key="key", starts=FamilyWanted):
    """A command, then a list of children, then the pivot."""

    key: str
    moods: tuple[str, ...]

    @step(retry=PATIENT)
    def plan(self) -> Do:
        return Do("plan", self.moods[0])

    @plan.compensate
    def drop(self) -> Take:
        return Take("plan", self.moods[1])

    @step
    def make(self) -> list[Child[Part]]:
        return [Child(Part, PartWanted(f"{self.key} {n}", mood)) for n, mood in enumerate(self.moods[1:3])]

    @step(retry=PATIENT, pivot=True)
    def sell(self) -> Do:
        return Do("sell", self.moods[3])

    @sell.compensate
    def buy_back(self) -> Take:
        return Take("sell", "well")


class Waiting(Saga, key="key", starts=WaitingWanted):
    """A command, a decision from outside, a pause, then the pivot."""

    key: str
    moods: tuple[str, ...]

    @step(retry=PATIENT)
    def ask(self) -> Do:
        return Do("ask", self.moods[0])

    @ask.compensate
    def take_back(self) -> Take:
        return Take("ask", self.moods[1])

    @step
    def decision(self) -> Wait:
        return Wait(hours(48))

    @decision.on
    def decided(self, event: Decided) -> Compensate | None:
        return None if event.is_yes else Compensate("it was decided so")

    @step
    def pause(self) -> Wait:
        return Wait(0.3)

    @step(retry=PATIENT, pivot=True)
    def act(self) -> Do:
        return Do("act", self.moods[2])

    @act.compensate
    def revoke(self) -> Take:
        return Take("act", self.moods[0])


def forward(mood: str) -> str:
    """The mood, where only forward is left: nothing says no there."""
    return mood if mood in FORWARD_MOODS else "well"


class Works:
    """The participants' two files."""

    def __init__(self, folder: Path) -> None:
        self.effects = _opened(folder / "effects.db", EFFECTS)
        self.calls = _opened(folder / "calls.db", CALLS)

    @contextmanager
    def call(self, command: Command[Any, Any], call: Call[Works]) -> Generator[None]:
        """Write a call down before anything is done about it, and whether it came to its end."""
        row = (os.getpid(), call.key, call.undoes, call.attempt, encode(command))
        number = self.calls.execute(CAME, row).lastrowid
        try:
            yield
        finally:
            self.calls.execute("UPDATE call SET is_over = 1 WHERE number = ?", (number,))

    def close(self) -> None:
        self.effects.close()
        self.calls.close()


EFFECTS = """
    CREATE TABLE IF NOT EXISTS effect (number INTEGER PRIMARY KEY, key TEXT NOT NULL, is_undo INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS standing (key TEXT PRIMARY KEY NOT NULL);"""
CALLS = """
    CREATE TABLE IF NOT EXISTS call (
        number INTEGER PRIMARY KEY, pid INTEGER, key TEXT, undoes TEXT, attempt INTEGER, data BLOB,
        is_over INTEGER NOT NULL DEFAULT 0);"""
CAME = "INSERT INTO call (pid, key, undoes, attempt, data) VALUES (?, ?, ?, ?, ?)"


def _opened(path: Path, tables: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; {tables}")
    return connection


@participant
async def do(command: Do, call: Call[Works]) -> Did | No:
    works = call.resources
    with works.call(command, call):
        await before(command.mood, call.attempt)
        async with call.once(works.effects) as first:
            answer: Did | No
            if not first:
                answer = first.answer
            elif command.mood == "no":
                answer = first.answers(No())
            else:
                works.effects.execute("INSERT INTO effect (key, is_undo) VALUES (?, 0)", (call.key,))
                await within(command.mood)
                works.effects.execute("INSERT INTO standing VALUES (?)", (call.key,))
                answer = first.answers(Did("of " + command.task))
        await after(command.mood, call.attempt)
    return answer


@participant
async def take(command: Take, call: Call[Works]) -> None:
    works = call.resources
    with works.call(command, call):
        mood = forward(command.mood)
        await before(mood, call.attempt)
        async with call.once(works.effects) as first:
            if first:
                works.effects.execute("INSERT INTO effect (key, is_undo) VALUES (?, 1)", (call.undoes,))
                await within(mood)
                works.effects.execute("DELETE FROM standing WHERE key = ?", (call.undoes,))
        await after(mood, call.attempt)


@participant
async def look(command: Look, call: Call[Works]) -> Did | No:
    with call.resources.call(command, call):
        await before(command.mood, call.attempt)
        await after(command.mood, call.attempt)
    return No() if command.mood == "no" else Did()


async def before(mood: str, attempt: int) -> None:
    """What a mood does before the effect."""
    if mood == "slow":
        await anyio.sleep(0.08)
    if mood == "down" and attempt == 1:
        raise ConnectionError("it is down")
    if mood == "gone":
        raise Fatal("it is gone")


async def within(mood: str) -> None:
    """What a mood does in the middle of the effect's transaction."""
    if mood == "held":
        await anyio.sleep(0.02)


async def after(mood: str, attempt: int) -> None:
    """What a mood does between the effect and the answer."""
    if mood == "lost" and attempt == 1:
        raise ConnectionError("its answer was lost")
    if mood == "late" and attempt == 1:
        await anyio.sleep(2 * ATTEMPT_S)


@asynccontextmanager
async def open_works() -> AsyncGenerator[Works]:
    with closing(Works(Path(os.environ["PROOF_BOOKS"]))) as works:
        yield works


app = App(
    "works",
    sagas=[Linear, Parallel, Many, Part, Family, Waiting],
    participants=[do, take, look],
    resources=open_works,
)
