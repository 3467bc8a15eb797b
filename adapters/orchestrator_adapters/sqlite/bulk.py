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
    """Pieces whose lengths are powers of two, so that few different statements are prepared."""
    start = 0
    while start < len(rows):
        size = min(MOST_ROWS, 1 << ((len(rows) - start).bit_length() - 1))
        yield rows[start : start + size]
        start += size


@lru_cache(maxsize=512)
def with_rows(sql: str, rows: int, columns: int) -> str:
    """SQL with placeholders for so many rows in place of `VALUES *`."""
    row = "(" + ", ".join("?" * columns) + ")"
    return sql.replace("VALUES *", "VALUES " + ", ".join([row] * rows))
