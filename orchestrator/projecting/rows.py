"""What is in the file of a projection: its own tables, and the bookmark that says how far in the log they are."""

from __future__ import annotations

import os
import sqlite3
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from ..errors import BadMessage, OrchestratorError, StoreUnavailable
from ..projection import BOOKMARK_TABLE, Projection, Shape, shape_of
from ..recorded import Logged, Recorded

BUSY_TIMEOUT_S = 5.0
WAL_LIMIT_BYTES = 16 * 1024 * 1024
LONGEST_REASON = 20_000  # characters of a traceback that are kept

# What goes by itself, or when somebody makes room: tried again. Anything else that SQLite says in a handler is said of
# the handler's SQL or of its rows.
PASSING = (
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_CANTOPEN",
    "SQLITE_READONLY",
    "SQLITE_NOMEM",
    "SQLITE_PROTOCOL",
)
DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")

BOOKMARK = f"""
    CREATE TABLE {BOOKMARK_TABLE} (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        digest TEXT NOT NULL,
        position INTEGER NOT NULL,
        event_id TEXT NOT NULL,
        applied INTEGER NOT NULL,
        updated_at REAL NOT NULL,
        reason TEXT NOT NULL,
        failed_position INTEGER NOT NULL,
        failed_since REAL NOT NULL
    ) STRICT
"""
COLUMNS = "name, version, digest, position, event_id, applied, updated_at, reason, failed_position, failed_since"


class Bookmark(Struct, frozen=True):
    """How far a file is in the log: all events up to `position` are in it, the one there had the id `event_id`.

    version, digest   of the class that made the rows
    applied           how many events its handlers got
    updated_at        when it moved last, in seconds since 1970
    reason            why it stopped, at the event of `failed_position`, `failed_since` then; empty: it did not
    """

    name: str
    version: int
    digest: str
    position: int = 0
    event_id: str = ""
    applied: int = 0
    updated_at: float = 0.0
    reason: str = ""
    failed_position: int = 0
    failed_since: float = 0.0

    def is_of(self, shape: Shape) -> bool:
        """Whether this class would have made the same rows."""
        return (self.name, self.version, self.digest) == (shape.name, shape.version, shape.digest)


class Failed(Exception):
    """An event that a projection cannot take: its place among those that were given, and why."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        self.reason = reason


class Spoilt(Exception):
    """Rows and bookmark do not belong together any more; only building it anew helps."""


class HandlersConnection(sqlite3.Connection):
    """What handlers write to. The transaction is not theirs to end: their rows would be there without the bookmark."""

    def commit(self) -> NoReturn:
        """Errors: OrchestratorError."""
        _not_theirs()

    def rollback(self) -> NoReturn:
        """Errors: OrchestratorError."""
        _not_theirs()

    def executescript(self, sql_script: str, /) -> NoReturn:
        """Errors: OrchestratorError: it would commit first."""
        _not_theirs()

    def __enter__(self) -> NoReturn:
        _not_theirs()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> NoReturn:
        _not_theirs()


def _not_theirs() -> NoReturn:
    raise OrchestratorError(
        "a projection's handler neither commits nor rolls back: its rows are committed with the bookmark"
    )


class Model:
    """One file, open for writing. To be used in one thread at a time; none of its methods returns in a transaction."""

    def __init__(self, connection: sqlite3.Connection, cls: type[Projection], bookmark: Bookmark) -> None:
        """Made by `create` and `reopen`."""
        self.bookmark = bookmark
        self._connection = connection
        self._shape = shape_of(cls)
        self._projection = cls(connection)

    @classmethod
    def create(cls, path: Path, projection: type[Projection], now: float) -> Self:
        """A new file with empty tables, that stands before the first event. Errors: sqlite3.Error, OSError."""
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        shape = shape_of(projection)
        bookmark = Bookmark(shape.name, shape.version, shape.digest, updated_at=now)
        connection = _connect(path)
        try:
            connection.execute("BEGIN IMMEDIATE")
            for statement in (BOOKMARK, *shape.statements):
                connection.execute(statement)
            connection.execute(
                f"INSERT INTO {BOOKMARK_TABLE} (id, {COLUMNS}) VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                _values(bookmark),
            )
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return cls(connection, projection, bookmark)

    @classmethod
    def reopen(cls, path: Path, projection: type[Projection]) -> Self:
        """A file that is there, of this projection's shape. Errors: sqlite3.Error, StoreUnavailable."""
        connection = _connect(path)
        try:
            bookmark = _read(connection)
            if bookmark is None:
                raise StoreUnavailable(f"{path} is no projection")
        except BaseException:
            connection.close()
            raise
        return cls(connection, projection, bookmark)

    def apply(self, rows: Sequence[Logged], until: int, event_id: str, now: float, pace: Callable[[int], None]) -> None:
        """Give these events to their handlers, and move on to the position `until`, where the event `event_id` is: in
        one transaction. `pace` is called before each. Errors: Failed, with nothing written; Spoilt; sqlite3.Error of
        the file itself.
        """
        moved = replace(
            self.bookmark,
            position=until,
            event_id=event_id,
            applied=self.bookmark.applied + len(rows),
            updated_at=now,
            reason="",
        )
        self._transact(lambda: self._handle(rows, pace), moved)

    def stop(self, reason: str, position: int, now: float) -> None:
        """Note why the event at this position cannot be taken; since when, if it could not be taken before either."""
        before = self.bookmark
        since = before.failed_since if before.failed_position == position and before.failed_since else now
        reason = reason[-LONGEST_REASON:]
        self._transact(None, replace(before, reason=reason, failed_position=position, failed_since=since))

    def go_on(self) -> None:
        """Forget why it stopped; `failed_since` is kept for the case that it stops there again."""
        self._transact(None, replace(self.bookmark, reason=""))

    def spoil(self, reason: str, position: int, now: float) -> None:
        """Note that the rows are not what the events come to: the file fits no class any more."""
        self.bookmark = replace(self.bookmark, digest="")
        self.stop(reason, position, now)

    def complete(self) -> None:
        """Bring all that was written into the file itself, and the file onto the disk."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _transact(self, work: Callable[[], None] | None, after: Bookmark) -> None:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            if work is not None:
                work()
            assignments = ", ".join(f"{column} = ?" for column in COLUMNS.split(", "))
            connection.execute(f"UPDATE {BOOKMARK_TABLE} SET {assignments}", _values(after))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.bookmark = after

    def _handle(self, rows: Sequence[Logged], pace: Callable[[int], None]) -> None:
        connection, projection = self._connection, self._projection
        handlers, types = self._shape.handlers, self._shape.types
        for index, row in enumerate(rows):
            pace(index)
            handler = handlers[row.envelope.type]
            recorded = Recorded(row, types)
            try:
                if handler.takes_recorded:
                    handler.function(projection, recorded.event, recorded)
                else:
                    handler.function(projection, recorded.event)
            except BadMessage as error:
                raise Failed(index, f"{recorded} at position {row.position} cannot be read: {error}") from error
            except (Exception, SystemExit) as error:
                if isinstance(error, sqlite3.Error) and is_of_the_file(error):
                    raise
                raise Failed(index, f"{recorded} at position {row.position}: {_said(error)}") from error
            if not connection.in_transaction:
                raise Spoilt(f"{handler.function.__qualname__} ended the transaction around it: it must not")


def is_of_the_file(error: sqlite3.Error) -> bool:
    """Whether SQLite complains of the file or the machine, not of what a handler says."""
    return _code(error).startswith(PASSING + DAMAGED)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is none any more that SQLite can read."""
    return _code(error).startswith(DAMAGED)


def bookmark_of(path: Path) -> Bookmark | None:
    """The bookmark of a file that another process may be writing; None: there is none to be read."""
    try:
        connection = connect_reader(path)
    except sqlite3.Error:
        return None
    try:
        return _read(connection)
    except sqlite3.Error:
        return None
    finally:
        connection.close()


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write and never checkpoints, beside the process that writes. Errors: sqlite3.Error."""
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode=ro",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        for pragma in ("trusted_schema = OFF", "query_only = ON", "wal_autocheckpoint = 0", "mmap_size = 0"):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode=rw",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,  # one thread at a time, not always the same
        factory=HandlersConnection,
        cached_statements=256,
    )
    try:
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        # What a power cut takes, it takes with the bookmark: those events are then applied again.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
    except BaseException:
        connection.close()
        raise
    return connection


def _read(connection: sqlite3.Connection) -> Bookmark | None:
    row = connection.execute(f"SELECT {COLUMNS} FROM {BOOKMARK_TABLE}").fetchone()
    return Bookmark(*row) if row is not None else None


def _values(bookmark: Bookmark) -> tuple[Any, ...]:
    return tuple(getattr(bookmark, column) for column in COLUMNS.split(", "))


def _code(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", "") or ""


def _said(error: BaseException) -> str:
    """The traceback without our own frames."""
    trace = error.__traceback__
    inner = trace.tb_next if trace is not None else None
    return "".join(traceback.format_exception(type(error), error, inner)).rstrip()
