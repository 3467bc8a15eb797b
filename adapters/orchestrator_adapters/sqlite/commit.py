"""How transitions become rows: look at what is there, decide without a database, write what is left."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

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

Flags: TypeAlias = tuple[str, int, int, int, int]
NO_FLAGS: Flags = ("", 0, 0, 0, 0)


class Prepared(Struct, frozen=True, gc=False):
    """A transition with what must be known or encoded of its instance. `body` and `flags` are empty where a later one
    of the group says how the instance is stored. `is_plain`: it touches its instance and the outbox, nothing else.
    """

    transition: Transition
    is_plain: bool
    instance: Instance | None = None
    address: Address | None = None
    history: Row = ()
    body: Row = ()
    flags: Flags = NO_FLAGS

    @property
    def message_id(self) -> str:
        """As it is stored."""
        message_id: str = self.history[1]
        return message_id


class Stored(Struct, frozen=True, array_like=True, gc=False):
    """What the store has of the instance of the transition in this `place` of the wave."""

    place: int
    id: int
    run: str
    version: int
    flags: Flags
    stands_in: str
    knows_message: int


_stored_list = msgspec.json.Decoder(list[Stored])


def committing(transitions: Sequence[Transition]) -> Callable[[sqlite3.Connection], list[Result]]:
    """What writes the group, inside a transaction. The transitions are encoded before, as they are now: the instances
    belong to the caller and may change later. Errors: sqlite3.Error, then nothing of the group is to be kept.
    """
    if all(map(_only_appends, transitions)):
        appends = tuple(transitions)
        return lambda connection: _commit_appends(connection, appends)
    prepared = _prepare(transitions)
    return lambda connection: _commit(connection, prepared)


def _only_appends(transition: Transition) -> bool:
    """Whether nothing but the log is to be looked at, and nothing but log and outbox written."""
    if transition.instance is not None or transition.remove or not transition.appends:
        return False
    return not _is_for_others(transition)


def _prepare(transitions: Sequence[Transition]) -> list[Prepared]:
    addresses = [None if one.instance is None else one.instance.address for one in transitions]
    last = {address: number for number, address in enumerate(addresses)}
    return [
        _prepared(transition, address, is_last=last[address] == number)
        for number, (transition, address) in enumerate(zip(transitions, addresses, strict=True))
    ]


def _prepared(transition: Transition, address: Address | None, is_last: bool) -> Prepared:
    instance, message = transition.instance, transition.message
    is_plain = _is_plain(transition)
    if instance is None or address is None:
        return Prepared(transition, is_plain)
    assert message is not None, "a transition of an instance is the effect of a message"
    history = HistoryCode.of(instance, address).row(transition, message, instance.version)
    body, flags = _stored_as(instance) if is_last or instance.version == 1 else ((), NO_FLAGS)
    return Prepared(transition, is_plain, instance, address, history, body, flags)


def _stored_as(instance: Instance) -> tuple[Row, Flags]:
    outline = instance.outline()
    return rows.instance_row(instance, outline), rows.flags(instance, outline)


def _is_plain(transition: Transition) -> bool:
    return not transition.appends and not _is_for_others(transition)


def _is_for_others(transition: Transition) -> bool:
    """Whether it touches anything but its instance, the outbox and the log."""
    return transition.wait_until is not None or bool(
        transition.seen or transition.records or transition.waiting_remove or transition.dead or transition.dead_remove
    )


def _commit(connection: sqlite3.Connection, prepared: Sequence[Prepared]) -> list[Result]:
    results: list[Result] = []
    refused: dict[Address, int] = {}  # versions, where the last transition of an instance was not stored
    for wave in _waves(prepared):
        results += _commit_wave(connection, wave, refused)
    return results


def _waves(prepared: Sequence[Prepared]) -> Iterator[Sequence[Prepared]]:
    """The group in parts within which no transition touches what another touches, but for its instance, once that is
    born: almost always one.
    """
    if len(prepared) == 1 or not _touch_twice(prepared):
        yield prepared
        return
    wave: list[Prepared] = []
    touched: set[Hashable] = set()
    moved: dict[Address, int] = {}  # to which version
    for one in prepared:
        instance, address = one.instance, one.address
        touches = _touches(one)
        if address is not None:
            touches.append((address, one.message_id))
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


def _touch_twice(prepared: Sequence[Prepared]) -> bool:
    everything: list[Hashable] = [one.address for one in prepared if one.address is not None]
    for one in prepared:
        everything += _touches(one)
    return len(set(everything)) < len(everything)


def _touches(one: Prepared) -> list[Hashable]:
    """All that it touches but its instance."""
    transition = one.transition
    touches: list[Hashable] = [*transition.remove]
    for outgoing in transition.put:
        touches.append(outgoing.name)
    if one.is_plain:
        return touches
    touches += transition.seen
    touches += transition.waiting_remove
    touches += [record.key for record in transition.records]
    if transition.wait_until is not None and transition.message is not None:
        touches.append(transition.message.address)
    return touches


def _commit_wave(connection: sqlite3.Connection, wave: Sequence[Prepared], refused: dict[Address, int]) -> list[Result]:
    stored = _stored(connection, wave)
    others = [one.transition for one in wave if not one.is_plain]
    known = _known(connection, others) if others else NOTHING_KNOWN
    appending = Appending(connection, others)
    appended: dict[int, tuple[Appended, ...]] = {}
    problems = _problems(wave, stored, known, refused, appending, appended)
    good = [number for number, problem in enumerate(problems) if problem is None]
    _write_instances(connection, [(wave[number], stored.get(number)) for number in good])
    _write_outbox(connection, [wave[number].transition for number in good])
    if others:
        _write_others(connection, [wave[number].transition for number in good if not wave[number].is_plain])
        appending.write()
    waiting = _waiting(connection, [(number, wave[number].instance) for number in good])
    if not waiting and not appended:
        return [problem or COMMITTED for problem in problems]
    return [
        problem or Committed(tuple(waiting.get(number, ())), appended.get(number, ()))
        for number, problem in enumerate(problems)
    ]


COMMITTED = Committed()


def _commit_appends(connection: sqlite3.Connection, transitions: Sequence[Transition]) -> list[Result]:
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
        asked.column1, instance.id, run, instance.version, json_array(status, parked, paused, busy, retrying),
        stands_in, history.id IS NOT NULL
    ))
    FROM (VALUES *) AS asked
    CROSS JOIN instance INDEXED BY instance_address ON key = asked.column2 AND saga = asked.column3
    LEFT JOIN history INDEXED BY history_message
        ON history.instance = instance.id AND history.message_id = asked.column4
"""
# The same of one, whose answer is one row by itself.
STORED_ALONE = """
    SELECT
        ?1, instance.id, run, instance.version, status, parked, paused, busy, retrying, stands_in,
        history.id IS NOT NULL
    FROM instance INDEXED BY instance_address
    LEFT JOIN history INDEXED BY history_message ON history.instance = instance.id AND history.message_id = ?4
    WHERE key = ?2 AND saga = ?3
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
        (number, one.instance.key, one.instance.saga, one.history[1])
        for number, one in enumerate(wave)
        if one.instance is not None
    ]
    if len(asked) == 1:
        for place, id, run, version, *flags, stands_in, knows in connection.execute(STORED_ALONE, asked[0]).fetchall():
            return {place: Stored(place, id, run, version, tuple(flags), stands_in, knows)}
        return {}
    answers = read_many(connection, STORED, asked)
    return {one.place: one for (answer,) in answers for one in _stored_list.decode(answer)}


class _Known(Struct, frozen=True):
    """What the store has of what a wave brings or takes out beside instances and outbox."""

    seen: set[tuple[str, str]]  # (consumer, message id)
    waits: dict[tuple[Address, str], int]  # messages that are in the waiting room already, and the row's id
    there: set[int]  # rows to be taken out of the waiting room that are in it

    def problem(self, transition: Transition) -> DuplicateMessage | None:
        if not self.seen.isdisjoint(transition.seen):
            return DuplicateMessage(f"seen already: {transition.seen}")
        if not self.there.issuperset(transition.waiting_remove):
            return DuplicateMessage(f"no more in the waiting room: {transition.waiting_remove}")
        message = transition.message
        if transition.wait_until is not None and message is not None:
            waiting_as = self.waits.get((message.address, message.id))
            if waiting_as is not None and waiting_as not in transition.waiting_remove:
                return DuplicateMessage(f"{message.id} waits for {message.address} already")
        return None


NOTHING_KNOWN = _Known(set(), {}, set())


def _known(connection: sqlite3.Connection, others: Sequence[Transition]) -> _Known:
    pairs = [pair for one in others for pair in one.seen]
    seen = {(consumer, message_id) for consumer, message_id in read_many(connection, SEEN, pairs)}
    messages = [(message.key, message.saga, message.id) for message, _ in _for_waiting(others)]
    waits = {
        (Address(saga, key), message_id): id for key, saga, message_id, id in read_many(connection, WAITS, messages)
    }
    ids = [(id,) for one in others for id in one.waiting_remove]
    there = {id for (id,) in read_many(connection, "SELECT id FROM waiting WHERE id IN (VALUES *)", ids)}
    return _Known(seen, waits, there)


def _for_waiting(transitions: Iterable[Transition]) -> Iterator[tuple[Envelope, Row]]:
    """The messages that go to the waiting room, and their rows."""
    for one in transitions:
        if one.wait_until is not None and one.message is not None:
            yield one.message, rows.waiting_row(one.message, one.at, one.wait_until)


# --- deciding ---


def _problems(
    wave: Sequence[Prepared],
    stored: dict[int, Stored],
    known: _Known,
    refused: dict[Address, int],
    appending: Appending,
    appended: dict[int, tuple[Appended, ...]],
) -> list[VersionConflict | DuplicateMessage | None]:
    """Why each must not be stored, or None; one instance's follow each other. What is appended goes into `appended`."""
    problems: list[VersionConflict | DuplicateMessage | None] = []
    reached: dict[Address, int] = {}  # which version, in this wave
    for number, one in enumerate(wave):
        transition = one.transition
        problem: VersionConflict | DuplicateMessage | None = None if one.is_plain else known.problem(transition)
        if one.instance is not None and one.address is not None:
            before = stored.get(number)
            if before is not None and one.address in reached:
                before = replace(before, version=reached[one.address])
            problem = problem or _misfit(one, one.instance, before, refused.pop(one.address, 0))
        if transition.appends:
            problem = problem or appending.problem(transition)
            if problem is None:
                appended[number] = appending.take(transition)
        if one.instance is not None and one.address is not None:
            place = reached if problem is None else refused
            place[one.address] = one.instance.version
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
    tally: dict[Row, int] = {}
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
        body, flags = (one.body, one.flags) if one.body else _stored_as(instance)  # who was to store it is refused
        _count(tally, instance.saga, flags[0], body[STANDS_IN], stored)
        if instance.version == 1:
            if stored is not None:
                replaced.append((stored.id,))
            next_id = next_id + 1 if next_id else _next_instance_id(connection)
            instance_id = next_id
            born.append((instance_id, *_fixed(instance), *flags, *body))
        else:
            assert stored is not None
            instance_id = stored.id
            if flags == stored.flags:
                moved.append((*body, instance_id))
            else:
                changed.append((*flags, *body, instance_id))
        history.append((instance_id, *one.history))
    if replaced:
        write_many(connection, "DELETE FROM history WHERE instance IN (VALUES *)", replaced)
        write_many(connection, "DELETE FROM instance WHERE id IN (VALUES *)", replaced)
    write_many(connection, BORN, born)
    write_many(connection, MOVED, moved, MOVED_ALONE)
    write_many(connection, CHANGED, changed, CHANGED_ALONE)
    write_many(connection, HISTORY, history)
    write_many(connection, TALLY, [(*place, number) for place, number in tally.items() if number])


def _count(tally: dict[Row, int], saga: str, status: str, stands_in: str, stored: Stored | None) -> None:
    place = tally_place(saga, status, stands_in)
    before = None if stored is None else tally_place(saga, stored.flags[0], stored.stands_in)
    if place == before:
        return
    tally[place] = tally.get(place, 0) + 1
    if before is not None:
        tally[before] = tally.get(before, 0) - 1


BORN = """
    INSERT INTO instance (
        id, saga, key, run, parent_saga, parent_key, status, parked, paused, busy, retrying,
        version, wake_at, updated_at, ended_at, stands_in, crc, body
    ) VALUES *
"""
_BODY = ("version", "wake_at", "updated_at", "ended_at", "stands_in", "crc", "body")
_FLAGS = ("status", "parked", "paused", "busy", "retrying")


def _updating(*columns: str) -> tuple[str, str]:
    """SQL that sets these columns of instances, whose ids come last: of many, and of one."""
    many = ", ".join(f"{name} = new.column{number}" for number, name in enumerate(columns, 1))
    one = ", ".join(f"{name} = ?" for name in columns)
    return (
        f"UPDATE instance SET {many} FROM (VALUES *) AS new WHERE instance.id = new.column{len(columns) + 1}",
        f"UPDATE instance SET {one} WHERE id = ?",
    )


# Setting a column rewrites the indexes it is in, even to the same value: hence one statement without the flags.
MOVED, MOVED_ALONE = _updating(*_BODY)
CHANGED, CHANGED_ALONE = _updating(*_FLAGS, *_BODY)
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
    return (saga, status, stands_in if status in _OPEN else "")


_OPEN = frozenset(str(status) for status in Status if not status.is_end)


def _fixed(instance: Instance) -> Row:
    parent = instance.answer_to
    return (instance.saga, instance.key, instance.run, parent and parent.saga, parent and parent.key)


def _next_instance_id(connection: sqlite3.Connection) -> int:
    (last,) = connection.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = 'instance'").fetchone()
    return (last or 0) + 1


OUTBOX = "INSERT OR REPLACE INTO outbox (name, due_at, crc, body) VALUES *"


def _write_outbox(connection: sqlite3.Connection, good: Sequence[Transition]) -> None:
    removed = [(name,) for one in good for name in one.remove]
    write_many(connection, "DELETE FROM outbox WHERE name IN (VALUES *)", removed, "DELETE FROM outbox WHERE name = ?")
    write_many(connection, OUTBOX, [rows.outbox_row(outgoing) for one in good for outgoing in one.put])


def _write_others(connection: sqlite3.Connection, good: Sequence[Transition]) -> None:
    for sql, found in (
        ("DELETE FROM waiting WHERE id IN (VALUES *)", [(id,) for one in good for id in one.waiting_remove]),
        (
            "INSERT INTO waiting (saga, key, message_id, since, until, crc, body) VALUES *",
            [row for _, row in _for_waiting(good)],
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
    if not asked:
        return {}
    found: dict[int, list[Waiting]] = {}
    for number, *row in read_many(connection, WAITING, asked):
        found.setdefault(number, []).append(rows.waiting_of(*row))
    return found
