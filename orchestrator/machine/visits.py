"""A visit's undo and its end; the pivot, which closes a round."""

from __future__ import annotations

from typing import Any, cast

from msgspec import Raw

from ..definition import Handler
from ..messages import Command, Event, Message, Query, encode, type_name, type_version
from .ending import refuse_unwinding
from .instance import Call, CallKind, Do, Payload, Visit, VisitState
from .turn import HandlerBug, Turn

PAST_PIVOT = "the pivot is passed, there is only forward"


def finish(turn: Turn, visit: Visit, state: VisitState = VisitState.DONE) -> None:
    """End a visit; the steps after it may start. A pivot closes the round (R9)."""
    visit.state = state
    visit.waiting, visit.wake_at, visit.timeout_at, visit.parked = False, None, None, ""
    passed = turn.instance.passed
    if visit.step not in passed:
        turn.instance.passed = [*passed, visit.step]
    turn.note(f"{visit.step}#{visit.number} {state}")
    if turn.step_of(visit).pivot and not turn.instance.pivoted:
        pass_pivot(turn)


def pass_pivot(turn: Turn) -> None:
    """From here on only forward: the undo plan is empty (R9)."""
    instance = turn.instance
    instance.pivoted = True
    turn.note("pivot passed")
    if instance.unwind_wanted:
        turn.note(f"too late to unwind ({instance.unwind_wanted}): {PAST_PIVOT}")
        instance.unwind_wanted = ""
    if instance.unwind_attempt:
        refuse_unwinding(turn)
    _close_round(turn)


def _close_round(turn: Turn) -> None:
    instance = turn.instance
    for visit in instance.visits:
        visit.closed = True
    latest = {visit.step: visit.serial for visit in instance.visits}
    instance.visits = [visit for visit in instance.visits if latest[visit.step] == visit.serial]


def store_undo(turn: Turn, visit: Visit, call: Call) -> None:
    """Compute the undo from the present state, before the do leaves and again after its yes (R5)."""
    step = turn.step_of(visit)
    if step.past_pivot or call.kind is CallKind.QUERY:
        return
    if step.compensate is None:
        call.undo_kind = CallKind.CHILD if call.kind is CallKind.CHILD and not step.may_stand else None
        return
    scope = turn.instance.undo_id(visit, call)
    undo = turn.compensation(scope, step.compensate.function, *command_for(turn, step.compensate, call))
    if undo is None:
        is_under_way = call.kind is CallKind.CHILD and call.do is not Do.YES  # then it is unwound (R22)
        call.undo, call.undo_kind = None, CallKind.CHILD if is_under_way else None
    elif isinstance(undo, Event):
        call.undo, call.undo_kind = payload(undo, call.undo), CallKind.EVENT
    elif isinstance(undo, Command) and not isinstance(undo, Query):
        call.undo, call.undo_kind = payload(cast(Message, undo), call.undo), CallKind.COMMAND
    else:
        raise HandlerBug(f"the compensation of {step.name} returned {undo!r}: it returns a command, an event or None")


def command_for(turn: Turn, handler: Handler, call: Call) -> tuple[Any, ...]:
    """The command as last argument, for a handler that takes it."""
    if not handler.takes_command or call.command is None:
        return ()
    return (turn.decoded(call.command.type, call.command.data, call.command.version),)


def payload(message: Message, known: Payload | None = None) -> Payload:
    """A message as it is stored and sent; `known` is what was stored in its place before, most often the same."""
    cls = type(message)
    name, version = type_name(cls), type_version(cls)
    if known is None or known.type != name or known.version != version:
        return Payload(type=name, data=Raw(encode(message)), version=version)
    stored = bytes(known.data)
    data = encode(message, stored)
    return known if data == stored else Payload(type=name, data=Raw(data), version=version)
