"""What the host of a participant keeps of each key, and what follows when a command comes (R7)."""

from __future__ import annotations

import hashlib

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from ..wire import Kind, Outgoing

DIGEST_CHARS = 32


class Answer(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a participant answered: the part of a reply that does not name an attempt."""

    kind: Kind
    type: str
    data: Raw
    version: int = 1


class Kept(Struct, frozen=True, omit_defaults=True, gc=False):
    """That a do, or the undo of it, came: the digest of its payload, and its answer once there is one. Of an undo it is
    the tombstone.
    """

    digest: str
    answer: Answer | None = None

    def stored(self) -> bytes:
        """As it is kept."""
        return msgspec.json.encode(self)

    @classmethod
    def of(cls, command: Outgoing) -> Kept:
        """Of a command that has come."""
        return cls(hashlib.sha256(command.envelope.data).hexdigest()[:DIGEST_CHARS])


class Misuse(Exception):
    """The command must not be carried out, now or later; the text says why."""


_decode = msgspec.json.Decoder(Kept).decode


def read(record: bytes | None) -> Kept | None:
    """As it was kept, if anything was."""
    return None if record is None else _decode(record)


def do_record(command: Outgoing) -> str:
    """The name under which it is kept that the do came."""
    return f"do {command.undoes or command.name}"


def undo_record(command: Outgoing) -> str:
    """The name under which it is kept that the undo came."""
    return f"undo {command.undoes or command.name}"


def own_record(command: Outgoing) -> str:
    """The name under which it is kept that this command came."""
    return undo_record(command) if command.undoes else do_record(command)


def arrived(command: Outgoing, do: Kept | None, undo: Kept | None) -> Answer | None:
    """The answer where it is known; else the command is to be carried out.

    Errors: Misuse, for a do after its undo and for a key that came with another payload.
    """
    before = undo if command.undoes else do
    if before is not None and before.digest != Kept.of(command).digest:
        raise Misuse(f"{command.name} came before with another payload: a key stands for one command")
    if undo is not None and not command.undoes:
        raise Misuse(f"{command.name} was undone already: what comes after its undo is not carried out")
    return None if before is None else before.answer


def answered(command: Outgoing, answer: Answer) -> Kept:
    """What to keep after it was carried out. A failure is no answer: the next attempt is carried out again."""
    return replace(Kept.of(command), answer=None if answer.kind is Kind.FAILURE else answer)
