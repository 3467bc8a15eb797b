"""What is asked of a store: each a function of a connection, run in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import product

from orchestrator.errors import BadMessage, StoreCorrupt
from orchestrator.machine.instance import Instance, Status
from orchestrator.machine.transition import Entry
from orchestrator.ports import MAX_PAGE, Counts, Due, Find, Page, Standing, Waiting
from orchestrator.wire import Address, DeadLetter

from . import rows
from .bulk import read_many
from .rows import HistoryCode, Row

OVERDUE_S = 30.0
NO_CURSOR = 1 << 62
FEW = 5_000  # rows that are found and sorted in a few milliseconds


def page_size(limit: int) -> int:
    """A limit as it is kept."""
    return max(1, min(limit, MAX_PAGE))


def load(connection: sqlite3.Connection, addresses: Sequence[Address]) -> list[Instance | None]:
    """The instances in the order asked."""
    found: dict[int, Instance] = {}
    for number, *row in read_many(
        connection,
        """
        SELECT asked.column1, stands_in, crc, body
        FROM (VALUES *) AS asked
        CROSS JOIN instance INDEXED BY instance_address ON key = asked.column2 AND saga = asked.column3
        """,
        [(number, address.key, address.saga) for number, address in enumerate(addresses)],
    ):
        found[number] = rows.instance_of(*row)
    return [found.get(number) for number in range(len(addresses))]


DUE = """
    SELECT * FROM (
        SELECT position, crc, body FROM outbox INDEXED BY outbox_due
        WHERE due_at IS NULL AND position > :after ORDER BY position LIMIT :limit
    )
    UNION ALL
    SELECT * FROM (
        SELECT position, crc, body FROM outbox INDEXED BY outbox_due
        WHERE due_at <= :now AND position > :after ORDER BY position LIMIT :limit
    )
    ORDER BY position LIMIT :limit
"""


def due(connection: sqlite3.Connection, now: float, limit: int, after: int) -> list[Due]:
    """Outbox rows that may go, by position."""
    found = connection.execute(DUE, {"now": now, "limit": limit, "after": after})
    return [rows.due_of(*row) for row in found]


RECORDS = """
    SELECT key, at, crc, body
    FROM (VALUES *) AS asked CROSS JOIN record INDEXED BY record_key ON key = asked.column1
"""


def records(connection: sqlite3.Connection, keys: Sequence[str]) -> list[bytes | None]:
    """What is kept under these keys."""
    found = {row[0]: rows.record_of(*row) for row in read_many(connection, RECORDS, [(key,) for key in keys])}
    return [found.get(key) for key in keys]


NEXT_DUE = "SELECT min(due_at) FROM outbox"
NEXT_WAKE = "SELECT min(wake_at) FROM instance WHERE wake_at IS NOT NULL"
WAKES = """
    SELECT saga, key FROM instance INDEXED BY instance_wake
    WHERE wake_at <= ? ORDER BY wake_at, id LIMIT ?
"""


def next_due(connection: sqlite3.Connection) -> float | None:
    """The earliest due_at in the outbox."""
    return _only(connection, NEXT_DUE)


def next_wake(connection: sqlite3.Connection) -> float | None:
    """The earliest timer."""
    return _only(connection, NEXT_WAKE)


def wakes(connection: sqlite3.Connection, now: float, limit: int) -> list[Address]:
    """Instances whose timer is due, the longest overdue first."""
    return [Address(saga, key) for saga, key in connection.execute(WAKES, (now, limit))]


WAITING_FOR = """
    SELECT waiting.id, since, until, waiting.crc, waiting.body
    FROM waiting
    CROSS JOIN instance INDEXED BY instance_address ON instance.key = waiting.key AND instance.saga = waiting.saga
    WHERE instance.status IN ('running', 'compensating') OR waiting.since <= instance.ended_at
    ORDER BY waiting.id LIMIT ?
"""


def waiting_for(connection: sqlite3.Connection, limit: int) -> list[Waiting]:
    """Rows of the waiting room whose instance is open, or ended not before they came."""
    return [rows.waiting_of(*row) for row in connection.execute(WAITING_FOR, (limit,))]


def waiting(connection: sqlite3.Connection, after: int, limit: int) -> list[Waiting]:
    """The waiting room by id."""
    sql = "SELECT id, since, until, crc, body FROM waiting WHERE id > ? ORDER BY id LIMIT ?"
    return [rows.waiting_of(*row) for row in connection.execute(sql, (after, page_size(limit)))]


def dead_letters(connection: sqlite3.Connection, after: int, limit: int) -> list[DeadLetter]:
    """Dead letters by id."""
    sql = "SELECT id, crc, body FROM dead WHERE id > ? ORDER BY id LIMIT ?"
    return [rows.dead_of(*row) for row in connection.execute(sql, (after, page_size(limit)))]


# The index alone finds an instance's ids. Their order is that of the versions, which have no gap (I3).
HISTORY = """
    SELECT version, message_id, at, outcome, notes, crc, message
    FROM history
    WHERE id IN (
        SELECT id FROM history INDEXED BY history_message WHERE instance = :instance
        ORDER BY id LIMIT :limit OFFSET :after
    )
    ORDER BY id
"""


def history(connection: sqlite3.Connection, address: Address, after: int, limit: int) -> list[Entry]:
    """The transitions after that version."""
    sql = "SELECT id, stands_in, crc, body FROM instance INDEXED BY instance_address WHERE key = ? AND saga = ?"
    row = connection.execute(sql, (address.key, address.saga)).fetchone()
    if row is None:
        return []
    id, *columns = row
    code = HistoryCode.of(rows.instance_of(*columns))
    asked = {"instance": id, "after": max(0, after), "limit": page_size(limit)}
    return [code.entry(row) for row in connection.execute(HISTORY, asked)]


STANDING = """
    SELECT saga, stands_in, sum(instances) FROM tally
    WHERE status IN ('running', 'compensating') GROUP BY saga, stands_in HAVING sum(instances) > 0
"""
# The first thousands of a status; a million are not looked through for an example.
STANDS_THERE = """
    SELECT key FROM (
        SELECT key, stands_in FROM instance INDEXED BY instance_status
        WHERE saga = :saga AND status = 'running' LIMIT :few
    ) WHERE stands_in = :stands_in
    UNION ALL
    SELECT key FROM (
        SELECT key, stands_in FROM instance INDEXED BY instance_status
        WHERE saga = :saga AND status = 'compensating' LIMIT :few
    ) WHERE stands_in = :stands_in
    LIMIT 1
"""


def standing(connection: sqlite3.Connection) -> list[Standing]:
    """Where all open instances stand, grouped (R18)."""
    found: list[Standing] = []
    for saga, stands_in, count in connection.execute(STANDING).fetchall():
        there = {"saga": saga, "stands_in": stands_in, "few": FEW}
        example = connection.execute(STANDS_THERE, there).fetchone()
        found.append(rows.standing_of(saga, stands_in, count, example[0] if example else ""))
    return sorted(found, key=lambda each: (each.saga, each.definition_version, each.steps))


def find(connection: sqlite3.Connection, query: Find) -> Page:
    """Instances by filter: first their ids, from the index that fits best, then the rows."""
    limit = page_size(query.limit)
    ids: list[int] = []
    for sql, parameters in searches(connection, query, limit + 1):
        ids += [id for (id,) in connection.execute(sql, parameters)]
    ids.sort(reverse=True)
    found = read_many(
        connection,
        "SELECT id, stands_in, crc, body FROM instance WHERE id IN (VALUES *) ORDER BY id DESC",
        [(id,) for id in ids[:limit]],
    )
    bodies = {id: rows.instance_of(*row) for id, *row in found}
    if len(bodies) < len(ids[:limit]):  # the index has what the table has not
        raise StoreCorrupt(rows.DAMAGED)
    more = str(ids[limit - 1]) if len(ids) > limit else ""
    return Page(tuple(bodies[id] for id in ids[:limit]), more)


def searches(connection: sqlite3.Connection, query: Find, limit: int) -> list[tuple[str, Row]]:
    """Queries whose answers together hold the first `limit` ids of the page."""
    conditions, values = _conditions(query)
    statuses = [
        str(status)
        for status in Status
        if query.status in (None, status) and query.is_open in (None, not status.is_end)
    ]
    every_status = len(statuses) == len(Status)
    index = _narrow_index(connection, query)
    if not index and (query.saga or not every_status):  # within a saga and status the index is in the order of ids
        sagas = [query.saga] if query.saga else _sagas(connection)
        return [
            _search("instance_status", [*conditions, "saga = ?", "status = ?"], [*values, saga, status], limit)
            for saga, status in product(sagas, statuses)
        ]
    if query.saga:
        conditions.append("saga = ?")
        values.append(query.saga)
    if not every_status:
        conditions.append("status IN (" + ", ".join("?" * len(statuses)) + ")")
        values += statuses
    return [_search(index, conditions, values, limit)]


def _conditions(query: Find) -> tuple[list[str], list[object]]:
    """All but saga and status."""
    conditions: list[str] = ["id < ?"]
    values: list[object] = [_cursor(query.cursor)]
    if query.key:
        conditions.append("key = ?")
        values.append(query.key)
    if query.parked is not None:
        conditions.append("parked = 1" if query.parked else "parked = 0")
    if query.since is not None:
        conditions.append("updated_at >= ?")
        values.append(query.since)
    return conditions, values


def _narrow_index(connection: sqlite3.Connection, query: Find) -> str:
    """An index that leaves few rows to look at, or none."""
    if query.key:
        return "instance_address"
    if query.parked:
        return "instance_parked"
    if query.since is not None:
        (number,) = connection.execute(SINCE, (query.since, FEW)).fetchone()
        return "instance_updated" if number < FEW else ""
    return ""


SINCE = "SELECT count(*) FROM (SELECT 1 FROM instance INDEXED BY instance_updated WHERE updated_at >= ? LIMIT ?)"


def _search(index: str, conditions: Sequence[str], values: Sequence[object], limit: int) -> tuple[str, Row]:
    indexed = f"INDEXED BY {index}" if index else "NOT INDEXED"
    sql = f"SELECT id FROM instance {indexed} WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?"
    return sql, (*values, limit)


SAGAS = """
    WITH RECURSIVE name(saga) AS (
        SELECT min(saga) FROM instance
        UNION ALL
        SELECT (SELECT min(saga) FROM instance WHERE saga > name.saga) FROM name WHERE name.saga IS NOT NULL
    )
    SELECT saga FROM name WHERE saga IS NOT NULL
"""


def _sagas(connection: sqlite3.Connection) -> list[str]:
    return [saga for (saga,) in connection.execute(SAGAS)]


def _cursor(text: str) -> int:
    if not text:
        return NO_CURSOR
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BadMessage(f"{text!r} is not a cursor: take `next` of the page before")
    return int(text)


BY_STATUS = "SELECT saga, status, sum(instances) FROM tally GROUP BY saga, status HAVING sum(instances) > 0"
TOTALS = """
    SELECT
        (SELECT count(*) FROM instance INDEXED BY instance_parked WHERE parked = 1),
        (SELECT count(*) FROM instance INDEXED BY instance_paused WHERE paused = 1),
        (SELECT count(*) FROM instance INDEXED BY instance_busy WHERE busy = 1),
        (SELECT count(*) FROM outbox),
        (SELECT count(*) FROM waiting),
        (SELECT count(*) FROM dead),
        (SELECT count(*) FROM instance INDEXED BY instance_wake WHERE wake_at < ?),
        (SELECT page_count * page_size FROM pragma_page_count, pragma_page_size),
        (SELECT user_version FROM pragma_user_version)
"""
OLDEST_RETRY = """
    SELECT saga, key FROM instance INDEXED BY instance_retrying
    WHERE retrying = 1 ORDER BY updated_at, id LIMIT 1
"""


def counts(connection: sqlite3.Connection, now: float) -> Counts:
    """How many of everything, from indexes."""
    instances: dict[str, dict[str, int]] = {}
    for saga, status, number in connection.execute(BY_STATUS):
        instances.setdefault(saga, {})[status] = number
    parked, paused, busy, outbox, room, dead, overdue, size, schema = connection.execute(
        TOTALS, (now - OVERDUE_S,)
    ).fetchone()
    oldest = connection.execute(OLDEST_RETRY).fetchone()
    return Counts(
        instances=instances,
        parked=parked,
        paused=paused,
        busy=busy,
        outbox=outbox,
        waiting=room,
        dead=dead,
        overdue=overdue,
        next_wake_at=next_wake(connection),
        oldest_retry=Address(*oldest) if oldest else None,
        size_bytes=size,
        schema=schema,
    )


def _only(connection: sqlite3.Connection, sql: str) -> float | None:
    (value,) = connection.execute(sql).fetchone()
    return None if value is None else float(value)
