"""The whole effect of one message, as a value: committed, logged, tested, shown and previewed alike."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from ..enums import quick
from ..recorded import Append
from ..wire import DeadLetter, Envelope, Outgoing
from .instance import Instance


@quick
class Outcome(StrEnum):
    """What became of the message."""

    APPLIED = "applied"
    KEPT = "kept"  # for a step not entered yet (R12)
    QUEUED = "queued"  # behind a bug (R15)
    STALE = "stale"  # a reply or timer that is not awaited (R4)
    LATE = "late"  # for a step already left, or after the end (R12, R14)
    DUPLICATE = "duplicate"  # a second start (R13)
    REFUSED = "refused"  # an operator's verb that does not fit the state (R17)
    DEAD = "dead"  # a dead letter
    WAITING = "waiting"  # no such instance yet: the waiting room (R11)


class Record(Struct, frozen=True, gc=False):
    """What a participant's host keeps under the key of a do (R7): bytes that only it reads."""

    key: str
    body: bytes


class Transition(Struct, frozen=True, kw_only=True, gc=False):
    """One atomic change of the store (R1). Made by the machine for an instance; by the shell for housekeeping,
    then without `instance`.

    instance   as it is to be stored; its version is one more than what was loaded (1: a new instance). None: none.
    message    what was handled; with an instance it becomes the history row, and its id the inbox entry.
    at         the moment of the transition, seconds since 1970: `now()` in the handlers.
    notes      what happened, a phrase each, for people.
    put, remove            rows of the outbox to store, and names of those that became pointless.
    dead, dead_remove      dead letters to store; ids of those settled.
    wait_until             the message goes to the waiting room until then (R11).
    waiting_remove         ids of waiting-room rows that this settles.
    seen                   (consumer, message id) pairs of those without an instance (listeners): their inbox.
    records                to keep in place of what was kept under their keys; of that age they are pruned (R7).
    appends                events for the ends of streams, in order.
    """

    at: float
    instance: Instance | None = None
    message: Envelope | None = None
    outcome: Outcome = Outcome.APPLIED
    notes: tuple[str, ...] = ()
    put: tuple[Outgoing, ...] = ()
    remove: tuple[str, ...] = ()
    dead: tuple[DeadLetter, ...] = ()
    dead_remove: tuple[int, ...] = ()
    wait_until: float | None = None
    waiting_remove: tuple[int, ...] = ()
    seen: tuple[tuple[str, str], ...] = ()
    records: tuple[Record, ...] = ()
    appends: tuple[Append, ...] = ()


class Entry(Struct, frozen=True, gc=False):
    """A history row: the n-th transition of an instance, with the message itself (R1)."""

    version: int
    at: float
    message: Envelope
    outcome: Outcome
    notes: tuple[str, ...] = ()
