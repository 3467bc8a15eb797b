"""From values to rows and back."""

from __future__ import annotations

import zlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import msgspec
from msgspec import structs

from orchestrator.errors import StoreCorrupt
from orchestrator.machine.instance import Instance, Outline, run_id
from orchestrator.machine.transition import Entry, Outcome, Transition
from orchestrator.ports import Due, Standing, Waiting
from orchestrator.wire import Address, DeadLetter, Envelope, Outgoing

Row: TypeAlias = tuple[Any, ...]
T = TypeVar("T")

DAMAGED = "a row is not what was written: stop the daemon, keep the file, restore a backup"

_encode = msgspec.json.Encoder().encode
_instance = msgspec.json.Decoder(Instance)
_envelope = msgspec.json.Decoder(Envelope)
_outgoing = msgspec.json.Decoder(Outgoing)
_notes = msgspec.json.Decoder(tuple[str, ...])
_dead_letter = msgspec.json.Decoder(DeadLetter)


def flags(instance: Instance, outline: Outline) -> tuple[str, bool, bool, bool, bool]:
    """The columns of an instance that rarely change: status, parked, paused, busy, retrying."""
    return (instance.status.value, bool(outline.parked), instance.paused, outline.is_busy, outline.is_retrying)


def seal(body: bytes, *columns: object) -> int:
    """The checksum of a row: of its body, and of the columns that neither an index nor the body says again."""
    return zlib.crc32(repr(columns).encode(), zlib.crc32(body))


def instance_row(instance: Instance, outline: Outline) -> Row:
    """The columns that change with every transition: version, wake_at, updated_at, ended_at, stands_in, crc, body."""
    body = _encode(instance)
    stands_in = " ".join((str(instance.definition_version), *outline.stands_in))
    return (
        instance.version,
        instance.wake_at,
        instance.updated_at,
        instance.ended_at,
        stands_in,
        seal(body, stands_in),
        body,
    )


def standing_of(saga: str, stands_in: str, count: int, key: str) -> Standing:
    """A group of instances with the same `stands_in`: the definition's version and the steps, with spaces between."""
    version, *steps = stands_in.split(" ")
    with _damage():
        return Standing(saga, int(version), tuple(steps), count, key)


def instance_of(stands_in: str, crc: int, body: bytes) -> Instance:
    """Errors: StoreCorrupt, when the bytes are not those that were written."""
    return _decoded(_instance, crc, body, stands_in)


class HistoryCode:
    """Writes and reads the history of one run, leaving out what each of its messages would repeat.

    Ids that begin with the run's own prefix (`saga/key~run/`, R3) are stored as `~` and the rest, others as `=` and the
    whole; the address only where it is another.
    """

    def __init__(self, address: Address, run: str) -> None:
        self._address = address
        self._prefix = run_id(address.saga, address.key, run) + "/"

    def short(self, text: str) -> str:
        """An id as it is stored."""
        if text.startswith(self._prefix):
            return "~" + text[len(self._prefix) :]
        return "=" + text if text else ""

    def long(self, text: str) -> str:
        """An id as it was."""
        return self._prefix + text[1:] if text.startswith("~") else text[1:]

    def row(self, transition: Transition, message: Envelope, version: int) -> Row:
        """version, message_id, at, outcome, notes, crc, message."""
        own = message.address == self._address
        body = _encode(
            structs.replace(
                message,
                id="",
                saga="" if own else "=" + message.saga,
                key="" if own else message.key,
                reply_to=self.short(message.reply_to),
                causation_id=self.short(message.causation_id),
            )
        )
        notes = _encode(transition.notes).decode() if transition.notes else ""
        columns = (version, self.short(message.id), float(transition.at), str(transition.outcome), notes)
        return (*columns, seal(body, *columns), body)

    def entry(self, row: Row) -> Entry:
        """Errors: StoreCorrupt, when the bytes are not those that were written."""
        *columns, crc, body = row
        stored = _decoded(_envelope, crc, body, *columns)
        version, message_id, at, outcome, notes = columns
        with _damage():
            told = Outcome(outcome), _notes.decode(notes) if notes else ()
        message = structs.replace(
            stored,
            id=self.long(message_id),
            saga=stored.saga[1:] if stored.saga else self._address.saga,
            key=stored.key if stored.saga else self._address.key,
            reply_to=self.long(stored.reply_to),
            causation_id=self.long(stored.causation_id),
        )
        return Entry(version, at, message, *told)


def outbox_row(outgoing: Outgoing) -> Row:
    """name, due_at, crc, body."""
    body = _encode(outgoing)
    return (outgoing.name, outgoing.due_at, seal(body), body)


def due_of(position: int, crc: int, body: bytes) -> Due:
    """A row of the outbox. Errors: StoreCorrupt."""
    return Due(position, _decoded(_outgoing, crc, body))


def waiting_row(message: Envelope, since: float, until: float) -> Row:
    """saga, key, message_id, since, until, crc, body."""
    body = _encode(message)
    return (message.saga, message.key, message.id, since, until, seal(body, float(since), float(until)), body)


def waiting_of(waiting_id: int, since: float, until: float, crc: int, body: bytes) -> Waiting:
    """A row of the waiting room. Errors: StoreCorrupt."""
    return Waiting(waiting_id, _decoded(_envelope, crc, body, since, until), since, until)


def dead_row(letter: DeadLetter) -> Row:
    """at, crc, body."""
    body = _encode(structs.replace(letter, id=0))
    return (letter.at, seal(body), body)


def dead_of(dead_id: int, crc: int, body: bytes) -> DeadLetter:
    """A dead letter under its id. Errors: StoreCorrupt."""
    return structs.replace(_decoded(_dead_letter, crc, body), id=dead_id)


def _decoded(decoder: msgspec.json.Decoder[T], crc: int, body: object, *columns: object) -> T:
    if not isinstance(body, bytes) or seal(body, *columns) != crc:  # damage can make it of another type
        raise StoreCorrupt(DAMAGED)
    with _damage():
        return decoder.decode(body)


@contextmanager
def _damage() -> Generator[None]:
    """What cannot be read was not written by us, or not for this version."""
    try:
        yield
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise StoreCorrupt(f"{DAMAGED} ({type(error).__name__})") from error
