"""The way forward: entering steps, and going on until nothing more can move by itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from ..definition import StepDefinition
from ..saga import Wait
from .ending import end
from .events import receive, wanting
from .exchange import ask
from .instance import Call, CallKind, Do, Status, Then, Undo, Visit, VisitState
from .turn import HandlerBug, Turn
from .unwinding import UNANSWERED, go_back, pivot_must_be_waited_for, unwind
from .visits import finish, kind_of, pass_pivot, payload, store_undo

# What is asked of every visit or call, under a name of its own: see `turn`.
_COMPENSATING = Status.COMPENSATING
_COMMAND, _QUERY, _CHILD, _EVENT = CallKind.COMMAND, CallKind.QUERY, CallKind.CHILD, CallKind.EVENT
_WAITING, _ASKED, _NONE = Do.WAITING, Do.ASKED, Undo.NONE
_OPEN, _UNDONE = VisitState.OPEN, VisitState.UNDONE
_OVER = (Do.YES, Do.CLEAN, Do.SKIPPED)
_MANY = (list, tuple)  # `list | tuple` would be put together anew each time


def proceed(turn: Turn) -> None:
    """Go on until every way forward waits for a message: undos first, then what they held up, then the next steps."""
    instance = turn.instance
    while not instance.status.is_end:
        if instance.unwind_wanted and not pivot_must_be_waited_for(turn):
            unwind(turn, instance.unwind_wanted)
        if not go_back(turn):
            return
        if instance.status is _COMPENSATING:
            end(turn, Status.COMPENSATED)
        elif instance.then is not None:
            _follow_through(turn, instance.then)
        elif not _go_on(turn):
            return


# A step begins.


def enter(turn: Turn, step: StepDefinition) -> Visit:
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
    sent = turn.ask((visit, None, ""), step.function)
    if isinstance(sent, Wait):
        _wait(turn, visit, sent)
        return visit
    visit.calls = _calls(turn, step, visit, sent)
    for call in visit.calls:
        store_undo(turn, visit, call)
    feed(turn, visit)
    return visit


def feed(turn: Turn, visit: Visit) -> None:
    """Send what waits for its turn, as far as `at_once` allows."""
    at_once = turn.definition.steps[visit.step].at_once
    room = len(visit.calls)
    if at_once is not None:
        room = at_once - sum([call.do is _ASKED and not call.parked for call in visit.calls])
    for call in visit.calls:
        if room <= 0:
            break
        if call.do is _WAITING and call.unwinding is _NONE:
            call.do = _ASKED
            ask(turn, visit, call)
            room -= 1


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
    if not isinstance(sent, _MANY):
        return [_call(turn, step, visit, sent, -1)]
    items = cast(Sequence[Any], sent)
    if len(items) > turn.limits.fan_out:
        raise HandlerBug(f"{step.name} sends {len(items)} at once, more than {turn.limits.fan_out}")
    return [_call(turn, step, visit, item, index) for index, item in enumerate(items)]


def _call(turn: Turn, step: StepDefinition, visit: Visit, sent: Any, index: int) -> Call:
    cls: type = sent.__class__
    kind = kind_of(cls)
    if kind is _EVENT:
        event = payload(sent)
        call = Call(kind=kind, command=event, index=index, do=Do.YES)
        turn.publish(turn.command_id(visit, call), event)
        turn.note(f"published {event.type}")
        return call
    if kind is _COMMAND or kind is _QUERY:
        return Call(kind=kind, command=payload(sent), index=index)
    if kind is _CHILD:
        return Call(kind=kind, command=payload(sent.event), index=index, child=sent.saga.__name__)
    raise HandlerBug(f"{step.name} returned {sent!r}: a step returns a command, an event, a Wait, a Child or None")


def _let_it_start(turn: Turn, step: StepDefinition) -> tuple[int, ...]:
    """The visits whose end lets this one start (R7): the latest of each predecessor; after a Goto, all open ends."""
    if not step.after:
        return ()
    latest: dict[str, int] = {}
    for visit in turn.instance.visits:
        if visit.state is not _UNDONE and not visit.closed:
            latest[visit.step] = visit.serial
    found = tuple([latest[name] for name in step.after if name in latest])
    if found:
        return found
    live = [visit for visit in turn.instance.visits if visit.state is not _UNDONE and not visit.closed]
    inner = {serial for visit in live for serial in visit.after}
    return tuple(visit.serial for visit in live if visit.serial not in inner)


# A step goes on and ends.


def _go_on(turn: Turn) -> bool:
    """Finish what is settled, then enter what it lets start, or end. False: all that is under way waits."""
    under_way: list[str] = []
    for visit in turn.instance.visits:
        if visit.state is not _OPEN:
            continue
        if visit.waiting or visit.parked or not _is_settled(turn, visit):
            under_way.append(visit.step)
        else:
            finish(turn, visit)
    passed = set(turn.instance.passed)
    for name, step in turn.definition.steps.items():
        if name not in passed and name not in under_way and passed.issuperset(step.after):
            visit = enter(turn, step)
            if not visit.waiting and _is_settled(turn, visit):
                return True  # or it took an event that was kept, which may have led anywhere
            under_way.append(name)
    if not under_way:
        end(turn, Status.COMPLETED)
    return False


def _is_settled(turn: Turn, visit: Visit) -> bool:
    """Send what waits for its turn; whether all that the visit sent is over."""
    is_settled = True
    for call in visit.calls:  # a plain loop: asked of every call in every turn
        do, unwinding = call.do, call.unwinding
        if do is _WAITING:
            feed(turn, visit)
            return False
        if do is _ASKED or call.parked or (do not in _OVER if unwinding is _NONE else unwinding in UNANSWERED):
            is_settled = False
    return is_settled


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
