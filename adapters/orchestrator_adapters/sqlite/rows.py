"""From values to rows and back."""

from __future__ import annotations

import zlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import msgspec
from msgspec import Raw, Struct, structs

from orchestrator.errors import StoreCorrupt
from orchestrator.machine.instance import Instance, Outline, run_id
from orchestrator.machine.transition import Entry, Outcome, Record, Transition
from orchestrator.ports import Due, Standing, Waiting
from orchestrator.wire import Address, DeadLetter, Envelope, Kind, Outgoing

from .packing import packed, unpacked

Row: TypeAlias = tuple[Any, ...]
T = TypeVar("T")

DAMAGED = "a row is not what was written: stop the daemon, keep the file, restore a backup"

BLOB = bytearray  # the sqlite3 module binds it at once; of bytes it asks for an adapter first, which takes longer

_encode = msgspec.json.Encoder().encode
_instance = msgspec.json.Decoder(Instance)
_envelope = msgspec.json.Decoder(Envelope)
_outgoing = msgspec.json.Decoder(Outgoing)
_notes = msgspec.json.Decoder(tuple[str, ...])
_dead_letter = msgspec.json.Decoder(DeadLetter)


def flags(instance: Instance, outline: Outline) -> tuple[str, int, int, int, int]:
    """The columns of an instance that rarely change: status, parked, paused, busy, retrying."""
    return (
        str(instance.status),
        1 if outline.parked else 0,
        1 if instance.paused else 0,
        1 if outline.is_busy else 0,
        1 if outline.is_retrying else 0,
    )


def seal(body: bytes | bytearray, *columns: object) -> int:
    """The checksum of a row: of its body, and of the columns that neither an index nor the body says again."""
    return zlib.crc32(repr(columns).encode(), zlib.crc32(body))


def instance_row(instance: Instance, outline: Outline) -> Row:
    """The columns that change with every transition: version, wake_at, updated_at, ended_at, stands_in, crc, body."""
    body = packed(_encode(instance))
    stands_in = " ".join((str(instance.definition_version), *outline.stands_in))
    return (
        instance.version,
        instance.wake_at,
        instance.updated_at,
        instance.ended_at,
        stands_in,
        seal(body, stands_in),
        BLOB(body),
    )


def standing_of(saga: str, stands_in: str, count: int, key: str) -> Standing:
    """A group of instances with the same `stands_in`: the definition's version and the steps, with spaces between."""
    version, *steps = stands_in.split(" ")
    with _damage():
        return Standing(saga, int(version), tuple(steps), count, key)


def instance_of(stands_in: str, crc: int, body: bytes) -> Instance:
    """Errors: StoreCorrupt, when the bytes are not those that were written."""
    return decoded(_instance, crc, body, stands_in)


class Rest(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a message in the history is beside a plain reply. Ids are short; None: the same as the run's."""

    kind: Kind = Kind.EVENT
    address: Address | None = None
    via: str = ""
    reply_to: str = ""
    attempt: int = 0
    clean: bool = False
    version: int = 1
    user: str = ""
    correlation_id: str | None = None
    causation_id: str = ""
    traceparent: str | None = None
    answer_to: Address | None = None


class Kept(Struct, frozen=True, array_like=True, gc=False):
    """A message in the history, without its id; `rest` None: the reply that the id says."""

    type: str
    data: Raw
    time: float
    rest: Rest | None = None


class HistoryCode:
    """Writes and reads the history of one run, leaving out what each of its messages would repeat: of an order's four
    messages 700 bytes are stored instead of 1,200.

    Ids that begin with the run's own prefix (`saga/key~run/`, R3) are stored as `~` and the rest, others as `=` and the
    whole. A reply as a participant gives it is said by its id: the command's, its kind, the attempt (R3).
    """

    def __init__(self, address: Address, run: str, correlation_id: str = "", traceparent: str = "") -> None:
        """`correlation_id` and `traceparent` are the run's: what its messages are most often of."""
        self._address = address
        self._correlation_id = correlation_id
        self._traceparent = traceparent
        self._prefix = run_id(address.saga, address.key, run) + "/"

    @classmethod
    def of(cls, instance: Instance, address: Address | None = None) -> HistoryCode:
        """For the history of this instance, whose `address` the caller may have at hand."""
        return cls(address or instance.address, instance.run, instance.correlation_id, instance.traceparent)

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
        rest = None if self._is_plain_reply(message) else self._rest(message)
        body = _encode(Kept(message.type, message.data, message.time, rest))
        notes = _encode(transition.notes).decode() if transition.notes else ""
        columns = (version, self.short(message.id), float(transition.at), str(transition.outcome), notes)
        return (*columns, seal(body, *columns), BLOB(body))

    def entry(self, row: Row) -> Entry:
        """Errors: StoreCorrupt, when the bytes are not those that were written."""
        *columns, crc, body = row
        kept = decoded(_kept, crc, body, *columns)
        version, message_id, at, outcome, notes = columns
        with _damage():
            message = self._message(self.long(message_id), kept)
            return Entry(version, at, message, Outcome(outcome), _notes.decode(notes) if notes else ())

    def _is_plain_reply(self, message: Envelope) -> bool:
        """Whether `_reply` makes the same message of the same id, type, data and time."""
        kind = message.kind
        return (
            kind in _REPLIES
            and message.id == f"{message.reply_to}:{kind}:{message.attempt}"
            and message.attempt >= 0
            and message.causation_id == message.reply_to
            and message.correlation_id == self._correlation_id
            and message.traceparent == self._traceparent
            and message.saga == self._address.saga
            and message.key == self._address.key
            and message.clean is (kind is Kind.REFUSAL)
            and message.version == 1
            and not (message.via or message.user or message.answer_to)
        )

    def _rest(self, message: Envelope) -> Rest:
        return Rest(
            kind=message.kind,
            address=None if message.address == self._address else message.address,
            via=message.via,
            reply_to=self.short(message.reply_to),
            attempt=message.attempt,
            clean=message.clean,
            version=message.version,
            user=message.user,
            correlation_id=None if message.correlation_id == self._correlation_id else message.correlation_id,
            causation_id=self.short(message.causation_id),
            traceparent=None if message.traceparent == self._traceparent else message.traceparent,
            answer_to=message.answer_to,
        )

    def _message(self, id: str, kept: Kept) -> Envelope:
        """Errors: ValueError, for an id that says no reply where there is no rest."""
        rest = kept.rest or self._said_by(id)
        address = rest.address or self._address
        return Envelope(
            id=id,
            kind=rest.kind,
            type=kept.type,
            data=kept.data,
            time=kept.time,
            saga=address.saga,
            key=address.key,
            via=rest.via,
            reply_to=self.long(rest.reply_to),
            attempt=rest.attempt,
            clean=rest.clean,
            version=rest.version,
            user=rest.user,
            correlation_id=self._correlation_id if rest.correlation_id is None else rest.correlation_id,
            causation_id=self.long(rest.causation_id),
            traceparent=self._traceparent if rest.traceparent is None else rest.traceparent,
            answer_to=rest.answer_to,
        )

    def _said_by(self, id: str) -> Rest:
        """What the id of a plain reply says of it."""
        before, _, attempt = id.rpartition(":")
        command_id, _, word = before.rpartition(":")
        kind, command = Kind(word), self.short(command_id)
        return Rest(kind=kind, reply_to=command, attempt=int(attempt), clean=kind is Kind.REFUSAL, causation_id=command)


_REPLIES = (Kind.YES, Kind.REFUSAL, Kind.FAILURE)
_kept = msgspec.json.Decoder(Kept)


def outbox_row(outgoing: Outgoing) -> Row:
    """name, due_at, crc, body."""
    body = _encode(outgoing)
    return (outgoing.name, outgoing.due_at, seal(body), BLOB(body))


def due_of(position: int, crc: int, body: bytes) -> Due:
    """A row of the outbox. Errors: StoreCorrupt."""
    return Due(position, decoded(_outgoing, crc, body))


def waiting_row(message: Envelope, since: float, until: float) -> Row:
    """saga, key, message_id, since, until, crc, body."""
    body = _encode(message)
    return (message.saga, message.key, message.id, since, until, seal(body, float(since), float(until)), body)


def waiting_of(waiting_id: int, since: float, until: float, crc: int, body: bytes) -> Waiting:
    """A row of the waiting room. Errors: StoreCorrupt."""
    return Waiting(waiting_id, decoded(_envelope, crc, body, since, until), since, until)


def dead_row(letter: DeadLetter) -> Row:
    """at, crc, body."""
    body = _encode(structs.replace(letter, id=0))
    return (letter.at, seal(body), body)


def dead_of(dead_id: int, crc: int, body: bytes) -> DeadLetter:
    """A dead letter under its id. Errors: StoreCorrupt."""
    return structs.replace(decoded(_dead_letter, crc, body), id=dead_id)


def record_row(record: Record, at: float) -> Row:
    """key, at, crc, body."""
    return (record.key, at, seal(record.body, record.key, at), record.body)


def record_of(key: str, at: float, crc: int, body: object) -> bytes:
    """What was kept under this key. Errors: StoreCorrupt."""
    if not isinstance(body, bytes) or seal(body, key, at) != crc:
        raise StoreCorrupt(f"the record of {key} is damaged")
    return body


def decoded(decoder: msgspec.json.Decoder[T], crc: object, body: object, *columns: object) -> T:
    """The body of a row with its seal. Errors: StoreCorrupt, when the bytes are not those that were written."""
    if not isinstance(body, bytes | BLOB) or seal(body, *columns) != crc:  # damage can make it of another type
        raise StoreCorrupt(DAMAGED)
    with _damage():
        return decoder.decode(unpacked(body))


@contextmanager
def _damage() -> Generator[None]:
    """What cannot be read was not written by us, or not for this version."""
    try:
        yield
    except (ValueError, RecursionError, zlib.error) as error:  # msgspec's errors are ValueErrors
        raise StoreCorrupt(f"{DAMAGED} ({type(error).__name__})") from error
