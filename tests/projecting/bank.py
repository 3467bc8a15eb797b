"""A bank for the tests: what is paid, and read models of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, ClassVar

import anyio

from orchestrator import App, Event, Projection, Recorded, project


class Paid(Event):
    cents: int


class Noted(Event):
    text: str


class PaidInWords(Event, type="Paid"):
    """What another program once wrote under the same type."""

    words: str


class Sums(Projection):
    """The sum, and every payment: one that is missing, twice or out of turn shows."""

    tables = """
        CREATE TABLE sum (cents INTEGER NOT NULL) STRICT;
        INSERT INTO sum VALUES (0);
        CREATE TABLE payment (position INTEGER PRIMARY KEY, cents INTEGER NOT NULL) STRICT;
    """
    bad: ClassVar[set[int]] = set()  # payments that the code of this day cannot take

    @project
    def paid(self, event: Paid, at: Recorded) -> None:
        self.db.execute("UPDATE sum SET cents = cents + ?", (event.cents,))
        if event.cents in self.bad:
            raise ValueError(f"{event.cents} is a bad number")
        self.db.execute("INSERT INTO payment VALUES (?, ?)", (at.position, event.cents))


class Texts(Projection):
    tables = "CREATE TABLE texts (text TEXT NOT NULL) STRICT"

    @project
    def noted(self, event: Noted) -> None:
        self.db.execute("INSERT INTO texts VALUES (?)", (event.text,))


app = App("bank", projections=[Sums, Texts])


def payments(db: sqlite3.Connection) -> list[Any]:
    """All of them in order; says so where the sum is another."""
    db.execute("BEGIN")
    found = [cents for (cents,) in db.execute("SELECT cents FROM payment ORDER BY position")]
    assert db.execute("SELECT cents FROM sum").fetchall() == [(sum(found),)]
    db.execute("COMMIT")
    return found


async def until(condition: Callable[[], object]) -> None:
    """Wait until the function gives something true, for at most ten seconds."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - of a file, or of another process
            await anyio.sleep(0.01)


def read(db: sqlite3.Connection) -> list[Any]:
    """The payments, by a connection that is closed then."""
    try:
        return payments(db)
    finally:
        db.close()
