"""What a handler returned, carried out: Goto, Compensate, Finish; and a step that cannot go on (R9, R21)."""

from __future__ import annotations

from ..saga import Compensate, Finish, Goto
from .exchange import label
from .instance import Call, Do, Then, Undo, Visit, VisitState
from .turn import HandlerBug, Turn, own_calls
from .unwinding import abandon, can_be_left, leave, mark_undone, unwind, want_undone
from .visits import PAST_PIVOT

_UNDONE = VisitState.UNDONE  # see `turn`
NO_WAY_BACK = "in doubt, and nothing would undo it (mark the step undo=None if its effect may stand)"


def follow(turn: Turn, outcome: object, visit: Visit | None) -> None:
    """Carry out what the handler of a visit, or a class-level one (no visit), returned other than nothing."""
    match outcome:
        case Goto():
            _go_to(turn, outcome.step.name, visit)
        case Finish():
            _leave_for(turn, Then(), visit, frozenset())
        case Compensate():
            give_up(turn, outcome.why or "the saga decided so", visit)
        case _:
            where = visit.step if visit else "a class-level handler"
            raise HandlerBug(f"a handler of {where} returned {outcome!r}, which has no meaning there")


def give_up(turn: Turn, why: str, visit: Visit | None, call: Call | None = None) -> None:
    """Unwind; or past the pivot, or with a doubt that nothing would undo, park: a person decides (R9)."""
    if turn.instance.pivoted:
        _park(turn, f"{why}; {PAST_PIVOT}", visit, call)
    elif visit is not None and call is not None and not can_be_left(turn, visit, call):
        _park(turn, f"{why}; {NO_WAY_BACK}", visit, call)
    else:
        if visit is not None and call is not None and call.do is Do.ASKED:
            leave(turn, visit, call, Do.FAILED)
        unwind(turn, why)


def pass_by(turn: Turn, visit: Visit, call: Call, do: Do) -> bool:
    """Go on without this call's yes: what is in doubt is undone first (R21). False: it cannot be, and is parked."""
    if call.do is Do.ASKED:
        if not can_be_left(turn, visit, call):
            _park(turn, f"{call.error}; {NO_WAY_BACK}", visit, call)
            return False
        leave(turn, visit, call, do)
    elif call.do is Do.WAITING:
        call.do = Do.CLEAN  # it was never sent
    want_undone(visit, (call,))
    return True


def park(turn: Turn, why: str, visit: Visit, call: Call | None) -> None:
    """Ask for a person (R8)."""
    if call is None:
        visit.parked, visit.wake_at, visit.timeout_at = why, None, None
        turn.note(f"{visit.step}#{visit.number} parked: {why}")
    else:
        call.timeout_at = call.retry_at = None
        call.parked = why
        turn.note(f"{label(visit, call)} parked: {why}")
    turn.instance.last_error = why


def _park(turn: Turn, why: str, visit: Visit | None, call: Call | None) -> None:
    if visit is None:
        turn.note(f"changes nothing: {why}")
    else:
        park(turn, why, visit, call)


def _go_to(turn: Turn, name: str, visit: Visit | None) -> None:
    step = turn.definition.steps.get(name)
    if step is None:
        raise HandlerBug(f"Goto({name}): {turn.definition.name} has no such step")
    if turn.instance.pivoted and (step.pivot or turn.definition.pivot in step.reach):
        turn.instance.pivoted = False  # a new round: only that can be undone (R9)
        turn.instance.visits = [earlier.of_closed_round() for earlier in turn.instance.visits]
    _leave_for(turn, Then(step=name), visit, step.reach | {name})


def _leave_for(turn: Turn, then: Then, visit: Visit | None, again: frozenset[str]) -> None:
    """Leave what is open, have undone what is in doubt and what will be entered `again`, then go (R21)."""
    under_way = turn.open_visits()
    beside = [other.step for other in under_way if other is not visit]
    if visit is not None and beside:
        raise HandlerBug(f"{visit.step} decides to leave while {', '.join(beside)} is under way beside it")
    for other in under_way:
        _leave_visit(turn, other)
    for earlier in turn.instance.visits:
        if earlier.state is not _UNDONE and earlier.step in again and not earlier.closed:
            want_undone(earlier, own_calls(earlier))
            mark_undone(earlier)
    turn.instance.then = then


def _leave_visit(turn: Turn, visit: Visit) -> None:
    stuck = [call for call in visit.calls if not can_be_left(turn, visit, call)]
    done = bool(visit.calls) and all(call.do is Do.YES for call in visit.calls)
    abandon(turn, visit)
    if done:
        visit.state = VisitState.DONE
    want_undone(visit, [call for call in visit.calls if call.do is not Do.YES])
    for call in stuck:
        call.unwinding = Undo.ASKED  # answered by a person only
        park(turn, NO_WAY_BACK, visit, call)
