"""Undo: what is to be undone, in which order, and when all of it is answered (R6-R8, R21)."""

from __future__ import annotations

from collections.abc import Iterable

from .exchange import ask, label, settle
from .instance import Call, CallKind, Do, Status, Undo, Visit, VisitState
from .turn import Turn, is_awaited, own_calls

UNANSWERED = (Undo.WANTED, Undo.ASKED)
ANSWERED = (Undo.DONE, Undo.STANDING, Undo.NOTHING)
# What is asked of every visit or call, under a name of its own: see `turn`.
_NONE, _WANTED, _ASKED = Undo.NONE, Undo.WANTED, Undo.ASKED
_OPEN, _UNDONE = VisitState.OPEN, VisitState.UNDONE


def unwind(turn: Turn, why: str) -> None:
    """Give up before the pivot: everything done or in doubt will be undone (R6).

    While a pivot that has no compensation is under way, its outcome is waited for instead.
    """
    instance = turn.instance
    if pivot_must_be_waited_for(turn):
        instance.unwind_wanted = why
        turn.note(f"will unwind once the pivot is answered: {why}")
        return
    turn.note(f"unwinding: {why}")
    instance.status = Status.COMPENSATING
    instance.why = instance.why or why
    instance.then = None
    instance.unwind_wanted = ""
    for visit in instance.visits:
        if visit.state is VisitState.OPEN:
            abandon(turn, visit)
        if not visit.closed and visit.state is not _UNDONE:
            want_undone(visit, own_calls(visit))
            mark_undone(visit)


def abandon(turn: Turn, visit: Visit) -> None:
    """End a visit in the middle: what it asked is in doubt from here on, replies to it are stale (R4)."""
    visit.state = VisitState.LEFT
    visit.waiting, visit.wake_at, visit.timeout_at, visit.parked = False, None, None, ""
    for call in visit.calls:
        if call.do is Do.ASKED and call.unwinding is Undo.NONE:
            leave(turn, visit, call, Do.LEFT)


def leave(turn: Turn, visit: Visit, call: Call, do: Do) -> None:
    """Stop waiting for a do. One whose first attempt a pause holds back was never sent (R17)."""
    call.do = do if call.has_left else Do.WAITING
    settle(turn, visit, call)


def want_undone(visit: Visit, calls: Iterable[Call]) -> None:
    """Mark those calls of a visit that were done or are in doubt."""
    for call in calls:
        if call.unwinding is Undo.NONE:
            call.unwinding = Undo.WANTED if call.needs_undo else Undo.NOTHING


def can_be_left(turn: Turn, visit: Visit, call: Call) -> bool:
    """Whether a call in doubt may be passed by: it is harmless, may stand, or can be undone first (R21)."""
    if call.kind in (CallKind.QUERY, CallKind.EVENT) or call.do is not Do.ASKED or not call.has_left:
        return True
    step = turn.step_of(visit)
    return call.undo_kind is not None or step.may_stand or (step.compensate is not None and not step.past_pivot)


def unanswered(visit: Visit) -> bool:
    """Whether an undo of this visit is wanted or under way."""
    return any(call.unwinding in UNANSWERED for call in visit.calls)


def go_back(turn: Turn) -> bool:
    """Send every undo whose turn has come: nothing that it let start is still to be undone (R7). True: all answered."""
    if _all_answered(turn):
        return True
    while True:
        ready = _ready(turn)
        if not ready:
            break
        at_once = {visit.serial: turn.step_of(visit).at_once or len(visit.calls) for visit in ready}
        published = False
        for visit in ready:
            under_way = sum([call.unwinding is _ASKED for call in visit.calls])
            for call in visit.calls:
                if call.unwinding is _WANTED and under_way < at_once[visit.serial]:
                    was_event = _undo(turn, visit, call)
                    published |= was_event
                    under_way += not was_event
        if not published:
            break
    return _all_answered(turn)


def _all_answered(turn: Turn) -> bool:
    for visit in turn.instance.visits:  # plain loops: asked of every call in every turn
        if visit.state is not _UNDONE:
            for call in visit.calls:
                if call.unwinding is not _NONE and call.unwinding in UNANSWERED:
                    return False
    return True


def undone(turn: Turn, visit: Visit, call: Call, how: Undo) -> None:
    """An undo is answered (or an operator says so)."""
    turn.note(f"{label(visit, call)}: {'done' if how is Undo.DONE else 'left standing'}")
    settle(turn, visit, call)
    call.unwinding = how
    call.error = ""
    mark_undone(visit)


def _undo(turn: Turn, visit: Visit, call: Call) -> bool:
    """Send one undo; True if that was all of it: an event is published and done."""
    call.attempt = call.base = 0
    call.error = ""
    if call.undo_kind is CallKind.EVENT:
        assert call.undo is not None
        turn.publish(turn.instance.undo_id(visit, call), call.undo)
        call.unwinding = Undo.DONE
        turn.note(f"undo of {visit.step}#{visit.number}: published {call.undo.type}")
        mark_undone(visit)
        return True
    if call.kind is CallKind.CHILD and call.do is not Do.YES:
        call.undo_kind = CallKind.CHILD  # a child under way is unwound, whatever undoes a finished one
    call.unwinding = Undo.ASKED
    ask(turn, visit, call)
    turn.note(f"{label(visit, call)}: asked")
    return False


def mark_undone(visit: Visit) -> None:
    """A visit that is over and whose every call is taken back, or had nothing to take back, counts as undone."""
    if visit.state is not _OPEN and all(call.unwinding in ANSWERED for call in visit.calls):
        visit.state = _UNDONE


def _ready(turn: Turn) -> list[Visit]:
    """Visits with a wanted undo that nothing later in the relation "whose end let it start" waits before."""
    blocked: set[int] = set()
    ready: list[Visit] = []
    for visit in reversed(turn.instance.visits):
        behind = visit.serial in blocked
        if unanswered(visit) or behind:
            blocked.update(visit.after)
        if not behind and any(call.unwinding is _WANTED for call in visit.calls):
            ready.append(visit)
    return ready


def pivot_must_be_waited_for(turn: Turn) -> bool:
    """Whether a pivot that nothing would undo is under way (R6)."""
    for visit in turn.open_visits():
        step = turn.step_of(visit)
        if step.pivot and any(is_awaited(visit, call) and not can_be_left(turn, visit, call) for call in visit.calls):
            return True
    return False
