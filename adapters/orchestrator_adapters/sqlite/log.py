"""The log of events: its tables, what a commit appends to it, and what is read of it.

Positions and versions are given here, inside the one writing transaction: so they have no gaps, and a reader, who sees
whole transactions only, sees no position before all those below it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import msgspec
from msgspec import Raw, Struct

from orchestrator.errors import DuplicateMessage, VersionConflict
from orchestrator.machine.transition import Transition
from orchestrator.ports import MAX_PAGE
from orchestrator.recorded import Appended, Logged, Stretch
from orchestrator.wire import Envelope, Kind

from . import rows
from .bulk import read_many, with_rows, write_many
from .rows import Row, decoded

NO_ID = ""
LOOKED_UP = 256  # ids, in one statement
LOOKED_AT = 20_000  # positions, in one question for some types: tens of milliseconds

# A row is found by its position, by stream and version, and by its event's id. Ids that we make ourselves grow, so that
# all three indexes are written at their end. Names of streams and types stand in the log as numbers.
SCHEMA = (
    "CREATE TABLE stream (id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT",
    "CREATE UNIQUE INDEX stream_name ON stream (name)",
    "CREATE TABLE event_type (id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT",
    "CREATE UNIQUE INDEX event_type_name ON event_type (name)",
    """
    CREATE TABLE log (
        position INTEGER PRIMARY KEY,
        stream INTEGER NOT NULL,
        version INTEGER NOT NULL,
        type INTEGER NOT NULL,
        event_id ANY NOT NULL,
        at REAL NOT NULL,
        crc INTEGER NOT NULL,
        body BLOB NOT NULL
    ) STRICT
    """,
    "CREATE UNIQUE INDEX log_version ON log (stream, version)",
    "CREATE UNIQUE INDEX log_event ON log (event_id)",
)


# --- rows ---


class About(Struct, frozen=True, omit_defaults=True, gc=False):
    """What is known of an event beside its payload and time."""

    version: int = 1
    user: str = ""
    correlation_id: str = ""
    causation_id: str = ""
    traceparent: str = ""


class Body(Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """An event as it is stored."""

    data: Raw
    about: About | None = None


Bound: TypeAlias = str | bytearray

_encode = msgspec.json.Encoder().encode
_body = msgspec.json.Decoder(Body)


def short_id(id: str) -> str | bytes:
    """An id as it is stored: 32 hex digits, as our own are, take 16 bytes."""
    if len(id) == 32:
        try:
            number = bytes.fromhex(id)
        except ValueError:
            return id
        if number.hex() == id:
            return number
    return id


def _long_id(stored: str | bytes) -> str:
    return stored.hex() if isinstance(stored, bytes) else stored


def _event_row(event: Envelope, bound_id: Bound, type_id: int) -> Row:
    """type, event_id, at, crc, body."""
    body = _encode(Body(event.data, _about(event)))
    at = float(event.time)
    return (type_id, bound_id, at, rows.seal(body, type_id, at), rows.BLOB(body))


def _about(event: Envelope) -> About | None:
    if event.version == 1 and not (event.user or event.correlation_id or event.causation_id or event.traceparent):
        return None
    return About(event.version, event.user, event.correlation_id, event.causation_id, event.traceparent)


_NOTHING_MORE = About()


def _bound(short: str | bytes) -> Bound:
    """A short id as the sqlite3 module takes it."""
    return rows.BLOB(short) if isinstance(short, bytes) else short


def logged_of(
    position: int, stream: str, version: int, type_name: str, type_id: int, event_id: str | bytes, *row: object
) -> Logged:
    """A row of the log; `row`: at, crc, body. Errors: StoreCorrupt."""
    at, crc, raw = row
    body = decoded(_body, crc, raw, type_id, at)
    about = body.about or _NOTHING_MORE
    envelope = Envelope(
        id=_long_id(event_id),
        kind=Kind.EVENT,
        type=type_name,
        data=body.data,
        time=at,  # type: ignore[arg-type]  # sealed with the body
        version=about.version,
        user=about.user,
        correlation_id=about.correlation_id,
        causation_id=about.causation_id,
        traceparent=about.traceparent,
    )
    return Logged(position, stream, version, envelope)


# --- appending ---


# One statement, whose answer is one row: each statement, and each row, costs as much as what it looks for.
LOOK = """
    SELECT
        (SELECT max(position) FROM log), (SELECT max(id) FROM stream), (SELECT max(id) FROM event_type),
        (
            SELECT json_group_array(json_array(
                stream.name, stream.id,
                (SELECT max(version) FROM log INDEXED BY log_version WHERE log.stream = stream.id)
            ))
            FROM json_each(?) AS asked CROSS JOIN stream INDEXED BY stream_name ON stream.name = asked.value
        ),
        (
            SELECT json_group_array(json_array(event_type.name, event_type.id))
            FROM json_each(?) AS asked
            CROSS JOIN event_type INDEXED BY event_type_name ON event_type.name = asked.value
        ),
        EXISTS (
            SELECT 1 FROM (VALUES *) AS asked CROSS JOIN log INDEXED BY log_event ON event_id = asked.column1
        )
"""
LAST = "SELECT max(position) FROM log"
KNOWN = "SELECT event_id FROM (VALUES *) AS asked CROSS JOIN log INDEXED BY log_event ON event_id = asked.column1"
APPEND = "INSERT INTO log (position, stream, version, type, event_id, at, crc, body) VALUES *"


class Appending:
    """The appends of a group of transitions: looked up together, decided one after the other, written together."""

    def __init__(self, connection: sqlite3.Connection, transitions: Iterable[Transition]) -> None:
        """Look up what is there of their streams and events."""
        self._connection = connection
        self._rows: list[Row] = []
        appends = [append for one in transitions for append in one.appends]
        if not appends:
            return
        events = [event for append in appends for event in append.events]
        names = dict.fromkeys([append.stream for append in appends]), dict.fromkeys([event.type for event in events])
        ids = [short_id(event.id) for event in events]
        bound = list(map(_bound, ids))
        long = [event.id for event in events]
        self._short = dict(zip(long, ids, strict=True))
        self._bound = dict(zip(long, bound, strict=True))
        asked = _padded(bound[:LOOKED_UP] or [NO_ID])
        sql = with_rows(LOOK, len(asked), 1)
        position, last_stream, last_type, streams, types, is_known = connection.execute(
            sql, (_json(names[0]), _json(names[1]), *asked)
        ).fetchone()
        is_sure = not is_known and len(ids) <= LOOKED_UP
        known = [] if is_sure else read_many(connection, KNOWN, [(id,) for id in ids])
        self._ids: set[str | bytes] = {id for (id,) in known}
        found = msgspec.json.decode(streams)
        self._position: int = position or 0
        self._versions: dict[str, int] = {name: version for name, _, version in found}
        self._streams = _Numbers({name: id for name, id, _ in found}, last_stream or 0)
        self._types = _Numbers(dict(msgspec.json.decode(types)), last_type or 0)

    def problem(self, transition: Transition) -> VersionConflict | DuplicateMessage | None:
        """Why its appends must not be stored; None: they will be written. To be asked last, for nothing else keeps the
        transition from being stored then.
        """
        if not transition.appends:
            return None
        ids = [self._short[event.id] for append in transition.appends for event in append.events]
        if not self._ids.isdisjoint(ids) or len(set(ids)) < len(ids):
            return DuplicateMessage(f"in the log already: {', '.join(map(_long_id, ids))}")
        versions: dict[str, int] = {}
        for append in transition.appends:
            actual = versions.get(append.stream, self._versions.get(append.stream, 0))
            if append.expected_version not in (None, actual):
                return VersionConflict.of_stream(append.stream, append.expected_version or 0, actual)
            versions[append.stream] = actual + len(append.events)
        self._ids.update(ids)
        return None

    def take(self, transition: Transition) -> tuple[Appended, ...]:
        """Give its events their versions and positions; transitions that have a problem are not to be given here."""
        return tuple([self._take(append.stream, append.events) for append in transition.appends])

    def _take(self, stream: str, events: Sequence[Envelope]) -> Appended:
        version = self._versions.get(stream, 0)
        stream_id = self._streams[stream] if events else 0
        for event in events:
            version += 1
            self._position += 1
            row = _event_row(event, self._bound[event.id], self._types[event.type])
            self._rows.append((self._position, stream_id, version, *row))
        self._versions[stream] = version
        return Appended(version, self._position)

    def write(self) -> None:
        """Write what was taken."""
        if self._rows:
            write_many(self._connection, "INSERT INTO stream (id, name) VALUES *", self._streams.new)
            write_many(self._connection, "INSERT INTO event_type (id, name) VALUES *", self._types.new)
            write_many(self._connection, APPEND, self._rows)


class _Numbers(dict[str, int]):
    """The numbers that stand for names; `new` are those that are not stored yet, the first one after `last`."""

    def __init__(self, known: dict[str, int], last: int) -> None:
        super().__init__(known)
        self.new: list[Row] = []
        self._last = last

    def __missing__(self, name: str) -> int:
        self._last += 1
        self[name] = self._last
        self.new.append((self._last, name))
        return self._last


def _padded(ids: list[Bound]) -> list[Bound]:
    """With the last one repeated up to a power of two, so that few different statements are prepared."""
    return ids + ids[-1:] * ((1 << (len(ids) - 1).bit_length()) - len(ids))


def _json(names: Iterable[str]) -> str:
    return _encode(list(names)).decode()


# --- reading ---


_COLUMNS = """
    SELECT position, stream.name, version, event_type.name, log.type, event_id, at, crc, body
    FROM log CROSS JOIN stream ON stream.id = log.stream CROSS JOIN event_type ON event_type.id = log.type
"""
STREAM = f"""{_COLUMNS}
    WHERE log.stream = (SELECT id FROM stream WHERE name = :name) AND version > :after ORDER BY version LIMIT :limit
"""
STREAM_VERSION = "SELECT max(version) FROM log WHERE stream = (SELECT id FROM stream WHERE name = ?)"
LOGGED = f"{_COLUMNS} WHERE event_id = ?"
LOG = f"{_COLUMNS} WHERE position > :after ORDER BY position LIMIT :limit"
LOG_OF_TYPES = f"""{_COLUMNS}
    WHERE position > :after AND position <= :until
        AND log.type IN (SELECT id FROM event_type WHERE name IN (SELECT value FROM json_each(:types)))
    ORDER BY position LIMIT :limit
"""


def stream(connection: sqlite3.Connection, name: str, after: int, limit: int) -> list[Logged]:
    """The events of a stream after a version."""
    found = connection.execute(STREAM, {"name": name, "after": after, "limit": _page_size(limit)})
    return [logged_of(*row) for row in found.fetchall()]


def stream_version(connection: sqlite3.Connection, name: str) -> int:
    """How many events a stream has."""
    (version,) = connection.execute(STREAM_VERSION, (name,)).fetchone()
    return version or 0


def log(connection: sqlite3.Connection, after: int, limit: int, types: Sequence[str]) -> Stretch:
    """The events after a position, of these types."""
    after, limit = max(0, after), _page_size(limit)
    if not types:
        found = tuple(logged_of(*row) for row in connection.execute(LOG, {"after": after, "limit": limit}).fetchall())
        return Stretch(found, found[-1].position if found else after)
    until = min(after + LOOKED_AT, max(after, last_position(connection)))
    parameters = {"after": after, "until": until, "limit": limit, "types": _json(types)}
    found = tuple(logged_of(*row) for row in connection.execute(LOG_OF_TYPES, parameters).fetchall())
    return Stretch(found, found[-1].position if len(found) == limit else until)


def logged(connection: sqlite3.Connection, id: str) -> Logged | None:
    """The event of this id."""
    row = connection.execute(LOGGED, (short_id(id),)).fetchone()
    return row and logged_of(*row)


def last_position(connection: sqlite3.Connection) -> int:
    """How many events the log has."""
    (position,) = connection.execute(LAST).fetchone()
    return position or 0


def _page_size(limit: int) -> int:
    return max(1, min(limit, MAX_PAGE))
