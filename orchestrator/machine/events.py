"""Events from outside: for a waiting step, for the whole saga, too early, too late (R11-R14)."""

from __future__ import annotations

from ..definition import Handler
from ..errors import BadMessage
from ..saga import Stay
from ..wire import Envelope
from .instance import Status, Visit, VisitState
from .outcomes import follow, give_up
from .transition import Outcome
from .turn import Turn
from .visits import finish


def event(turn: Turn) -> None:
    """Give an event to whoever wants it now; keep it for a step to come; or say that it is late."""
    envelope = turn.message
    if turn.instance.status is Status.RUNNING:
        for visit in turn.open_visits():
            handler = wanting(turn, visit, envelope)
            if handler is not None:
                receive(turn, visit, handler, envelope)
                return
        for handler in turn.definition.always:
            if _takes(turn, handler, envelope):
                receive(turn, None, handler, envelope)
                return
        if _is_for_a_step_to_come(turn, envelope):
            _keep(turn, envelope)
            return
    _note(turn, envelope)


def receive(turn: Turn, visit: Visit | None, handler: Handler, envelope: Envelope) -> None:
    """Run the handler of a waiting step (or a class-level one) on an event, arrived now or kept."""
    try:
        value = turn.decoded(envelope.type, envelope.data, envelope.version)
    except BadMessage as error:
        turn.discard(envelope, f"cannot be decoded: {error}")
        turn.ends_as(Outcome.DEAD, f"{envelope.type} cannot be decoded: {error}")
        return
    around, turn.message = turn.message, envelope
    name = handler.function.__name__
    outcome = turn.ask((visit, None, name) if visit else (None, None, f"on/{name}"), handler.function, value)
    turn.message = around
    turn.note(f"{visit.step}#{visit.number} received {envelope.type}" if visit else f"received {envelope.type}")
    if outcome is None and visit is not None:
        finish(turn, visit)
    elif outcome is not None and not isinstance(outcome, Stay):
        follow(turn, outcome, visit)


def late(turn: Turn, visit: Visit) -> None:
    """A Wait is over (R10): a pause goes on, `.late` decides, or the step gives up."""
    visit.wake_at = visit.timeout_at = None
    step = turn.step_of(visit)
    if step.late is not None:
        outcome = turn.ask((visit, None, "late"), step.late.function)
        turn.note(f"{visit.step}#{visit.number} waited too long")
        if outcome is None:
            finish(turn, visit)
        elif not isinstance(outcome, Stay):
            follow(turn, outcome, visit)
    elif not step.on:
        finish(turn, visit)
    else:
        give_up(turn, f"{visit.step} waited too long", visit)


def wanting(turn: Turn, visit: Visit, envelope: Envelope) -> Handler | None:
    """The handler of a waiting step that takes this event, routed by this key."""
    if not visit.waiting or visit.state is not VisitState.OPEN:
        return None
    return next((h for h in turn.step_of(visit).on if _takes(turn, h, envelope)), None)


def _takes(turn: Turn, handler: Handler, envelope: Envelope) -> bool:
    key = turn.definition.key
    if (handler.key or key) != (envelope.via or key):
        return False
    cls = turn.definition.types.get(envelope.type)
    return cls is not None and cls in handler.types


def _is_for_a_step_to_come(turn: Turn, envelope: Envelope) -> bool:
    instance = turn.instance
    return any(
        step.name not in instance.numbers and step.name not in instance.passed
        for step in turn.definition.steps.values()
        if any(_takes(turn, handler, envelope) for handler in step.on)
    )


def _keep(turn: Turn, envelope: Envelope) -> None:
    kept = turn.instance.kept
    if len(kept) >= turn.limits.kept_events:
        turn.discard(envelope, f"{turn.instance.address} keeps {len(kept)} events already")
        turn.ends_as(Outcome.DEAD, f"{envelope.type}: too many kept events")
        return
    turn.instance.kept = [*kept, envelope]
    turn.ends_as(Outcome.KEPT, f"{envelope.type} kept for a step to come")


def _note(turn: Turn, envelope: Envelope) -> None:
    if envelope.type in turn.definition.starters:
        turn.ends_as(Outcome.DUPLICATE, f"{envelope.type}: started already")
    elif envelope.type in turn.definition.routes:
        turn.ends_as(Outcome.LATE, f"{envelope.type} came too late")
    else:
        turn.discard(envelope, f"no step of {turn.definition.name} wants {envelope.type}")
        turn.ends_as(Outcome.DEAD, f"no step wants {envelope.type}")
