"""Statements over many rows at once.

Each step of a statement gives up the interpreter's lock, and while the event loop is busy it takes milliseconds to get
it back: a commit of 256 transitions took 2 s in statements of one row each, 20 ms in statements of many.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain

from .rows import Row

MOST_ROWS = 64
LENGTHS = (MOST_ROWS, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)  # of the lists: few, so that few statements are prepared


def write_many(connection: sqlite3.Connection, sql: str, rows: Sequence[Row], alone: str = "") -> None:
    """Run SQL in which `VALUES *` stands for a list of rows, all of the same length; `alone` does the same for a single
    row, where that spares SQLite a list of its own.
    """
    for part in _parts(rows) if rows else ():
        if alone and len(part) == 1:
            connection.execute(alone, part[0])
        else:
            connection.execute(with_rows(sql, len(part), len(part[0])), list(chain.from_iterable(part)))


def read_many(connection: sqlite3.Connection, sql: str, rows: Sequence[Row]) -> list[Row]:
    """The rows that such a query gives."""
    found: list[Row] = []
    for part in _parts(rows) if rows else ():
        found += connection.execute(with_rows(sql, len(part), len(part[0])), list(chain.from_iterable(part)))
    return found


def _parts(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    start, left = 0, len(rows)
    for length in LENGTHS:
        while left >= length:
            yield rows[start : start + length]
            start += length
            left -= length


@lru_cache(maxsize=512)
def with_rows(sql: str, rows: int, columns: int) -> str:
    """SQL with placeholders for so many rows in place of `VALUES *`."""
    row = "(" + ", ".join("?" * columns) + ")"
    return sql.replace("VALUES *", "VALUES " + ", ".join([row] * rows))
