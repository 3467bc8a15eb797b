"""A visit's undo and its end; the pivot, which closes a round."""

from __future__ import annotations

from functools import cache
from typing import Any

from msgspec import Raw

from ..codec import encode, encode_again
from ..definition import Handler
from ..messages import Command, Event, Message, Query
from ..saga import Child
from .ending import refuse_unwinding
from .instance import Call, CallKind, Do, Payload, Visit, VisitState
from .turn import HandlerBug, Turn

_COMMAND, _QUERY, _CHILD, _EVENT = CallKind.COMMAND, CallKind.QUERY, CallKind.CHILD, CallKind.EVENT  # see `turn`
_DONE = VisitState.DONE
PAST_PIVOT = "the pivot is passed, there is only forward"


def finish(turn: Turn, visit: Visit, state: VisitState = _DONE) -> None:
    """End a visit; the steps after it may start. A pivot closes the round (R9)."""
    visit.state = state
    visit.waiting, visit.wake_at, visit.timeout_at, visit.parked = False, None, None, ""
    passed = turn.instance.passed
    if visit.step not in passed:
        turn.instance.passed = [*passed, visit.step]
    turn.note(f"{visit.step}#{visit.number} {state!s}")
    if not turn.instance.pivoted and turn.definition.steps[visit.step].pivot:
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
    latest = {visit.step: visit.serial for visit in instance.visits}
    instance.visits = [visit.of_closed_round() for visit in instance.visits if latest[visit.step] == visit.serial]


def store_undo(turn: Turn, visit: Visit, call: Call) -> None:
    """Compute the undo from the present state, before the do leaves and again after its yes (R5)."""
    step = turn.definition.steps[visit.step]
    if step.past_pivot or call.kind is _QUERY:
        return
    if step.compensate is None:
        call.undo_kind = CallKind.CHILD if call.kind is _CHILD and not step.may_stand else None
        return
    scope = (visit, call, "undo")
    undo = turn.compensation(scope, step.compensate.function, *command_for(turn, step.compensate, call))
    cls: type = undo.__class__
    kind = kind_of(cls)
    if undo is None:
        is_under_way = call.kind is CallKind.CHILD and call.do is not Do.YES  # then it is unwound (R22)
        call.undo, call.undo_kind = None, CallKind.CHILD if is_under_way else None
    elif kind is _COMMAND or kind is _EVENT:
        call.undo, call.undo_kind = payload(undo, call.undo), kind
    else:
        raise HandlerBug(f"the compensation of {step.name} returned {undo!r}: it returns a command, an event or None")


@cache
def kind_of(cls: type) -> CallKind | None:
    """What it is to send a value of this class; None: it cannot be sent."""
    bases = {Event: _EVENT, Query: _QUERY, Command: _COMMAND, Child: _CHILD}  # a Query is a Command too
    return next((kind for base, kind in bases.items() if issubclass(cls, base)), None)


def command_for(turn: Turn, handler: Handler, call: Call) -> tuple[Any, ...]:
    """The command as last argument, for a handler that takes it."""
    if not handler.takes_command or call.command is None:
        return ()
    return (turn.decoded(call.command.type, call.command.data, call.command.version),)


def payload(message: Message, known: Payload | None = None) -> Payload:
    """A message as it is stored and sent; `known` is what was stored in its place before, most often the same."""
    wire = type(message).__wire__
    if known is None or known.type != wire.type or known.version != wire.version:
        return Payload(wire.type, Raw(encode(message)), wire.version)
    data = encode_again(message, known.data)
    return known if data is known.data else Payload(wire.type, data, wire.version)
