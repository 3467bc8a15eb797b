"""What a store says to SQLite: every connection that is opened meanwhile keeps its statements and their parameters."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch


class Said(NamedTuple):
    """A statement; `many`: its parameters are a list of rows, for `executemany`."""

    sql: str
    parameters: Any
    many: bool = False

    @property
    def verb(self) -> str:
        return self.sql.split(None, 1)[0].upper()

    @property
    def writes(self) -> bool:
        return self.verb in ("INSERT", "UPDATE", "DELETE", "REPLACE")

    @property
    def bytes(self) -> int:
        """Of its texts and blobs."""
        rows = self.parameters if self.many else [self.parameters]
        return sum(len(value) for row in rows for value in row if isinstance(value, (str, bytes, bytearray)))

    def to(self, connection: sqlite3.Connection) -> None:
        """Say it to another."""
        if self.many:
            connection.executemany(self.sql, self.parameters)
        else:
            connection.execute(self.sql, self.parameters)


class Recording(sqlite3.Connection):
    """A connection with a memory. It keeps the last place among its bases, so that it sees what reaches SQLite."""

    said: list[Said]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.said = []
        super().__init__(*args, **kwargs)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        self.said.append(Said(sql, parameters))
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        rows = list(parameters)
        self.said.append(Said(sql, rows, many=True))
        return super().executemany(sql, rows)


@contextmanager
def recorded() -> Iterator[list[Recording]]:
    """The connections that are opened in the block."""
    opened: list[Recording] = []
    connect = sqlite3.connect

    def connecting(*args: Any, factory: type[sqlite3.Connection] = sqlite3.Connection, **kwargs: Any) -> Recording:
        bases = (Recording,) if factory is sqlite3.Connection else (factory, Recording)
        connection: Recording = connect(*args, factory=type(factory.__name__, bases, {}), **kwargs)
        opened.append(connection)
        return connection

    with patch("sqlite3.connect", connecting):
        yield opened


def writer(connections: Iterable[Recording]) -> Recording:
    """The one that wrote the most."""
    return max(connections, key=lambda each: sum(said.writes for said in each.said))
