"""When two instances count as the same state, and what a move makes of one."""

from __future__ import annotations

import hashlib
from copy import copy

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from ..definition import Definition
from ..machine import Call, CallKind, Do, Instance, Status, Transition, Undo, Visit, react
from .world import Act, Move

NOW = 1_700_000_000.0  # the moment at which everything happens: 2023-11-14 22:13:20 UTC


class State(msgspec.Struct, frozen=True):
    """An instance with all that does not matter taken off, and how often it was told something beside its steps."""

    instance: Instance
    asides: int = 0

    def digest(self) -> bytes:
        """Equal for equal states."""
        return hashlib.blake2b(_encoder.encode(self), digest_size=16).digest()


_encoder = msgspec.msgpack.Encoder()


def after(definition: Definition, key: str, instance: Instance | None, move: Move) -> Transition:
    """What the real machine makes of the move. Errors: HandlerBug."""
    if instance is not None and move.act is Act.GIVE_UP and move.attempts > 1:
        instance = at_last_attempt(instance, move)
    return react(definition, instance, replace(move.envelope, saga=definition.name, key=key, time=NOW), NOW)


def at_last_attempt(instance: Instance, move: Move) -> Instance:
    """The same instance after so many failed attempts that the next is the last."""
    fresh = copy(instance)
    fresh.visits = [copy(visit) for visit in instance.visits]
    for visit in fresh.visits:
        visit.calls = [copy(call) for call in visit.calls]
        for call in visit.calls:
            asked = instance.undo_id(visit, call) if call.unwinding is Undo.ASKED else instance.command_id(visit, call)
            if asked == move.envelope.reply_to:
                call.base = call.attempt - move.attempts
    return fresh


def plain(instance: Instance) -> Instance:
    """The instance without versions, texts and counts of attempts, every moment of it now."""
    fresh = copy(instance)
    fresh.version = 1
    fresh.why = fresh.last_error = fresh.correlation_id = fresh.traceparent = ""
    fresh.started_at = fresh.updated_at = NOW
    fresh.ended_at = _now(instance.ended_at)
    fresh.deadline_at = _now(instance.deadline_at)
    fresh.unwind_wanted = "wanted" if instance.unwind_wanted else ""
    fresh.kept = sorted(instance.kept, key=lambda envelope: envelope.type)
    fresh.visits = [_plain_visit(visit) for visit in instance.visits]
    if instance.status is not Status.RUNNING:  # no handler runs any more, every undo is stored (R4, R5)
        fresh.state, fresh.kept, fresh.passed = Raw(b"{}"), [], []
    return fresh


def _plain_visit(visit: Visit) -> Visit:
    fresh = copy(visit)
    fresh.entered_at = NOW
    fresh.wake_at = _now(visit.wake_at)
    fresh.timeout_at = _now(visit.timeout_at)
    fresh.calls = [_plain_call(call) for call in visit.calls]
    return fresh


def _plain_call(call: Call) -> Call:
    fresh = copy(call)
    fresh.attempt, fresh.base = min(call.attempt, 1), 0
    fresh.first_at = NOW if call.first_at else 0.0
    fresh.timeout_at = _now(call.timeout_at)
    fresh.retry_at = _now(call.retry_at)
    fresh.error = ""
    if call.kind is CallKind.COMMAND and call.unwinding in (Undo.WANTED, Undo.ASKED, Undo.DONE):
        fresh.do = Do.LEFT  # from here on done and in doubt are the same
    if call.unwinding is Undo.DONE:
        fresh.undo = None
    return fresh


def _now(moment: float | None) -> float | None:
    return None if moment is None else NOW
