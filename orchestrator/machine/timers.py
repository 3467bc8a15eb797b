"""Timers: messages to oneself, derived from the stored state (R10)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec.structs import replace

from ..wire import Envelope, Kind
from .events import late
from .exchange import AWAY, asked_type, exchange_id, wait_longer
from .instance import Instance, Status, Undo, VisitState
from .outcomes import park
from .replies import again, attempt_timed_out, find, step_timed_out
from .transition import Outcome
from .turn import Turn
from .unwinding import unwind

ATTEMPT, RETRY, STEP, WAIT, DEADLINE, NEXT = "attempt", "retry", "step", "wait", "deadline", "next"


def next_timer(instance: Instance, now: float) -> Envelope | None:
    """The timer that is due the longest at `now`, as the message to handle; None: none.

    While messages are queued behind a mended bug, it is the word to go on with the next of them (R15).
    """
    if instance.status.is_end or instance.bug is not None:
        return None
    if instance.queue:
        return _timer(instance, NEXT, str(instance.version), instance.updated_at, Kind.NEXT)
    due = min(_armed(instance), key=lambda timer: timer[0], default=None)
    if due is None or due[0] > now:
        return None
    moment, name, about, attempt = due
    return _timer(instance, name, about, moment, Kind.TIMER, attempt)


def away(instance: Instance, message: Envelope, is_away: Callable[[str, str], bool]) -> Envelope:
    """The timer, marked if it is an attempt's whose command could not leave: `is_away` is asked for its id and type."""
    if message.type == ATTEMPT and is_away(message.reply_to, asked_type(instance, message.reply_to)):
        return replace(message, data=AWAY)
    return message


def timer(turn: Turn) -> None:
    """Apply a timer if what it names is still so, else note it stale (R4)."""
    message = turn.message
    if message.type == DEADLINE:
        _deadline(turn)
    elif message.type in (ATTEMPT, RETRY):
        _of_an_attempt(turn)
    else:
        _of_a_visit(turn)


def disarm(turn: Turn, message: Envelope, why: str) -> None:
    """An operator gave up a timer: what waited for it is parked, since nothing else may move it."""
    if message.type == DEADLINE:
        turn.instance.deadline_at = None
    for visit in turn.instance.visits:
        if visit.state is VisitState.OPEN and turn.instance.visit_id(visit) == message.reply_to:
            park(turn, why, visit, None)
    if message.type in (ATTEMPT, RETRY) and (found := find(turn, message.reply_to)) is not None:
        visit, call, _ = found
        if call.is_under_way:
            park(turn, why, visit, call)


def _armed(instance: Instance) -> Iterator[tuple[float, str, str, int]]:
    """Every timer that runs: moment, name, what it is about, attempt. A pause stops all but the deadline (R17)."""
    if instance.deadline_at is not None:
        yield instance.deadline_at, DEADLINE, "", 0
    if instance.paused:
        return
    for visit in instance.visits:
        if visit.timeout_at is not None:
            yield visit.timeout_at, STEP, instance.visit_id(visit), 0
        if visit.wake_at is not None:
            yield visit.wake_at, WAIT, instance.visit_id(visit), 0
        for call in visit.calls:
            if call.retry_at is not None:
                yield call.retry_at, RETRY, exchange_id(instance, visit, call), call.attempt
            if call.timeout_at is not None:
                yield call.timeout_at, ATTEMPT, exchange_id(instance, visit, call), call.attempt


def _timer(instance: Instance, name: str, about: str, moment: float, kind: Kind, attempt: int = 0) -> Envelope:
    return Envelope(
        id=f"{about or instance.run}!{name}:{attempt}@{moment:.6f}",
        kind=kind,
        type=name,
        time=moment,
        saga=instance.saga,
        key=instance.key,
        reply_to=about,
        attempt=attempt,
        correlation_id=instance.correlation_id,
    )


def _of_an_attempt(turn: Turn) -> None:
    message = turn.message
    found = find(turn, message.reply_to)
    if found is not None:
        visit, call, is_undo = found
        moment = call.retry_at if message.type == RETRY else call.timeout_at
        present = (call.unwinding is Undo.ASKED) == is_undo and call.attempt == message.attempt
        if present and moment is not None and moment <= turn.now and message.data == AWAY:
            wait_longer(turn, visit, call)
            return
        if present and moment is not None and moment <= turn.now:
            (again if message.type == RETRY else attempt_timed_out)(turn, visit, call)
            return
    _stale(turn)


def _of_a_visit(turn: Turn) -> None:
    message = turn.message
    for visit in turn.instance.visits:
        if visit.state is VisitState.OPEN and turn.instance.visit_id(visit) == message.reply_to:
            moment = visit.wake_at if message.type == WAIT else visit.timeout_at
            if moment is not None and moment <= turn.now:
                (late if visit.waiting else step_timed_out)(turn, visit)
                return
    _stale(turn)


def _deadline(turn: Turn) -> None:
    instance = turn.instance
    if instance.deadline_at is None or instance.deadline_at > turn.now:
        _stale(turn)
        return
    instance.deadline_at = None
    if instance.status is Status.RUNNING and not instance.pivoted:
        unwind(turn, "the deadline has passed")
    else:
        turn.note("the deadline has passed and changes nothing")


def _stale(turn: Turn) -> None:
    turn.ends_as(Outcome.STALE, f"timer {turn.message.type} of {turn.message.reply_to or 'the saga'} is over")
