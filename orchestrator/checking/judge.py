"""What must hold after each move (I4-I6, I8, I9), as sentences about what does not."""

from __future__ import annotations

from collections.abc import Iterator

from ..definition import Definition
from ..machine import Call, CallKind, Do, Instance, Outcome, Status, Transition, Undo, Visit, VisitState
from ..machine.unwinding import UNANSWERED
from ..wire import Kind

ANSWERS = {Kind.EVENT, Kind.YES, Kind.REFUSAL, Kind.FAILURE}


def wrong(definition: Definition, before: Instance | None, done: Transition) -> Iterator[str]:
    """Everything that this transition breaks."""
    if done.outcome is Outcome.DEAD:
        yield f"a declared message becomes a dead letter: {done.notes[-1]}"
    instance = done.instance
    if instance is None:
        return
    yield from _undone_out_of_order(before, instance)
    yield from _undone_after_the_pivot(before, instance)
    if instance.status.is_end:
        yield from _left_at_the_end(definition, instance, done)
    elif not something_moves(instance):
        yield f"nothing will ever move it (I9): it stands in {', '.join(instance.stands_in) or 'no step'}"


def something_moves(instance: Instance) -> bool:
    """Whether a timer, an answer, an event or a person will move an open instance (I9)."""
    return bool(
        instance.wake_at is not None
        or instance.parked
        or any(visit.waiting and visit.state is VisitState.OPEN for visit in instance.visits)
        or any(_is_asked_of_child(call) for visit in instance.visits for call in visit.calls)
    )


def may_remain(definition: Definition, visit: Visit, call: Call) -> bool:
    """Whether the effect of a call that is in doubt is neither undone nor allowed to stand (R6)."""
    step = definition.steps[visit.step]
    if call.kind is not CallKind.COMMAND or step.may_stand or step.past_pivot or visit.closed:
        return False
    believed = step.compensate is None and call.do is Do.REFUSED  # a pivot's no: see Notes.believed
    in_doubt = call.do in (Do.REFUSED, Do.FAILED, Do.LEFT) and not believed
    return in_doubt and call.unwinding not in (Undo.DONE, Undo.STANDING)


def _left_at_the_end(definition: Definition, instance: Instance, done: Transition) -> Iterator[str]:
    if _has_timer(instance) or instance.kept or instance.held or instance.queue:
        yield f"it is {instance.status} and still has a timer or a kept event (I8)"
    if any(row.envelope.kind not in ANSWERS for row in done.put):
        yield f"it is {instance.status} and still sends a command (I8)"
    for visit in instance.visits:
        if visit.state is VisitState.OPEN:
            yield f"it is {instance.status} and {visit.step} is still open (I4)"
        for call in visit.calls:
            yield from _left_of_call(definition, instance, visit, call)


def _has_timer(instance: Instance) -> bool:
    timers = [instance.deadline_at]
    for visit in instance.visits:
        timers += [visit.wake_at, visit.timeout_at]
        for call in visit.calls:
            timers += [call.timeout_at, call.retry_at]
    return any(timer is not None for timer in timers)


def _left_of_call(definition: Definition, instance: Instance, visit: Visit, call: Call) -> Iterator[str]:
    rule = "I5" if instance.status is Status.COMPENSATED else "I4"
    if call.unwinding in UNANSWERED:
        yield f"it is {instance.status} and the undo of {visit.step} is not answered ({rule})"
    elif may_remain(definition, visit, call):
        yield (
            f"it is {instance.status}, and {visit.step} may have taken effect, but its compensation had nothing to "
            f"undo ({rule}): it must work without the reply"
        )
    elif call.unwinding is Undo.DONE and not call.needs_undo:
        yield f"it is {instance.status}, and {visit.step} was undone though it was never done ({rule})"


def _undone_out_of_order(before: Instance | None, instance: Instance) -> Iterator[str]:
    """Undos just sent, while something that they let start is still to be undone (R7, I5)."""
    waits = {serial for visit in instance.visits if _is_unanswered(visit) for serial in visit.after}
    for visit in _newly_undone(before, instance):
        if visit.serial in waits:
            yield f"{visit.step} is undone before what came after it (I5)"


def _undone_after_the_pivot(before: Instance | None, instance: Instance) -> Iterator[str]:
    for visit in _newly_undone(before, instance):
        if visit.closed:
            yield f"{visit.step} is undone after its pivot (I6)"


def _newly_undone(before: Instance | None, instance: Instance) -> Iterator[Visit]:
    asked = {} if before is None else {visit.serial: _asked(visit) for visit in before.visits}
    for visit in instance.visits:
        if _asked(visit) > asked.get(visit.serial, 0):
            yield visit


def _asked(visit: Visit) -> int:
    return sum(call.unwinding in (Undo.ASKED, Undo.DONE) and not call.parked for call in visit.calls)


def _is_unanswered(visit: Visit) -> bool:
    return any(call.unwinding in UNANSWERED for call in visit.calls)


def _is_asked_of_child(call: Call) -> bool:
    return call.kind is CallKind.CHILD and (call.do is Do.ASKED or call.unwinding is Undo.ASKED)
