"""Replies to commands, and the timers of an attempt and of a step: yes, refusal, failure (R4, R6, R9, R10)."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import msgspec

from ..definition import Handler
from ..errors import BadMessage
from ..messages import Failure, replies_of, type_name
from ..saga import Compensate
from ..wire import Kind
from .exchange import afresh, ask, label, settle, try_again
from .instance import Call, CallKind, Do, Undo, Visit, VisitState
from .outcomes import follow, give_up, park, pass_by
from .transition import Outcome
from .turn import HandlerBug, Turn, is_awaited
from .unwinding import undone
from .visits import command_for, pass_pivot, store_undo

MOST_DIGITS = 10  # of a visit or an element; an id from outside may be of any length
_A_YES, _A_FAILURE = Kind.YES, Kind.FAILURE  # see `turn`
_YES, _UNDO_ASKED, _CHILD = Do.YES, Undo.ASKED, CallKind.CHILD


class Failed(msgspec.Struct, frozen=True):
    """The data of a FAILURE: a Failure, and how long a RetryAfter asked to wait."""

    reason: str = "error"
    error: str = ""
    attempts: int = 0
    retry_after: float | None = None


def reply(turn: Turn) -> None:
    """Apply a reply to the command it names, or note it stale (R4)."""
    message = turn.message
    kind = message.kind
    found = find(turn, message.reply_to)
    if found is None:
        turn.ends_as(Outcome.STALE, f"{message.type}: no such command in this run")
        return
    visit, call, is_undo = found
    if not (_undo_is_awaited(call) if is_undo else is_awaited(visit, call)):
        turn.ends_as(Outcome.STALE, f"{message.type}: {visit.step}#{visit.number} does not wait for it any more")
    elif kind is _A_FAILURE:
        _failure(turn, visit, call)
    elif is_undo:
        _undo_answered(turn, visit, call)
    elif not _is_declared(turn, visit, call):
        turn.discard(message, f"{message.type} is not among the replies that {visit.step}'s command declares")
        turn.ends_as(Outcome.DEAD, f"{message.type} is no reply of {visit.step}")
    elif kind is _A_YES:
        _yes(turn, visit, call)
    else:
        _refusal(turn, visit, call)


def find(turn: Turn, reply_to: str) -> tuple[Visit, Call, bool] | None:
    """The call a command id names in this run, and whether the id is its undo's."""
    prefix = turn.prefix
    if not reply_to.startswith(prefix):
        return None
    step, number, index, is_undo = _place(reply_to[len(prefix) :])
    for visit in turn.instance.visits:
        if visit.number == number and visit.step == step:
            for call in visit.calls if index < 0 else visit.calls[index:]:  # an element stands at its index
                if call.index == index:
                    return visit, call, is_undo
    return None


@lru_cache(maxsize=4096)
def _place(end: str) -> tuple[str, int, int, bool]:
    """Step, visit, element and whether it is the undo, of how a command id ends: `/reserve[2]#1/undo`. No visit has the
    number 0: it stands for what no command id ends with.
    """
    do = end.removesuffix("/undo")
    place, _, number = do.removeprefix("/").partition("#")
    step, _, element = place.partition("[")
    visit, index = _number(number), _number(element.removesuffix("]"))
    written = f"/{step}#{visit}" if index < 0 else f"/{step}[{index}]#{visit}"
    return (step, visit, index, do != end) if written == do else ("", 0, -1, False)


def _number(digits: str) -> int:
    """-1: none."""
    return int(digits) if len(digits) < MOST_DIGITS and digits.isdecimal() else -1


def attempt_timed_out(turn: Turn, visit: Visit, call: Call) -> None:
    """The timer of the present attempt: counts as a failure (R10)."""
    _attempt_failed(turn, visit, call, Failed(reason="timeout", error="no answer in time"))


def step_timed_out(turn: Turn, visit: Visit) -> None:
    """The timer of the step with all its attempts."""
    visit.timeout_at = None
    turn.note(f"{visit.step}#{visit.number} timed out")
    for call in visit.calls:
        if visit.state is VisitState.OPEN and call.unwinding is Undo.NONE and call.do in (Do.ASKED, Do.WAITING):
            call.error = "the step's time is over"
            if call.do is Do.ASKED:
                settle(turn, visit, call)
            _gave_up(turn, visit, call, "timeout")


def again(turn: Turn, visit: Visit, call: Call) -> None:
    """The pause before the next attempt is over."""
    ask(turn, visit, call)
    turn.note(f"{label(visit, call)}: attempt {call.attempt - call.base}")


def answer_yes(turn: Turn, visit: Visit, call: Call, value: Any) -> None:
    """A yes, from the participant or from an operator's `done` (R17); `value` None: nobody asked for its content."""
    step = turn.definition.steps[visit.step]
    settle(turn, visit, call)
    call.do, call.error = _YES, ""
    if step.pivot:
        pass_pivot(turn)
    handler = _handler_for(step.on, value) if step.on else None
    outcome = None
    if handler is not None:
        outcome = turn.ask((visit, call, "yes"), handler.function, value, *command_for(turn, handler, call))
    if not step.pivot:
        store_undo(turn, visit, call)
    if outcome is not None:
        _check_list_outcome(turn, visit, outcome)
        if isinstance(outcome, Compensate) and turn.instance.pivoted:
            park(turn, f"{outcome.why or 'the saga would compensate'}; the pivot is passed", visit, None)
        else:
            follow(turn, outcome, visit)


def retry(turn: Turn, visit: Visit, call: Call) -> None:
    """An operator's retry of a parked or waiting exchange."""
    if call.unwinding is Undo.NONE:
        call.do = Do.ASKED
    afresh(turn, visit, call)


def _yes(turn: Turn, visit: Visit, call: Call) -> None:
    message = turn.message
    value = None
    if turn.definition.steps[visit.step].on:
        try:
            value = turn.decoded(message.type, message.data, message.version)
        except BadMessage as error:
            _undecodable(turn, error)
            return
    turn.note(f"{label(visit, call)}: {message.type}")
    answer_yes(turn, visit, call, value)


def _refusal(turn: Turn, visit: Visit, call: Call) -> None:
    step, message = turn.step_of(visit), turn.message
    try:
        value = turn.decoded(message.type, message.data, message.version)
    except BadMessage as error:
        _undecodable(turn, error)
        return
    turn.note(f"{label(visit, call)}: refused, {message.type}")
    settle(turn, visit, call)
    call.do = Do.CLEAN if message.clean or call.kind is CallKind.CHILD else Do.REFUSED
    call.error = message.type
    handler = _handler_for(step.refused, value)
    if handler is None:
        give_up(turn, f"{label(visit, call)} was refused: {message.type}", visit, call)
        return
    outcome = turn.ask((visit, call, "refused"), handler.function, value, *command_for(turn, handler, call))
    _go_on_without(turn, visit, call, call.do, outcome)


def _failure(turn: Turn, visit: Visit, call: Call) -> None:
    message = turn.message
    if message.attempt != call.attempt or call.retry_at is not None or call.parked:
        turn.ends_as(Outcome.STALE, f"failure of attempt {message.attempt}, which is over")
        return
    try:
        failed = msgspec.json.decode(message.data, type=Failed)
    except msgspec.MsgspecError as error:
        failed = Failed(error=f"a failure that cannot be decoded: {error}")
    _attempt_failed(turn, visit, call, failed)


def _attempt_failed(turn: Turn, visit: Visit, call: Call, failed: Failed) -> None:
    fatal = failed.reason in ("fatal", "killed")
    if try_again(turn, visit, call, failed.error or failed.reason, failed.retry_after, fatal):
        return
    if call.unwinding is Undo.ASKED:
        park(turn, f"gave up after attempt {call.attempt - call.base}: {call.error}", visit, call)
        return
    _gave_up(turn, visit, call, failed.reason)


def _gave_up(turn: Turn, visit: Visit, call: Call, reason: str) -> None:
    """The attempts of a do are used up: `.failed` decides, or the step gives up."""
    step = turn.step_of(visit)
    count = call.attempt - call.base
    turn.note(f"{label(visit, call)}: given up after attempt {count}: {call.error}")
    if step.failed is None:
        give_up(turn, f"{label(visit, call)} failed: {call.error}", visit, call)
        return
    failure = Failure(reason=reason, error=call.error, attempts=count)
    command = command_for(turn, step.failed, call)
    outcome = turn.ask((visit, call, "failed"), step.failed.function, failure, *command)
    _go_on_without(turn, visit, call, Do.FAILED, outcome)


def _go_on_without(turn: Turn, visit: Visit, call: Call, do: Do, outcome: object) -> None:
    """Carry out what `.refused` or `.failed` decided."""
    if outcome is not None:
        _check_list_outcome(turn, visit, outcome)
    if isinstance(outcome, Compensate):
        give_up(turn, outcome.why or f"{label(visit, call)}: the saga decided so", visit, call)
    elif pass_by(turn, visit, call, do) and outcome is not None:
        follow(turn, outcome, visit)


def _undo_answered(turn: Turn, visit: Visit, call: Call) -> None:
    if turn.message.kind is Kind.YES:
        undone(turn, visit, call, Undo.DONE)
        return
    settle(turn, visit, call)
    call.error = f"refused: {turn.message.type}"
    park(turn, "the undo was refused", visit, call)


def _undo_is_awaited(call: Call) -> bool:
    return call.unwinding is _UNDO_ASKED and call.attempt > 0


def _is_declared(turn: Turn, visit: Visit, call: Call) -> bool:
    message = turn.message
    is_yes = message.kind is _A_YES
    assert call.command is not None
    if call.kind is _CHILD:
        return message.type == (call.child if is_yes else "Unwound")
    yes, refusals = _reply_names(turn.definition.types[call.command.type])
    return message.type in (yes if is_yes else refusals)


@cache
def _reply_names(command: type) -> tuple[frozenset[str], frozenset[str]]:
    yes, refusals = replies_of(command)
    return frozenset(map(type_name, yes)), frozenset(map(type_name, refusals))


def _handler_for(handlers: tuple[Handler, ...], value: object) -> Handler | None:
    for handler in handlers:
        if type(value) in handler.types:
            return handler
    return None


def _check_list_outcome(turn: Turn, visit: Visit, outcome: object) -> None:
    if turn.step_of(visit).many and not isinstance(outcome, Compensate):
        raise HandlerBug(
            f"a handler of {visit.step} returned {outcome!r}: one of a list step returns nothing or Compensate"
        )


def _undecodable(turn: Turn, error: BadMessage) -> None:
    turn.discard(turn.message, f"cannot be decoded: {error}")
    turn.ends_as(Outcome.DEAD, f"{turn.message.type} cannot be decoded: {error}")
