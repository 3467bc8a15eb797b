"""The way forward: entering steps, and going on until nothing more can move by itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from ..definition import StepDefinition
from ..messages import Command, Event, Message, Query
from ..saga import Child, Wait
from .ending import end
from .events import receive, wanting
from .exchange import ask
from .instance import Call, CallKind, Do, Status, Then, Undo, Visit, VisitState
from .turn import HandlerBug, Turn
from .unwinding import UNANSWERED, go_back, pivot_must_be_waited_for, unwind
from .visits import finish, pass_pivot, payload, store_undo

# Looking up a member of an Enum costs twice a name of the module; these are asked of every call in every turn.
_WAITING, _ASKED, _NONE, _UNDONE = Do.WAITING, Do.ASKED, Undo.NONE, VisitState.UNDONE
_OVER = (Do.YES, Do.CLEAN, Do.SKIPPED)


def proceed(turn: Turn) -> None:
    """Go on until every way forward waits for a message: undos first, then what they held up, then the next steps."""
    instance = turn.instance
    while not instance.status.is_end:
        if instance.unwind_wanted and not pivot_must_be_waited_for(turn):
            unwind(turn, instance.unwind_wanted)
        if not go_back(turn):
            return
        if instance.status is Status.COMPENSATING:
            end(turn, Status.COMPENSATED)
        elif instance.then is not None:
            _follow_through(turn, instance.then)
        else:
            under_way = turn.open_visits()
            if not (_finish_settled(turn, under_way) or _enter_next(turn, under_way)):
                if under_way:
                    return
                end(turn, Status.COMPLETED)


# A step begins.


def enter(turn: Turn, step: StepDefinition) -> None:
    """Begin a visit: run the step once, store what it sends and its undo, then send (R5)."""
    instance = turn.instance
    number = instance.numbers.get(step.name, 0) + 1
    if number > turn.limits.visits:
        raise HandlerBug(f"{step.name} would be visited more than {turn.limits.visits} times in one run")
    instance.serial += 1
    instance.numbers = {**instance.numbers, step.name: number}
    visit = Visit(
        serial=instance.serial, step=step.name, number=number, entered_at=turn.now, after=_let_it_start(turn, step)
    )
    if step.timeout is not None:
        visit.timeout_at = turn.now + step.timeout
    instance.visits.append(visit)
    turn.note(f"{step.name}#{number} entered")
    sent = turn.ask(instance.visit_id(visit), step.function)
    if isinstance(sent, Wait):
        _wait(turn, visit, sent)
        return
    visit.calls = _calls(turn, step, visit, sent)
    for call in visit.calls:
        store_undo(turn, visit, call)
    feed(turn, visit)


def feed(turn: Turn, visit: Visit) -> None:
    """Send what waits for its turn, as far as `at_once` allows."""
    waiting = [call for call in visit.calls if call.do is _WAITING and call.unwinding is _NONE]
    if not waiting:
        return
    under_way = sum([call.do is _ASKED and not call.parked for call in visit.calls])
    room = (turn.step_of(visit).at_once or len(visit.calls)) - under_way
    for call in waiting[: max(0, room)]:
        call.do = _ASKED
        ask(turn, visit, call)


def _wait(turn: Turn, visit: Visit, wait: Wait) -> None:
    visit.waiting = True
    if wait.seconds is not None:
        visit.wait_s = float(wait.seconds)
        visit.wake_at = turn.now + visit.wait_s
    elif wait.until is not None:
        visit.wake_at = wait.until.timestamp() if isinstance(wait.until, datetime) else float(wait.until)
    for envelope in turn.instance.kept:
        handler = wanting(turn, visit, envelope)
        if handler is not None and visit.state is VisitState.OPEN and visit.waiting:
            turn.instance.kept = [kept for kept in turn.instance.kept if kept is not envelope]
            receive(turn, visit, handler, envelope)


def _calls(turn: Turn, step: StepDefinition, visit: Visit, sent: Any) -> list[Call]:
    if sent is None:
        return []
    if not isinstance(sent, list | tuple):
        return [_call(turn, step, visit, sent, -1)]
    items = cast(Sequence[Any], sent)
    if len(items) > turn.limits.fan_out:
        raise HandlerBug(f"{step.name} sends {len(items)} at once, more than {turn.limits.fan_out}")
    return [_call(turn, step, visit, item, index) for index, item in enumerate(items)]


def _call(turn: Turn, step: StepDefinition, visit: Visit, sent: Any, index: int) -> Call:
    if isinstance(sent, Event):
        event = payload(sent)
        turn.publish(turn.instance.command_id(visit, Call(kind=CallKind.EVENT, index=index)), event)
        turn.note(f"published {event.type}")
        return Call(kind=CallKind.EVENT, command=event, index=index, do=Do.YES)
    if isinstance(sent, Command):
        kind = CallKind.QUERY if isinstance(sent, Query) else CallKind.COMMAND
        return Call(kind=kind, command=payload(cast(Message, sent)), index=index)
    if isinstance(sent, Child):
        child = cast(Child[Any], cast(object, sent))
        return Call(kind=CallKind.CHILD, command=payload(child.event), index=index, child=child.saga.__name__)
    raise HandlerBug(f"{step.name} returned {sent!r}: a step returns a command, an event, a Wait, a Child or None")


def _let_it_start(turn: Turn, step: StepDefinition) -> tuple[int, ...]:
    """The visits whose end lets this one start (R7): the latest of each predecessor; after a Goto, all open ends."""
    live = [visit for visit in turn.instance.visits if not visit.closed and visit.state is not _UNDONE]
    latest = {visit.step: visit.serial for visit in live if visit.step in step.after}
    found = tuple([latest[name] for name in step.after if name in latest])
    if found or not step.after:
        return found
    inner = {serial for visit in live for serial in visit.after}
    return tuple(visit.serial for visit in live if visit.serial not in inner)


# A step goes on and ends.


def _finish_settled(turn: Turn, under_way: list[Visit]) -> bool:
    moved = False
    for visit in under_way:
        if visit.waiting or visit.parked:
            continue
        feed(turn, visit)
        if _is_settled(visit):
            finish(turn, visit)
            moved = True
    return moved


def _is_settled(visit: Visit) -> bool:
    for call in visit.calls:  # a plain loop, as in `unanswered`
        do, unwinding = call.do, call.unwinding
        if do is _ASKED or do is _WAITING or call.parked or unwinding in UNANSWERED:
            return False
        if unwinding is _NONE and do not in _OVER:
            return False
    return True


def _enter_next(turn: Turn, under_way: list[Visit]) -> bool:
    passed = set(turn.instance.passed)
    begun = passed.union([visit.step for visit in under_way])
    for name, step in turn.definition.steps.items():
        if name not in begun and passed.issuperset(step.after):
            enter(turn, step)
            return True
    return False


def _follow_through(turn: Turn, then: Then) -> None:
    """What a Goto or Finish left behind is undone: now go there (R21)."""
    instance = turn.instance
    instance.then = None
    if not then.step:
        end(turn, Status.COMPLETED)
        return
    target = turn.definition.steps[then.step]
    if target.past_pivot and not instance.pivoted:
        pass_pivot(turn)  # jumped over: nothing from here on could be undone (R9)
    ahead = target.reach | {target.name}
    instance.passed = [name for name in turn.definition.steps if name not in ahead]
    enter(turn, target)
