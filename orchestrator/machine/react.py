"""`react`: what one message does to one instance. Pure: no await, no clock, no chance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from ..definition import Definition
from ..errors import BadMessage, DefinitionError
from ..saga import migrated
from ..wire import DeadLetter, Envelope, Kind, Verb
from .ending import answer_again, answer_unwinding, refuse_unwinding
from .events import event
from .forward import proceed
from .instance import Bug, Instance, Status, headline
from .limits import MachineLimits
from .replies import reply
from .timers import NEXT, timer
from .transition import Entry, Outcome, Transition
from .turn import HandlerBug, Turn
from .unwinding import unwind
from .verbs import verb

_bug = msgspec.json.Decoder(Bug)
_DEFAULTS = MachineLimits()
_EVENT, _START, _VERB, _NEXT, _BUG = Kind.EVENT, Kind.START, Kind.VERB, Kind.NEXT, Kind.BUG  # see `turn`


def react(
    definition: Definition,
    instance: Instance | None,
    message: Envelope,
    now: float,
    limits: MachineLimits = _DEFAULTS,
) -> Transition:
    """The whole effect of `message`, handled at `now` (seconds since 1970), on an instance or on none yet (R1-R22).

    Errors: HandlerBug, when the saga's own code raised or returned nonsense; nothing has changed then (R15).
    """
    transition = _moved(definition, instance, message, now, limits)
    if definition.restartable and message.kind is _EVENT:
        return replace(transition, seen=((str(message.address), message.id),))  # beyond this run's own inbox (R13)
    return transition


def _moved(
    definition: Definition, instance: Instance | None, message: Envelope, now: float, limits: MachineLimits
) -> Transition:
    if instance is None:
        return _without_instance(definition, message, now, limits)
    kind = message.kind
    turn = Turn(definition, instance, message, now, limits)
    if kind is _BUG:
        _set_aside(turn, _bug.decode(message.data))
    elif instance.status.is_end and kind is not _VERB:
        return _after_the_end(turn, instance, message, now, limits)
    elif kind is _VERB and message.type == Verb.RETRY and instance.bug is not None:
        turn.note(f"retry by {message.user or 'an operator'}: {instance.bug.message.type} {instance.bug.message.id}")
        turn.instance.bug = None
        _replay(turn, instance.bug.message)
    elif kind is _NEXT and instance.queue and instance.bug is None:
        _replay(turn, _next_queued(turn))
    elif kind is not _VERB and (instance.bug is not None or instance.queue):
        _queue(turn)
    else:
        _handle(turn)
    return turn.transition()


def set_aside(
    definition: Definition, instance: Instance | None, message: Envelope, error: str, now: float
) -> Transition:
    """Park the whole instance over a message its code cannot handle, the traceback with it (R15).

    An operator's verb parks nothing: it is refused, with the traceback's last line.
    """
    inner = message
    if instance is not None and message.kind is Kind.NEXT and instance.queue:
        inner = instance.queue[0]
    elif instance is not None and message.kind is Kind.VERB and message.type == Verb.RETRY and instance.bug is not None:
        inner = instance.bug.message
    parked = replace(message, kind=Kind.BUG, data=Raw(msgspec.json.encode(Bug(message=inner, error=error))))
    known = instance if instance is not None and not _is_over(instance, message) else _new(definition, message, now)
    return react(definition, known, parked, now)


def migrate(definition: Definition, instance: Instance) -> Instance:
    """The instance with its state lifted to the definition's version (R18).

    Errors: DefinitionError when there is no migration, or the instance is newer than this code.
    """
    if instance.definition_version == definition.version or instance.starter == "":
        return instance
    if instance.definition_version > definition.version:
        raise DefinitionError(
            f"{instance.address} is of version {instance.definition_version} of {definition.name}, "
            f"newer than this code's {definition.version}"
        )
    state = Raw(migrated(definition, instance.state, instance.definition_version))
    return replace(instance, state=state, definition_version=definition.version)


def fold(definition: Definition, entries: Iterable[Entry], limits: MachineLimits = _DEFAULTS) -> Instance | None:
    """The instance that its history leads to (I2). None for an empty history."""
    instance: Instance | None = None
    for transition in replay(definition, entries, limits):
        instance = transition.instance
    return instance


def replay(definition: Definition, entries: Iterable[Entry], limits: MachineLimits = _DEFAULTS) -> Iterator[Transition]:
    """The transitions of a history once more, from the first on (I2). Errors: HandlerBug, as `react`."""
    instance: Instance | None = None
    for entry in entries:
        if instance is None and entry.message.kind is Kind.BUG:
            instance = _new(definition, entry.message, entry.at)
        transition = react(definition, instance, entry.message, entry.at, limits)
        instance = transition.instance
        yield transition


def _handle(turn: Turn) -> None:
    _HANDLERS.get(turn.message.kind, _changes_nothing)(turn)
    proceed(turn)


# Before the beginning.


def _without_instance(definition: Definition, message: Envelope, now: float, limits: MachineLimits) -> Transition:
    if _starts(definition, message):
        return _begun(Turn(definition, _new(definition, message, now), message, now, limits))
    if message.kind is Kind.UNWIND:
        return _tombstone(Turn(definition, _new(definition, message, now), message, now, limits))
    if message.kind is Kind.EVENT:
        return _wait_for_start(message, now, limits)
    return Transition(at=now, message=message, outcome=Outcome.STALE, notes=("there is no such instance",))


def _starts(definition: Definition, message: Envelope) -> bool:
    if message.kind is _EVENT:
        return message.type in definition.starters and message.via in ("", definition.key)
    return message.kind is _START


def _new(definition: Definition, message: Envelope, now: float) -> Instance:
    return Instance(
        saga=definition.name,
        key=message.key,
        run=hashlib.blake2b(message.id.encode(), digest_size=5).hexdigest(),
        definition_version=definition.version,
        deadline_at=None if definition.deadline is None else now + definition.deadline,
        answer_to=message.answer_to,
        answer_attempt=message.attempt,
        correlation_id=message.correlation_id or message.id,
        traceparent=message.traceparent,
        started_at=now,
    )


def _begun(turn: Turn) -> Transition:
    _begin(turn)
    proceed(turn)
    return turn.transition()


def _begin(turn: Turn) -> None:
    message = turn.message
    starter = turn.definition.starters.get(message.type)
    if starter is None:
        raise HandlerBug(f"{message.type} does not start {turn.definition.name}")
    try:
        value = turn.decoded(message.type, message.data, message.version)
    except BadMessage as error:
        raise HandlerBug(f"{message.type} {message.id} cannot be decoded: {error}") from error
    turn.begin(starter, value)
    turn.instance.starter = message.id
    turn.note(f"started by {message.type}")


def _tombstone(turn: Turn) -> Transition:
    """Told to unwind before it started: a start that comes later finds it compensated (R22)."""
    instance = turn.instance
    instance.status, instance.ended_at, instance.deadline_at = Status.COMPENSATED, turn.now, None
    instance.why = "unwound before it started"
    instance.answer_attempt, instance.unwind_attempt = 1, turn.message.attempt
    turn.note("unwound before it started")
    answer_unwinding(turn)
    return turn.transition()


def _wait_for_start(message: Envelope, now: float, limits: MachineLimits) -> Transition:
    note = f"{message.type} waits for {message.address} to start"
    until = now + limits.waiting_room_s
    return Transition(at=now, message=message, outcome=Outcome.WAITING, notes=(note,), wait_until=until)


# After the end.


def _after_the_end(turn: Turn, instance: Instance, message: Envelope, now: float, limits: MachineLimits) -> Transition:
    definition = turn.definition
    if message.kind is Kind.EVENT and definition.restartable and message.id != instance.starter:
        if _starts(definition, message):
            return _begun(Turn(definition, _new(definition, message, now), message, now, limits))
        return _wait_for_start(
            message, max(now, instance.updated_at), limits
        )  # behind this run, whatever the clock says
    if message.kind is Kind.START:
        turn.instance.answer_attempt = message.attempt
        turn.note("started again: the same answer")
        answer_again(turn)
    elif message.kind is Kind.UNWIND:
        _unwind_child(turn)
        proceed(turn)
    elif message.kind is Kind.EVENT and message.type in definition.starters:
        turn.ends_as(Outcome.DUPLICATE, f"{message.type}: a finished key does not start again")
    elif message.kind is Kind.EVENT:
        turn.ends_as(Outcome.LATE, f"{message.type} came after the end")
    else:
        turn.ends_as(Outcome.STALE, f"{message.type} came after the end")
    return turn.transition()


# A child, and its parent's word.


def _started_again(turn: Turn) -> None:
    turn.instance.answer_attempt = turn.message.attempt
    turn.ends_as(Outcome.DUPLICATE, "started already; it will answer")


def _unwind_child(turn: Turn) -> None:
    """The parent undoes this child: unwind it, reopening it if it was completed (R22)."""
    instance = turn.instance
    instance.unwind_attempt = turn.message.attempt
    if instance.status in (Status.COMPENSATED, Status.KILLED):
        answer_unwinding(turn)
    elif instance.pivoted:
        refuse_unwinding(turn)
    elif instance.status is Status.RUNNING:
        unwind(turn, "its parent unwinds")
    elif instance.status is Status.COMPLETED:
        instance.ended_at = None
        unwind(turn, "its parent unwinds")


def _changes_nothing(turn: Turn) -> None:
    turn.ends_as(Outcome.STALE, f"{turn.message.kind} changes nothing here")


_HANDLERS: dict[Kind, Callable[[Turn], None]] = {
    Kind.EVENT: event,
    Kind.YES: reply,
    Kind.REFUSAL: reply,
    Kind.FAILURE: reply,
    Kind.TIMER: timer,
    Kind.VERB: verb,
    Kind.START: _started_again,
    Kind.UNWIND: _unwind_child,
}


# Bugs (R15).


def _set_aside(turn: Turn, bug: Bug) -> None:
    instance = turn.instance
    if bug.message.kind is Kind.VERB:
        turn.refuse(f"the saga's own code raised: {headline(bug.error)}")
        return
    instance.last_error = headline(bug.error)
    if turn.message.type == NEXT:
        _next_queued(turn)
    if instance.bug is not None:
        turn.ends_as(Outcome.REFUSED, f"it raised again: {instance.last_error}")
    else:
        turn.note(f"parked over {bug.message.type} {bug.message.id}: {instance.last_error}")
    instance.bug = bug


def _replay(turn: Turn, message: Envelope) -> None:
    turn.message = message
    if turn.instance.starter == "" and _starts(turn.definition, message):
        _begin(turn)
        proceed(turn)
    else:
        _handle(turn)


def _next_queued(turn: Turn) -> Envelope:
    queue = turn.instance.queue
    turn.instance.queue = queue[1:]
    return queue[0]


def _queue(turn: Turn) -> None:
    queue = turn.instance.queue
    if len(queue) >= turn.limits.queue:
        turn.dead.append(
            DeadLetter(
                at=turn.now, reason=f"{turn.instance.address} has {len(queue)} messages queued", envelope=turn.message
            )
        )
        turn.ends_as(Outcome.DEAD, "too many messages behind a bug")
        return
    turn.instance.queue = [*queue, turn.message]
    turn.ends_as(Outcome.QUEUED, f"{turn.message.type} queued behind a bug")


def _is_over(instance: Instance, message: Envelope) -> bool:
    """Whether the message would have begun a new run over an ended one."""
    return instance.status.is_end and message.kind is Kind.EVENT
