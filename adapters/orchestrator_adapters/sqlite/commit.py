"""How transitions become rows: look at what is there, decide without a database, write what is left."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from orchestrator.errors import DuplicateMessage, VersionConflict
from orchestrator.machine.instance import Instance, Status
from orchestrator.machine.transition import Transition
from orchestrator.ports import Committed, Result, Waiting
from orchestrator.recorded import Appended
from orchestrator.wire import Address, Envelope

from . import rows
from .bulk import read_many, write_many
from .log import Appending
from .rows import HistoryCode, Row

Flags: TypeAlias = tuple[str, bool, bool, bool, bool]
NO_FLAGS: Flags = ("", False, False, False, False)


class Prepared(NamedTuple):
    """A transition with what must be known or encoded of its instance. `body` and `flags` are empty where a later one
    of the group says how the instance is stored.
    """

    transition: Transition
    instance: Instance | None = None
    address: Address | None = None
    message_id: str = ""  # as stored
    history: Row = ()
    body: Row = ()
    flags: Flags = NO_FLAGS
    only_appends: bool = False


class Stored(NamedTuple):
    """What the store has of an instance."""

    id: int
    run: str
    version: int
    flags: Flags
    stands_in: str
    knows_message: bool


def prepare(transitions: Sequence[Transition]) -> list[Prepared]:
    """Encode them, as they are now: the instances belong to the caller and may change later."""
    addresses = [None if one.instance is None else one.instance.address for one in transitions]
    last = {address: number for number, address in enumerate(addresses)}
    return [
        _prepared(transition, address, is_last=last[address] == number)
        for number, (transition, address) in enumerate(zip(transitions, addresses, strict=True))
    ]


def _prepared(transition: Transition, address: Address | None, is_last: bool) -> Prepared:
    instance, message = transition.instance, transition.message
    if instance is None:
        return Prepared(transition, only_appends=_only_appends(transition))
    assert message is not None, "a transition of an instance is the effect of a message"
    history = HistoryCode.of(instance).row(transition, message, instance.version)
    body, flags = _stored_as(instance) if is_last or instance.version == 1 else ((), NO_FLAGS)
    return Prepared(transition, instance, address, history[1], history, body, flags)


def _stored_as(instance: Instance) -> tuple[Row, Flags]:
    outline = instance.outline()
    return rows.instance_row(instance, outline), rows.flags(instance, outline)


def _only_appends(transition: Transition) -> bool:
    return bool(transition.appends) and not (
        transition.seen
        or transition.remove
        or transition.wait_until
        or transition.waiting_remove
        or transition.dead
        or transition.dead_remove
        or transition.records
    )


def commit(connection: sqlite3.Connection, prepared: Sequence[Prepared]) -> list[Result]:
    """Write the group, inside a transaction. Errors: sqlite3.Error, then nothing of the group is to be kept."""
    if all(one.only_appends for one in prepared):
        return _commit_appends(connection, [one.transition for one in prepared])
    results: list[Result] = []
    refused: dict[Address, int] = {}  # versions, where the last transition of an instance was not stored
    for wave in _waves(prepared):
        results += _commit_wave(connection, wave, refused)
    return results


def _waves(prepared: Sequence[Prepared]) -> Iterator[list[Prepared]]:
    """The group in parts within which no transition touches what another touches, but for its instance, once that is
    born: almost always one.
    """
    wave: list[Prepared] = []
    touched: set[Hashable] = set()
    moved: dict[Address, int] = {}  # to which version
    for one in prepared:
        instance, address = one.instance, one.address
        touches = _touches(one)
        follows = instance is not None and address in moved and moved[address] == instance.version - 1
        if not (touched.isdisjoint(touches) and (follows or address not in touched)):
            yield wave
            wave, touched, moved = [], set(), {}
        wave.append(one)
        touched.update(touches)
        if instance is not None and address is not None:
            touched.add(address)
            if instance.version > 1:
                moved[address] = instance.version
    if wave:
        yield wave


def _touches(one: Prepared) -> list[Hashable]:
    """All that it touches but its instance."""
    transition = one.transition
    touches: list[Hashable] = [*transition.seen, *transition.remove, *[outgoing.name for outgoing in transition.put]]
    touches += transition.waiting_remove
    touches += [record.key for record in transition.records]
    if one.address is not None:
        touches.append((one.address, one.message_id))
    if transition.wait_until is not None and transition.message is not None:
        touches.append(transition.message.address)
    return touches


def _commit_wave(connection: sqlite3.Connection, wave: Sequence[Prepared], refused: dict[Address, int]) -> list[Result]:
    stored = _stored(connection, wave)
    seen = _seen(connection, wave)
    waits = _waits(connection, wave)
    there = _still_waiting(connection, wave)
    known = [_known(one.transition, seen, waits, there) for one in wave]
    appending = Appending(connection, [one.transition for one in wave])
    appended: dict[int, tuple[Appended, ...]] = {}
    problems = _problems(wave, stored, known, refused, appending, appended)
    good = [number for number, problem in enumerate(problems) if problem is None]
    _write_instances(connection, [(wave[number], stored.get(number)) for number in good])
    _write_others(connection, [wave[number].transition for number in good])
    appending.write()
    waiting = _waiting(connection, [(number, wave[number].instance) for number in good])
    return [
        problem or Committed(tuple(waiting.get(number, ())), appended[number])
        for number, problem in enumerate(problems)
    ]


def _commit_appends(connection: sqlite3.Connection, transitions: Sequence[Transition]) -> list[Result]:
    """The same for a group of which nothing else is to be looked up."""
    appending = Appending(connection, transitions)
    results: list[Result] = []
    outbox: list[Row] = []
    for one in transitions:
        problem = appending.problem(one)
        results.append(problem or Committed(appended=appending.take(one)))
        if problem is None:
            outbox += map(rows.outbox_row, one.put)
    appending.write()
    write_many(connection, OUTBOX, outbox)
    return results


# --- looking ---


STORED = """
    SELECT json_group_array(json_array(
        asked.column1, instance.id, run, instance.version, status, parked, paused, busy, retrying,
        stands_in, history.id IS NOT NULL
    ))
    FROM (VALUES *) AS asked
    CROSS JOIN instance INDEXED BY instance_address ON key = asked.column2 AND saga = asked.column3
    LEFT JOIN history INDEXED BY history_message
        ON history.instance = instance.id AND history.message_id = asked.column4
"""
SEEN = """
    SELECT consumer, message_id
    FROM (VALUES *) AS asked CROSS JOIN seen ON consumer = asked.column1 AND message_id = asked.column2
"""
WAITS = """
    SELECT key, saga, message_id, id
    FROM (VALUES *) AS asked
    CROSS JOIN waiting ON key = asked.column1 AND saga = asked.column2 AND message_id = asked.column3
"""
WAITING = """
    SELECT asked.column1, id, since, until, crc, body
    FROM (VALUES *) AS asked CROSS JOIN waiting ON key = asked.column2 AND saga = asked.column3
    ORDER BY id
"""


def _stored(connection: sqlite3.Connection, wave: Sequence[Prepared]) -> dict[int, Stored]:
    """What is there of each transition's instance, by the place in the wave."""
    asked = [
        (number, one.instance.key, one.instance.saga, one.message_id)
        for number, one in enumerate(wave)
        if one.instance is not None
    ]
    found: dict[int, Stored] = {}
    for (answer,) in read_many(connection, STORED, asked):
        for number, id, run, version, *flags, stands_in, knows in json.loads(answer):  # 0 and 1 equal False and True
            found[number] = Stored(id, run, version, tuple(flags), stands_in, bool(knows))
    return found


def _seen(connection: sqlite3.Connection, wave: Sequence[Prepared]) -> set[tuple[str, str]]:
    """Those of the wave's (consumer, message id) pairs that the store knows."""
    asked = [pair for one in wave for pair in one.transition.seen]
    return {(consumer, message_id) for consumer, message_id in read_many(connection, SEEN, asked)}


def _waits(connection: sqlite3.Connection, wave: Sequence[Prepared]) -> dict[tuple[Address, str], int]:
    """Those of the wave's messages for the waiting room that are in it already, and the row's id."""
    asked = [(message.key, message.saga, message.id) for message, _ in _for_waiting(one.transition for one in wave)]
    return {(Address(saga, key), message_id): id for key, saga, message_id, id in read_many(connection, WAITS, asked)}


def _still_waiting(connection: sqlite3.Connection, wave: Sequence[Prepared]) -> set[int]:
    """Those of the rows to be taken out of the waiting room that are in it."""
    asked = [(id,) for one in wave for id in one.transition.waiting_remove]
    return {id for (id,) in read_many(connection, "SELECT id FROM waiting WHERE id IN (VALUES *)", asked)}


def _for_waiting(transitions: Iterable[Transition]) -> Iterator[tuple[Envelope, Row]]:
    """The messages that go to the waiting room, and their rows."""
    for one in transitions:
        if one.wait_until is not None and one.message is not None:
            yield one.message, rows.waiting_row(one.message, one.at, one.wait_until)


# --- deciding ---


def _known(
    transition: Transition, seen: set[tuple[str, str]], waits: dict[tuple[Address, str], int], there: set[int]
) -> DuplicateMessage | None:
    if not seen.isdisjoint(transition.seen):
        return DuplicateMessage(f"seen already: {transition.seen}")
    if not there.issuperset(transition.waiting_remove):
        return DuplicateMessage(f"no more in the waiting room: {transition.waiting_remove}")
    message = transition.message
    if transition.wait_until is not None and message is not None:
        waiting_as = waits.get((message.address, message.id))
        if waiting_as is not None and waiting_as not in transition.waiting_remove:
            return DuplicateMessage(f"{message.id} waits for {message.address} already")
    return None


def _problems(
    wave: Sequence[Prepared],
    stored: dict[int, Stored],
    known: Sequence[DuplicateMessage | None],
    refused: dict[Address, int],
    appending: Appending,
    appended: dict[int, tuple[Appended, ...]],
) -> list[VersionConflict | DuplicateMessage | None]:
    """Why each must not be stored, or None; one instance's follow each other. What is appended goes into `appended`."""
    problems: list[VersionConflict | DuplicateMessage | None] = []
    reached: dict[Address, int] = {}  # which version, in this wave
    for number, one in enumerate(wave):
        problem: VersionConflict | DuplicateMessage | None = known[number]
        if one.instance is not None and one.address is not None:
            before = stored.get(number)
            if before is not None and one.address in reached:
                before = before._replace(version=reached[one.address])
            problem = problem or _misfit(one, one.instance, before, refused.pop(one.address, 0))
        problem = problem or appending.problem(one.transition)
        if one.instance is not None and one.address is not None:
            place = reached if problem is None else refused
            place[one.address] = one.instance.version
        if problem is None:
            appended[number] = appending.take(one.transition)
        problems.append(problem)
    return problems


def _misfit(
    one: Prepared, instance: Instance, stored: Stored | None, refused: int
) -> VersionConflict | DuplicateMessage | None:
    """Why the instance cannot follow what is stored; `refused` is the version of the one before it that could not."""
    if stored is None or (stored.run != instance.run and Status(stored.flags[0]).is_end):
        return None if instance.version == 1 else VersionConflict(f"{instance.address} has no run {instance.run}")
    if stored.run != instance.run:
        return VersionConflict(f"{instance.address} is still in its run {stored.run}")
    if stored.knows_message:
        message = one.transition.message
        return DuplicateMessage(f"{instance.address} has handled {message and message.id} already")
    if refused == instance.version - 1:
        return VersionConflict(f"{instance.address}: the transition to {refused} was not stored")
    if instance.version != stored.version + 1:
        return VersionConflict(f"{instance.address} is at {stored.version}, not below {instance.version}")
    return None


# --- writing ---


def _write_instances(connection: sqlite3.Connection, good: Sequence[tuple[Prepared, Stored | None]]) -> None:
    replaced: list[Row] = []
    born: list[Row] = []
    moved: list[Row] = []
    changed: list[Row] = []
    history: list[Row] = []
    tally: Counter[Row] = Counter()
    next_id = 0
    last = {one.address: one for one, _ in good}
    for one, stored in good:
        instance = one.instance
        if instance is None:
            continue
        if last[one.address] is not one:
            assert stored is not None
            history.append((stored.id, *one.history))
            continue
        if not one.body:  # the one that was to be stored in its place is refused
            body, flags = _stored_as(instance)
            one = one._replace(body=body, flags=flags)
        tally[tally_place(instance.saga, one.flags[0], one.body[STANDS_IN])] += 1
        if stored is not None:
            tally[tally_place(instance.saga, stored.flags[0], stored.stands_in)] -= 1
        if instance.version == 1:
            if stored is not None:
                replaced.append((stored.id,))
            next_id = next_id + 1 if next_id else _next_instance_id(connection)
            instance_id = next_id
            born.append((instance_id, *_fixed(instance), *one.flags, *one.body))
        else:
            assert stored is not None
            instance_id = stored.id
            if one.flags == stored.flags:
                moved.append((instance_id, *one.body))
            else:
                changed.append((instance_id, *one.flags, *one.body))
        history.append((instance_id, *one.history))
    write_many(connection, "DELETE FROM history WHERE instance IN (VALUES *)", replaced)
    write_many(connection, "DELETE FROM instance WHERE id IN (VALUES *)", replaced)
    write_many(connection, BORN, born)
    write_many(connection, MOVED, moved)
    write_many(connection, CHANGED, changed)
    write_many(connection, HISTORY, history)
    write_many(connection, TALLY, [(*place, number) for place, number in tally.items() if number])


BORN = """
    INSERT INTO instance (
        id, saga, key, run, parent_saga, parent_key, status, parked, paused, busy, retrying,
        version, wake_at, updated_at, ended_at, stands_in, crc, body
    ) VALUES *
"""
# Setting a column rewrites the indexes it is in, even to the same value: hence one statement without the flags.
MOVED = """
    UPDATE instance
    SET version = new.column2, wake_at = new.column3, updated_at = new.column4, ended_at = new.column5,
        stands_in = new.column6, crc = new.column7, body = new.column8
    FROM (VALUES *) AS new WHERE instance.id = new.column1
"""
CHANGED = """
    UPDATE instance
    SET status = new.column2, parked = new.column3, paused = new.column4, busy = new.column5, retrying = new.column6,
        version = new.column7, wake_at = new.column8, updated_at = new.column9, ended_at = new.column10,
        stands_in = new.column11, crc = new.column12, body = new.column13
    FROM (VALUES *) AS new WHERE instance.id = new.column1
"""
HISTORY = "INSERT INTO history (instance, version, message_id, at, outcome, notes, crc, message) VALUES *"


TALLY = """
    INSERT INTO tally (saga, status, stands_in, instances) VALUES *
    ON CONFLICT DO UPDATE SET instances = instances + excluded.instances
"""
RECORD = """
    INSERT INTO record (key, at, crc, body) VALUES *
    ON CONFLICT (key) DO UPDATE SET at = excluded.at, crc = excluded.crc, body = excluded.body
"""
STANDS_IN = 4  # where it is in a Prepared's body


def tally_place(saga: str, status: str, stands_in: str) -> Row:
    """Under what an instance is counted; where it stands matters while it is open."""
    return (saga, status, "" if Status(status).is_end else stands_in)


def _fixed(instance: Instance) -> Row:
    parent = instance.answer_to
    return (instance.saga, instance.key, instance.run, parent and parent.saga, parent and parent.key)


def _next_instance_id(connection: sqlite3.Connection) -> int:
    (last,) = connection.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = 'instance'").fetchone()
    return (last or 0) + 1


OUTBOX = "INSERT OR REPLACE INTO outbox (name, due_at, crc, body) VALUES *"


def _write_others(connection: sqlite3.Connection, good: Sequence[Transition]) -> None:
    for sql, found in (
        ("DELETE FROM waiting WHERE id IN (VALUES *)", [(id,) for one in good for id in one.waiting_remove]),
        (
            "INSERT INTO waiting (saga, key, message_id, since, until, crc, body) VALUES *",
            [row for _, row in _for_waiting(good)],
        ),
        ("DELETE FROM outbox WHERE name IN (VALUES *)", [(name,) for one in good for name in one.remove]),
        (
            OUTBOX,
            [rows.outbox_row(outgoing) for one in good for outgoing in one.put],
        ),
        ("DELETE FROM dead WHERE id IN (VALUES *)", [(id,) for one in good for id in one.dead_remove]),
        ("INSERT INTO dead (at, crc, body) VALUES *", [rows.dead_row(letter) for one in good for letter in one.dead]),
        (
            "INSERT INTO seen (consumer, message_id, at) VALUES *",
            [(*pair, one.at) for one in good for pair in dict.fromkeys(one.seen)],
        ),
        (RECORD, [rows.record_row(record, one.at) for one in good for record in one.records]),
    ):
        write_many(connection, sql, found)


def _waiting(connection: sqlite3.Connection, good: Sequence[tuple[int, Instance | None]]) -> dict[int, list[Waiting]]:
    """What waited for the new instances, by the place in the wave."""
    asked = [(number, one.key, one.saga) for number, one in good if one is not None and one.version == 1]
    found: dict[int, list[Waiting]] = {}
    for number, *row in read_many(connection, WAITING, asked):
        found.setdefault(number, []).append(rows.waiting_of(*row))
    return found
