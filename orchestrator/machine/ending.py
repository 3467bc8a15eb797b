"""The end of an instance, and what its parent is told (R14, R22)."""

from __future__ import annotations

from msgspec import Raw
from msgspec.structs import replace

from ..messages import Failure, Unwound, encode, type_name
from ..wire import Envelope, Kind, Route
from .exchange import exchange_id
from .instance import Payload, Status, VisitState
from .turn import Turn, silence

_UNDONE = VisitState.UNDONE


def end(turn: Turn, status: Status) -> None:
    """Nothing moves any more: no command, timer or kept event is left; only events and an answer still leave (I8)."""
    instance = turn.instance
    instance.status = status
    instance.ended_at = turn.now
    instance.deadline_at = None
    instance.then = None
    instance.unwind_wanted = ""
    _put_away(turn)
    turn.note(str(status))
    if instance.answer_to is not None:
        _answer_end(turn)


def answer_again(turn: Turn) -> None:
    """A second start of an ended child gets the same answer (R22)."""
    _answer_do(turn)


def answer_unwinding(turn: Turn) -> None:
    """Tell the parent that this child is undone."""
    instance = turn.instance
    if instance.status is Status.KILLED:
        _fail_unwinding(turn, "was killed; what it did is left standing")
    else:
        _answer(turn, Kind.YES, instance.unwind_attempt, Payload(type="Done", data=Raw(b"{}")), undo=True)
        instance.unwind_attempt = 0


def refuse_unwinding(turn: Turn) -> None:
    """Tell the parent that this child cannot be undone any more: its pivot is passed (R22)."""
    _fail_unwinding(turn, "has passed its pivot and cannot be unwound")


def _put_away(turn: Turn) -> None:
    instance = turn.instance
    for envelope in instance.kept:
        turn.note(f"{envelope.type} {envelope.id} was kept for a step that did not come: late")
    for envelope in instance.queue:
        turn.note(f"{envelope.type} {envelope.id} was queued: late")
    instance.kept, instance.queue = [], []
    for visit in instance.visits:
        if visit.state is _UNDONE:
            continue
        visit.waiting, visit.wake_at, visit.timeout_at, visit.parked = False, None, None, ""
        for call in visit.calls:
            if call.timeout_at is not None or call.retry_at is not None or call.parked:
                turn.take_out(exchange_id(instance, visit, call))
                silence(call)
    held, instance.held, instance.paused = instance.held, [], False
    for row in held:
        if row.route is Route.EVENT:
            turn.send(row)


def _answer_end(turn: Turn) -> None:
    instance = turn.instance
    if instance.unwind_attempt:
        answer_unwinding(turn)
    else:
        _answer_do(turn)


def _answer_do(turn: Turn) -> None:
    instance = turn.instance
    attempt = instance.answer_attempt
    if instance.status is Status.COMPLETED:
        _answer(turn, Kind.YES, attempt, Payload(type=instance.saga, data=instance.state))
    elif instance.status is Status.COMPENSATED:
        unwound = Unwound(saga=instance.saga, key=instance.key, why=instance.why)
        _answer(turn, Kind.REFUSAL, attempt, Payload(type=type_name(Unwound), data=Raw(encode(unwound))))
    else:
        _answer(turn, Kind.FAILURE, attempt, _failure("killed", f"{instance.address} was killed: {instance.why}"))


def _fail_unwinding(turn: Turn, why: str) -> None:
    instance = turn.instance
    _answer(turn, Kind.FAILURE, instance.unwind_attempt, _failure("fatal", f"{instance.address} {why}"), undo=True)
    instance.unwind_attempt = 0


def _failure(reason: str, error: str) -> Payload:
    failure = Failure(reason=reason, error=error, attempts=1)
    return Payload(type=type_name(Failure), data=Raw(encode(failure)))


def _answer(turn: Turn, kind: Kind, attempt: int, payload: Payload, undo: bool = False) -> None:
    command = turn.instance.key + ("/undo" if undo else "")  # a child's key is its parent's command (R22)
    reply: Envelope = turn.envelope(kind, f"{command}:{kind}:{attempt}", payload)
    turn.answer_parent(replace(reply, reply_to=command, attempt=attempt, clean=kind is Kind.REFUSAL))
