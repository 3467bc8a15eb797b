"""What operators ask: messages with who and why, on the same road as all others (R17)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..errors import BadMessage
from ..messages import replies_of, type_name
from ..wire import NOTHING, NULL, Kind, Request, Verb
from .ending import end
from .events import receive
from .exchange import label, policy, settle
from .instance import Call, CallKind, Do, Status, Undo, Visit, VisitState
from .replies import answer_yes, retry
from .timers import disarm
from .turn import Turn
from .unwinding import UNANSWERED, undone, unwind
from .visits import PAST_PIVOT, finish

_request = msgspec.json.Decoder(Request)


def verb(turn: Turn) -> None:
    """Carry out a verb, or end as refused with the reason; replaying a bug's message is `react`'s."""
    message = turn.message
    request = _request.decode(message.data)
    instance = turn.instance
    who = f"{message.type} by {message.user or 'an operator'}" + (f": {request.why}" if request.why else "")
    if instance.status.is_end:
        turn.refuse(f"it is {instance.status} already")
    elif instance.bug is not None and message.type not in (Verb.KILL, Verb.DROP):
        turn.refuse("it is parked over a message that its code could not handle: retry or drop that first")
    else:
        turn.note(who)
        _VERBS[Verb(message.type)](turn, request)


def _cancel(turn: Turn, request: Request) -> None:
    instance = turn.instance
    if instance.status is Status.COMPENSATING or instance.unwind_wanted:
        turn.refuse("it unwinds already")
    elif instance.pivoted:
        turn.refuse(PAST_PIVOT)
    else:
        unwind(turn, f"cancelled by {turn.message.user or 'an operator'}" + (f": {request.why}" if request.why else ""))


def _kill(turn: Turn, request: Request) -> None:
    instance = turn.instance
    if not request.why:
        turn.refuse("a kill needs a reason")
        return
    instance.why = request.why
    if instance.bug is not None:
        turn.discard(instance.bug.message, "its instance was killed", instance.bug.error)
        instance.bug = None
    for visit in instance.visits:
        for call in visit.calls:
            if (call.do is Do.ASKED and call.unwinding is Undo.NONE) or call.unwinding is Undo.ASKED:
                settle(turn, visit, call)
    end(turn, Status.KILLED)


def _pause(turn: Turn, request: Request) -> None:
    if turn.instance.paused:
        turn.refuse("it is paused already")
    else:
        turn.instance.paused = True


def _resume(turn: Turn, request: Request) -> None:
    """Send what was held; every step timer starts afresh."""
    instance = turn.instance
    if not instance.paused:
        turn.refuse("it is not paused")
        return
    instance.paused = False
    for visit in instance.visits:
        if visit.state is not VisitState.UNDONE:
            _timers_afresh(turn, visit)
    held, instance.held = instance.held, []
    for row in held:
        time_s = None if row.deadline is None else row.deadline - row.envelope.time
        turn.send(row if time_s is None else msgspec.structs.replace(row, deadline=turn.now + time_s))


def _timers_afresh(turn: Turn, visit: Visit) -> None:
    now = turn.now
    if visit.wake_at is not None and visit.wait_s is not None:
        visit.wake_at = now + visit.wait_s
    timeout = turn.step_of(visit).timeout
    if visit.timeout_at is not None and timeout is not None:
        visit.timeout_at = now + timeout
    for call in visit.calls:
        if call.held:
            call.held = False
        if call.timeout_at is not None:
            call.timeout_at = now + policy(turn, visit, call).timeout
        if call.retry_at is not None:
            call.retry_at = now


def _retry(turn: Turn, request: Request) -> None:
    """Try again now what is parked (or waits for its next attempt), the attempts counted afresh."""
    found = [
        (visit, call)
        for visit, call in _chosen(turn, request)
        if (call.parked or call.retry_at is not None) and not _is_for_a_person(call)
    ]
    for visit, call in found:
        retry(turn, visit, call)
        turn.note(f"{label(visit, call)}: tried again")
    if not found:
        turn.refuse("nothing here is parked or waits for its next attempt" + _of(request))


def _skip(turn: Turn, request: Request) -> None:
    """Pass by a step without its answer, or leave an effect standing instead of undoing it."""
    _by_hand(turn, request, Undo.STANDING, _skip_visit)


def _done(turn: Turn, request: Request) -> None:
    """An operator knows that it is done: a yes in the participant's place, or an undo's."""
    _by_hand(turn, request, Undo.DONE, _visit_done)


def _by_hand(turn: Turn, request: Request, undo: Undo, settle_visit: Callable[[Turn, Visit, Request], None]) -> None:
    if not request.step:
        turn.refuse(f"{turn.message.type} needs the name of a step")
    elif undos := _open_undos(turn, request):
        for visit, call in undos:
            undone(turn, visit, call, undo)
    elif visits := _open_visits(turn, request):
        for visit in visits:
            settle_visit(turn, visit, request)
    else:
        turn.refuse(f"{request.step} is not under way")


def _skip_visit(turn: Turn, visit: Visit, request: Request) -> None:
    for call in _elements(visit, request):
        if call.do in (Do.ASKED, Do.WAITING) or call.parked:
            has_left = call.has_left
            settle(turn, visit, call)
            if not request.undo or not has_left:
                call.undo = call.undo_kind = None
            if call.do is not Do.YES:
                call.do = Do.SKIPPED
    visit.parked = ""
    if all(call.do not in (Do.ASKED, Do.WAITING) and not call.parked for call in visit.calls):
        finish(turn, visit, VisitState.SKIPPED)


def _visit_done(turn: Turn, visit: Visit, request: Request) -> None:
    step = turn.step_of(visit)
    if visit.waiting:
        _event_in_place(turn, visit, request)
        return
    calls = [call for call in _elements(visit, request) if call.do in (Do.ASKED, Do.WAITING) or call.parked]
    if not calls:  # parked by its own handler: the answer is there already
        finish(turn, visit)
        return
    for call in calls:
        assert call.command is not None
        declared = [call.child] if call.kind is CallKind.CHILD else _yes_names(turn, call)
        name = request.reply_type or (declared[0] if len(declared) == 1 else "")
        if name not in declared:
            turn.refuse(f"done of {visit.step} needs a reply of one of these types: {', '.join(declared)}")
            return
        value = None
        if step.on:
            value = _given(turn, name, request)
            if value is None:
                return
        turn.note(f"{label(visit, call)}: done, as an operator says")
        answer_yes(turn, visit, call, value)


def _event_in_place(turn: Turn, visit: Visit, request: Request) -> None:
    step = turn.step_of(visit)
    names = {type_name(cls): handler for handler in step.on for cls in handler.types}
    name = request.reply_type or (next(iter(names)) if len(names) == 1 else "")
    if request.reply == NULL:
        finish(turn, visit)
    elif name not in names:
        turn.refuse(f"{visit.step} waits for one of these types: {', '.join(names)}")
    elif _given(turn, name, request) is not None:
        event = msgspec.structs.replace(turn.message, kind=Kind.EVENT, type=name, data=request.reply)
        receive(turn, visit, names[name], event)


def _given(turn: Turn, name: str, request: Request) -> Any:
    try:
        return turn.decoded(name, NOTHING if request.reply == NULL else request.reply)
    except BadMessage as error:
        turn.refuse(f"the reply is not a {name}: {error}")
        return None


def _drop(turn: Turn, request: Request) -> None:
    """Give up the message a bug set aside (R15)."""
    instance = turn.instance
    if instance.bug is None:
        turn.refuse("it is not parked over a message")
        return
    why = f"dropped by {turn.message.user or 'an operator'}: {request.why}"
    turn.discard(instance.bug.message, why, instance.bug.error)
    if instance.bug.message.kind is Kind.TIMER:
        disarm(turn, instance.bug.message, f"its timer was {why}")
    instance.bug = None
    if not instance.starter:
        instance.why = "its starting message was dropped"
        end(turn, Status.KILLED)


_VERBS: dict[Verb, Callable[[Turn, Request], None]] = {
    Verb.CANCEL: _cancel,
    Verb.KILL: _kill,
    Verb.PAUSE: _pause,
    Verb.RESUME: _resume,
    Verb.RETRY: _retry,
    Verb.SKIP: _skip,
    Verb.DONE: _done,
    Verb.DROP: _drop,
}


def _of(request: Request) -> str:
    return f" in {request.step}" if request.step else ""


def _elements(visit: Visit, request: Request) -> list[Call]:
    return [call for call in visit.calls if request.element in (-1, call.index)]


def _chosen(turn: Turn, request: Request) -> list[tuple[Visit, Call]]:
    return [
        (visit, call)
        for visit in turn.instance.visits
        if request.step in ("", visit.step) and visit.state is not VisitState.UNDONE
        for call in _elements(visit, request)
    ]


def _open_undos(turn: Turn, request: Request) -> list[tuple[Visit, Call]]:
    return [(visit, call) for visit, call in _chosen(turn, request) if call.unwinding in UNANSWERED]


def _open_visits(turn: Turn, request: Request) -> list[Visit]:
    return [visit for visit in turn.open_visits() if visit.step == request.step]


def _is_for_a_person(call: Call) -> bool:
    """In doubt with nothing that would undo it: there is nothing to try again."""
    return call.unwinding is Undo.ASKED and call.undo_kind is None


def _yes_names(turn: Turn, call: Call) -> list[str]:
    assert call.command is not None
    return [type_name(cls) for cls in replies_of(turn.definition.types[call.command.type])[0]]
