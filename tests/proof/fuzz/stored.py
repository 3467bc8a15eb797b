"""Rows of a store that are not what was written: each is read as it was, or said to be damaged, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw

from orchestrator.errors import BadMessage, StoreCorrupt, StoreError
from orchestrator.machine.instance import Bug, Call, CallKind, Do, Instance, Payload, Undo, Visit
from orchestrator.machine.transition import Entry, Transition
from orchestrator.ports import Find
from orchestrator.wire import Address, DeadLetter, Envelope, Kind, Outgoing, Route
from orchestrator_adapters.sqlite import reading, rows
from orchestrator_adapters.sqlite.errors import store_errors
from orchestrator_adapters.sqlite.rows import HistoryCode
from orchestrator_adapters.sqlite.schema import MIGRATIONS

from .cases import Parser, Wrong
from .choices import NASTY, TEXTS, Choices

ADDRESS = Address("Order", "1")
MESSAGE = Envelope(
    id="Order/1~k3f9/charge#1",
    kind=Kind.YES,
    type="Charged",
    data=Raw(b'{"id":"c1"}'),
    time=1_700_000_000.25,
    saga="Order",
    key="1",
    reply_to="Order/1~k3f9/charge#1",
    attempt=2,
    user="ada",
    answer_to=Address("Parent", "p"),
)
_CALL = Call(
    kind=CallKind.COMMAND,
    command=Payload("Charge", Raw(b'{"total":"1.5"}')),
    undo=Payload("Refund", Raw(b"{}")),
    undo_kind=CallKind.COMMAND,
    do=Do.ASKED,
    unwinding=Undo.NONE,
    attempt=1,
    timeout_at=1_700_000_060.0,
)
INSTANCE = Instance(
    saga="Order",
    key="1",
    run="k3f9",
    version=3,
    state=Raw(b'{"order":"1"}'),
    started_at=1_700_000_000.0,
    updated_at=1_700_000_001.0,
    visits=[Visit(serial=0, step="charge", number=1, entered_at=1_700_000_000.0, calls=[_CALL])],
    bug=Bug(MESSAGE, "Traceback\nKeyError: 1"),
)
OUTGOING = Outgoing("Order/1~k3f9/charge#1", Route.COMMAND, MESSAGE, 1_700_000_000.0, 1_700_000_060.0, "u", "", ADDRESS)
LETTER = DeadLetter(1_700_000_000.0, "no such type", MESSAGE, b"\xff{", "tell", "KeyError: 1", 7)
NOTES = ("charge#1 is done", "ship#1 begins")

_json = msgspec.json.Encoder().encode
_CODE = HistoryCode(ADDRESS, "k3f9")


def _entry(body: bytes, crc: int, c: Choices) -> Any:
    notes = c.bytes_like(_json(NOTES)).decode("utf-8", "surrogateescape")
    outcome = c.pick(("applied", "applied", "dead", "", "x"))
    columns = (3, c.pick(("~charge#1", "", "=x", "x")), 1_700_000_000.0, outcome, notes)
    return _CODE.entry((*columns, _sealed(body, crc, *columns), body))


_READERS: tuple[tuple[object, Callable[[bytes, int, Choices], Any]], ...] = (
    (INSTANCE, lambda body, crc, c: rows.instance_of("", _sealed(body, crc, ""), body)),
    (MESSAGE, lambda body, crc, c: _entry(body, crc, c)),
    (OUTGOING, lambda body, crc, c: rows.due_of(1, crc, body).outgoing),
    (MESSAGE, lambda body, crc, c: rows.waiting_of(1, 0.0, 1.0, _sealed(body, crc, 0.0, 1.0), body).envelope),
    (
        msgspec.structs.replace(LETTER, id=0),
        lambda body, crc, c: msgspec.structs.replace(rows.dead_of(1, crc, body), id=0),
    ),
)


_SEALED = {  # what the checksum covers beside the body
    "instance": "stands_in",
    "history": "version, message_id, at, outcome, notes",
    "outbox": "",
    "waiting": "since, until",
    "dead": "",
}


def _sealed(body: bytes, crc: int, *columns: object) -> int:
    """The checksum of a row whose body has that one."""
    return rows.seal(body, *columns) if crc == rows.seal(body) else crc


def row(c: Choices) -> tuple[int, int]:
    """One row, whole or damaged, with the checksum of what stands there or of what was written."""
    if c.one_in(8):
        return _standing(c)
    value, read = c.pick(_READERS)
    written = _json(value)
    body = c.bytes_like(written)
    crc = rows.seal(body if c.one_in(2) else written)
    try:
        found = read(body, crc, c)
    except StoreCorrupt:
        if body == written and not isinstance(value, Envelope):
            raise Wrong(f"it does not read {written!r}") from None
        return 1, 0
    if body == written and not isinstance(found, Entry) and _json(found) != written:
        raise Wrong(f"it reads {written!r} as {found}")
    return 1, 1


def _standing(c: Choices) -> tuple[int, int]:
    text = c.pick(("1 charge ship", "2", "", " ", "x", "1 ", "-1 a", "9" * 5_000, "1.0 a", "\u0661 a")) + c.pick(
        ("", *NASTY)
    )
    try:
        rows.standing_of("Order", text, 1, "1")
    except StoreCorrupt:
        return 1, 0
    return 1, 1


# A whole store, doctored; and what is asked of one.


@cache
def _store() -> sqlite3.Connection:
    """A store of the real schema, in memory."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statements in MIGRATIONS:
        for statement in statements:
            connection.execute(statement)
    marks = ", ".join("?" * 17)
    connection.execute(
        "INSERT INTO instance (saga, key, run, status, parked, paused, busy, retrying, parent_saga, parent_key, "
        f"version, wake_at, updated_at, ended_at, stands_in, crc, body) VALUES ({marks})",
        (
            "Order",
            "1",
            "k3f9",
            *rows.flags(INSTANCE, INSTANCE.outline()),
            None,
            None,
            *rows.instance_row(INSTANCE, INSTANCE.outline()),
        ),
    )
    transition = Transition(at=1_700_000_000.0, instance=INSTANCE, message=MESSAGE, notes=NOTES)
    connection.execute(
        "INSERT INTO history (instance, version, message_id, at, outcome, notes, crc, message) "
        "VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
        _CODE.row(transition, MESSAGE, 1),
    )
    connection.execute("INSERT INTO outbox (name, due_at, crc, body) VALUES (?, ?, ?, ?)", rows.outbox_row(OUTGOING))
    connection.execute(
        "INSERT INTO waiting (saga, key, message_id, since, until, crc, body) VALUES (?, ?, ?, ?, ?, ?, ?)",
        rows.waiting_row(MESSAGE, 0.0, 1.0),
    )
    connection.execute("INSERT INTO dead (at, crc, body) VALUES (?, ?, ?)", rows.dead_row(LETTER))
    return connection


_READS: tuple[Callable[[sqlite3.Connection], object], ...] = (
    lambda store: reading.load(store, [ADDRESS]),
    lambda store: reading.due(store, 2e9, 10, 0),
    lambda store: reading.next_due(store),
    lambda store: reading.next_wake(store),
    lambda store: reading.wakes(store, 2e9, 10),
    lambda store: reading.waiting_for(store, 10),
    lambda store: reading.waiting(store, 0, 10),
    lambda store: reading.dead_letters(store, 0, 10),
    lambda store: reading.history(store, ADDRESS, 0, 10),
    lambda store: reading.standing(store),
    lambda store: reading.find(store, Find()),
    lambda store: reading.counts(store, 2e9),
)
_COLUMNS = (
    *(
        ("instance", name)
        for name in ("saga", "key", "run", "status", "stands_in", "body", "version", "wake_at", "crc")
    ),
    *(("history", name) for name in ("message_id", "outcome", "notes", "message", "at", "version", "crc", "instance")),
    *(("outbox", name) for name in ("name", "due_at", "body")),
    *(("waiting", name) for name in ("saga", "key", "message_id", "since", "until", "body")),
    *(("dead", name) for name in ("at", "body")),
)
_NUMBERS = ("version", "crc", "instance")
_MOMENTS = ("wake_at", "at", "due_at", "since", "until")


def doctored(c: Choices) -> tuple[int, int]:
    """One value of a store is another: what reads it gives something, or says StoreError. Taken: all read on."""
    store, (table, column) = _store(), c.pick(_COLUMNS)
    store.execute("BEGIN")
    try:
        (old,) = store.execute(f"SELECT {column} FROM {table}").fetchone()
        sql, value = _another(c, column, old)
        store.execute(f"UPDATE {table} SET {column} = {sql}", value)
        if column in ("body", "message") and table in _SEALED and c.one_in(2):
            columns = store.execute(f"SELECT {_SEALED[table]} FROM {table}").fetchone() if _SEALED[table] else ()
            store.execute(f"UPDATE {table} SET crc = ?", (rows.seal(value[0], *columns),))
        return 1, sum(_reads(store, read) for read in _READS) == len(_READS)
    finally:
        store.execute("ROLLBACK")


def _another(c: Choices, column: str, old: Any) -> tuple[str, tuple[Any, ...]]:
    if column in _NUMBERS:
        return "?", (c.pick((0, -1, 1, 2**63 - 1, -(2**63))),)
    if column in _MOMENTS:
        return "?", (c.pick((0.0, -1.0, 1e308, float("inf"), -float("inf"), 1.5)),)
    if column in ("body", "message"):
        return "?", (c.bytes_like(old),)
    if c.one_in(3):
        return "CAST(? AS TEXT)", (c.bytes_like(old.encode()) + c.pick((b"", b"\xff", b"\xed\xa0\x80")),)
    return "?", (c.text(),)


def _reads(store: sqlite3.Connection, read: Callable[[sqlite3.Connection], object]) -> bool:
    try:
        with store_errors(Path("fuzz.db")):
            read(store)
    except StoreError:
        return False
    return True


# What people ask of a store.


def query(c: Choices) -> tuple[int, int]:
    """A page of instances, or BadMessage: the same of both stores for every cursor, key and limit."""
    cursor = c.pick(("", "", "1", "2", "0", "9" * 18, "9" * 19, "9" * 5_000, "-1", "\u0661", " 1", "1 ")) or c.text(
        TEXTS
    )
    asked = Find(
        saga=c.pick(("", "Order", c.text(TEXTS))),
        key=c.pick(("", "1", c.text(TEXTS))),
        parked=c.pick((None, True, False)),
        is_open=c.pick((None, True, False)),
        since=c.pick((None, 0.0, -1e308, 1e308, float("inf"), float("-inf"), 1_700_000_000.0)),
        limit=c.pick((20, 1, 0, -1, 2**63, 10**30)),
        cursor=c.pick(("", "", cursor)),
    )
    try:
        with store_errors(Path("fuzz.db")):
            page = reading.find(_store(), asked)
    except BadMessage as error:
        str(error).encode(errors="backslashreplace")
        return 1, 0
    matches = {item.address for item in page.items}
    if any(value and getattr(item, name) != value for item in page.items for name, value in (("key", asked.key),)):
        raise Wrong(f"{asked} finds {matches}")
    if not matches and asked == Find(limit=asked.limit):
        raise Wrong(f"{asked} finds nothing")
    return 1, 1


PARSERS = (
    Parser("stored row", row),
    Parser("doctored store", doctored, of=0.25),
    Parser("query of a store", query),
)
