"""What must hold after each move (I4-I6, I8, I9), as sentences about what does not.

The checker asks it of every transition that could be, the audit of every one that was.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import NamedTuple

from ..definition import Definition
from ..machine import (
    Call,
    CallKind,
    Do,
    HandlerBug,
    Instance,
    MachineLimits,
    Outcome,
    Status,
    Transition,
    Undo,
    Visit,
    VisitState,
)
from ..machine.turn import Turn
from ..machine.unwinding import UNANSWERED
from ..machine.visits import store_undo
from ..wire import Envelope, Kind, Route
from .effects import may_remain

ANSWERS = {Kind.EVENT, Kind.YES, Kind.REFUSAL, Kind.FAILURE}


class Broken(NamedTuple):
    """An invariant that does not hold, by its number, and how."""

    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.what} ({self.rule})"


def wrong(definition: Definition, before: Instance | None, done: Transition) -> Iterator[str]:
    """Everything that this transition breaks, when every message that comes is one the saga declares."""
    if done.outcome is Outcome.DEAD:
        yield f"a declared message becomes a dead letter: {done.notes[-1]}"
    yield from map(str, broken(definition, before, done))
    if before is not None and before.status is Status.RUNNING and done.instance is not None:
        yield from map(str, _undo_too_late(definition, done.instance, done))
    if done.instance is not None and done.message is not None and done.message.kind is Kind.REFUSAL:
        yield from _unhandled(definition, done.instance, done.message)
    if done.instance is not None and not _is_parent_answered(before, done.instance, done):
        yield str(Broken("R22", f"it is {done.instance.status} and its parent is not answered"))


def broken(definition: Definition, before: Instance | None, done: Transition) -> Iterator[Broken]:
    """What no transition may break, whatever the message was: in what it does, and in what it leaves."""
    instance = done.instance
    if instance is None:
        return
    for visit in _newly_undone(before, instance):
        yield from _undone_too_early(visit, instance)
        if visit.closed:
            yield Broken("I6", f"{visit.step} is undone after its pivot")
    if instance.status.is_end and any(row.envelope.kind not in ANSWERS for row in done.put):
        yield Broken("I8", f"it is {instance.status} and still sends a command")
    yield from unsound(definition, instance)


def unsound(definition: Definition, instance: Instance) -> Iterator[Broken]:
    """What no instance may be after any transition."""
    if not instance.status.is_end:
        if not something_moves(instance):
            where = ", ".join(instance.stands_in) or "no step"
            yield Broken("I9", f"nothing will ever move it: it stands in {where}")
        return
    if _has_timer(instance) or instance.kept or instance.held or instance.queue:
        yield Broken("I8", f"it is {instance.status} and still has a timer or a kept event")
    if instance.status is Status.KILLED:
        return
    for visit in instance.visits:
        if visit.state is VisitState.OPEN:
            yield Broken("I4", f"it is {instance.status} and {visit.step} is still open")
        for call in visit.calls:
            yield from _left_of_call(definition, instance, visit, call)


def something_moves(instance: Instance) -> bool:
    """Whether a timer, an answer, an event or a person will move an open instance (I9)."""
    return bool(
        instance.wake_at is not None
        or instance.parked
        or instance.paused
        or any(visit.waiting and visit.state is VisitState.OPEN for visit in instance.visits)
        or any(is_asked_of_child(call) for visit in instance.visits for call in visit.calls)
    )


def _has_timer(instance: Instance) -> bool:
    timers = [instance.deadline_at]
    for visit in instance.visits:
        timers += [visit.wake_at, visit.timeout_at]
        for call in visit.calls:
            timers += [call.timeout_at, call.retry_at]
    return any(timer is not None for timer in timers)


def _left_of_call(definition: Definition, instance: Instance, visit: Visit, call: Call) -> Iterator[Broken]:
    rule = "I5" if instance.status is Status.COMPENSATED else "I4"
    if call.unwinding in UNANSWERED:
        yield Broken(rule, f"it is {instance.status} and the undo of {visit.step} is not answered")
    elif may_remain(definition.steps[visit.step], visit, call):
        yield Broken(
            rule,
            f"it is {instance.status}, and {visit.step} may have taken effect, but its compensation had nothing to "
            "undo: it must work without the reply",
        )
    elif call.unwinding is Undo.DONE and (call.kind is CallKind.QUERY or call.do in (Do.WAITING, Do.CLEAN)):
        yield Broken(rule, f"it is {instance.status}, and {visit.step} was undone though it was never done")


def _undo_too_late(definition: Definition, instance: Instance, done: Transition) -> Iterator[Broken]:
    """When it unwinds: what was done and had nothing to undo then, but would have now."""
    if instance.status not in (Status.COMPENSATING, Status.COMPENSATED):
        return
    for visit in instance.visits:
        for call in visit.calls:
            has_none = call.do is Do.YES and call.undo_kind is None and not visit.closed
            if has_none and definition.steps[visit.step].compensate is not None:
                again = _with_undo_of_now(_turn(definition, instance, done), visit, call)
                if again is not None and again.undo_kind is not None:
                    why = "its compensation has something to undo only since a later step, too late"
                    yield Broken("R5, I5", f"{visit.step} was done and is not undone: {why}")


def _turn(definition: Definition, instance: Instance, done: Transition) -> Turn:
    assert done.message is not None
    return Turn(definition, instance, done.message, done.at, MachineLimits())


def _with_undo_of_now(turn: Turn, visit: Visit, call: Call) -> Call | None:
    """A call as it would be if its undo was stored at this moment; None: its compensation raises."""
    again = copy(call)
    try:
        store_undo(turn, visit, again)
    except HandlerBug:  # the machine does not ask at this moment
        return None
    return again


def kinds_of_undo(
    definition: Definition, instance: Instance, visit: Visit, done: Transition
) -> set[tuple[CallKind | None, str] | None]:
    """The kinds and types of undo that the elements of a list would have at this moment."""
    turn = _turn(definition, instance, done)
    stored = [_with_undo_of_now(turn, visit, call) for call in visit.calls]
    return {None if it is None else (it.undo_kind, it.undo.type if it.undo else "") for it in stored}


def _unhandled(definition: Definition, instance: Instance, message: Envelope) -> Iterator[str]:
    """A declared refusal that no handler takes and that cannot unwind any more: to ask again changes nothing (R9)."""
    for visit in instance.visits:
        for call in visit.calls:
            refused = call.parked and call.unwinding is Undo.NONE and call.do in (Do.REFUSED, Do.CLEAN)
            if not refused or instance.command_id(visit, call) != message.reply_to:
                continue
            step = definition.steps[visit.step]
            if not any(definition.types[message.type] in handler.types for handler in step.refused):
                yield (
                    f"unhandled refusal: {visit.step} may answer {message.type} when there is only forward, and no "
                    f"handler takes it (R9): write @{visit.step}.refused"
                )


def _is_parent_answered(before: Instance | None, instance: Instance, done: Transition) -> bool:
    if instance.answer_to is None or not instance.status.is_end or (before is not None and before.status.is_end):
        return True
    return any(row.route is Route.INSTANCE for row in done.put)


def _undone_too_early(visit: Visit, instance: Instance) -> Iterator[Broken]:
    """An undo just sent, while something that its visit let start is still to be undone (R7, I5)."""
    if any(visit.serial in later.after and _is_unanswered(later) for later in instance.visits):
        yield Broken("I5", f"{visit.step} is undone before what came after it")


def _newly_undone(before: Instance | None, instance: Instance) -> Iterator[Visit]:
    """The visits of which an undo was sent now. An operator's word that one is done is no sending (R17)."""
    for visit in instance.visits:
        sent = _sent(visit)
        if sent and before is not None:
            sent -= {n for earlier in before.visits if earlier.serial == visit.serial for n in _sent(earlier)}
        if sent:
            yield visit


def _sent(visit: Visit) -> set[int]:
    return {n for n, call in enumerate(visit.calls) if _is_sent(call)}


def _is_sent(call: Call) -> bool:
    if call.unwinding is Undo.ASKED:
        return not call.parked
    return call.unwinding is Undo.DONE and call.undo_kind is CallKind.EVENT


def _is_unanswered(visit: Visit) -> bool:
    return any(call.unwinding in UNANSWERED for call in visit.calls)


def is_asked_of_child(call: Call) -> bool:
    """Whether a child was started or told to unwind, and has not answered."""
    return call.kind is CallKind.CHILD and (call.do is Do.ASKED or call.unwinding is Undo.ASKED)
