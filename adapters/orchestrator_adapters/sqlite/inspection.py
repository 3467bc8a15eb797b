"""Whether a file is what was written: what SQLite's own check does not see."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing

from orchestrator.errors import StoreCorrupt
from orchestrator.machine.instance import Instance
from orchestrator.wire import Address

from . import log, rows
from .rows import HistoryCode, Row
from .schema import MIGRATIONS


def problems(connection: sqlite3.Connection) -> Iterator[str]:
    """Tables that are not ours and rows that are not what was written, a line each. Reads everything."""
    if _tables(connection) != _our_tables():
        yield "the schema is not what was written"
    if connection.execute(MISCOUNTED).fetchone() is not None:
        yield "the tally of instances is not what there is"
    if connection.execute(GAPS).fetchone() is not None:
        yield "positions in the log have gaps"
    for (name,) in connection.execute(STREAM_GAPS):
        yield f"versions in the stream {name} have gaps"
    for sql, is_whole, name in (
        (INSTANCES, _is_whole_instance, "instance"),
        (HISTORY, _is_whole_entry, "history row"),
        (OUTBOX, _is_whole_outgoing, "outbox row"),
        (WAITING, _is_whole_waiting, "row of the waiting room"),
        (DEAD, _is_whole_letter, "dead letter"),
        (RECORDS, _is_whole_record, "record"),
        (EVENTS, _is_whole_event, "event"),
    ):
        for id, *row in connection.execute(sql):
            if not _holds(is_whole, tuple(row)):
                yield f"{name} {id} is not what was written"


SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
INSTANCES = """
    SELECT id, saga, key, run, version, status, paused, updated_at, ended_at, parent_saga, parent_key,
        stands_in, crc, body
    FROM instance
"""
RECORDS = "SELECT id, key, at, crc, body FROM record"
HISTORY = """
    SELECT history.id, saga, key, run, history.version, message_id, at, outcome, notes, history.crc, message
    FROM history LEFT JOIN instance ON instance.id = history.instance
"""
MISCOUNTED = """
    SELECT 1 FROM (
        SELECT saga, status, stands_in, instances FROM tally
        UNION ALL
        SELECT saga, status, iif(status IN ('running', 'compensating'), stands_in, ''), -count(*)
        FROM instance GROUP BY 1, 2, 3
    ) GROUP BY saga, status, stands_in HAVING sum(instances) <> 0
"""
OUTBOX = "SELECT position, name, due_at, crc, body FROM outbox"
WAITING = "SELECT id, saga, key, message_id, since, until, crc, body FROM waiting"
DEAD = "SELECT id, at, crc, body FROM dead"
GAPS = "SELECT 1 FROM (SELECT count(*) AS events, max(position) AS last FROM log) WHERE events <> last"
STREAM_GAPS = """
    SELECT name FROM log INDEXED BY log_version JOIN stream ON stream.id = log.stream
    GROUP BY log.stream HAVING count(*) <> max(version)
"""
EVENTS = """
    SELECT position, position, stream.name, version, event_type.name, log.type, event_id, at, crc, body
    FROM log LEFT JOIN stream ON stream.id = log.stream LEFT JOIN event_type ON event_type.id = log.type
"""


def _tables(connection: sqlite3.Connection) -> list[Row]:
    return connection.execute(SCHEMA).fetchall()


def _our_tables() -> list[Row]:
    with closing(sqlite3.connect(":memory:")) as fresh:
        for statements in MIGRATIONS:
            for statement in statements:
                fresh.execute(statement)
        return _tables(fresh)


def _holds(is_whole: Callable[[Row], bool], row: Row) -> bool:
    try:
        return is_whole(row)
    except StoreCorrupt:
        return False


def _is_whole_instance(row: Row) -> bool:
    return bool(row[:-3] == _plain(rows.instance_of(*row[-3:])))


def _plain(instance: Instance) -> Row:
    """Its columns that every version of the code derives alike."""
    parent = instance.answer_to
    return (
        instance.saga,
        instance.key,
        instance.run,
        instance.version,
        str(instance.status),
        instance.paused,
        instance.updated_at,
        instance.ended_at,
        parent and parent.saga,
        parent and parent.key,
    )


def _is_whole_entry(row: Row) -> bool:
    saga, key, run, *entry = row
    if run is None:  # it belongs to nobody
        return False
    return HistoryCode(Address(saga, key), run).entry(tuple(entry)).version > 0


def _is_whole_outgoing(row: Row) -> bool:
    name, due_at, crc, body = row
    outgoing = rows.due_of(0, crc, body).outgoing
    return bool((name, due_at) == (outgoing.name, outgoing.due_at))


def _is_whole_waiting(row: Row) -> bool:
    saga, key, message_id, *rest = row
    message = rows.waiting_of(0, *rest).envelope
    return bool((saga, key, message_id) == (message.saga, message.key, message.id))


def _is_whole_event(row: Row) -> bool:
    return log.logged_of(*row).position > 0 and None not in row


def _is_whole_letter(row: Row) -> bool:
    at, crc, body = row
    return bool(at == rows.dead_of(0, crc, body).at)


def _is_whole_record(row: Row) -> bool:
    rows.record_of(*row)
    return True
