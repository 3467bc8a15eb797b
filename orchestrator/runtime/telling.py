"""Says in the log what a person may want to know of a commit; payloads are never logged."""

from __future__ import annotations

import logging

from ..machine.instance import Instance, Status
from ..machine.transition import Transition
from ..wire import Kind

_MAY_PARK = frozenset({Kind.REFUSAL, Kind.FAILURE, Kind.TIMER, Kind.BUG})

_log = logging.getLogger(__name__)


def tell(transition: Transition) -> None:
    """Dead letters, verbs, parked instances, and ends other than the hoped for."""
    for letter in transition.dead:
        what = letter.envelope.type if letter.envelope is not None else f"{len(letter.raw)} bytes"
        _log.warning("dead letter: %s: %s", what, letter.reason, extra={"listener": letter.listener})
    instance, message = transition.instance, transition.message
    if instance is None or message is None:
        return
    if message.kind is Kind.VERB:
        _log.info("%s by %s: %s", message.type, message.user, transition.outcome, extra=_where(instance))
    if instance.status.is_end:
        level = logging.DEBUG if instance.status is Status.COMPLETED else logging.INFO
        if instance.ended_at == transition.at and _log.isEnabledFor(level):
            _log.log(level, "%s: %s", instance.status, instance.why or "done", extra=_where(instance))
    elif message.kind in _MAY_PARK and (parked := instance.parked):
        _log.warning("parked, needs a person: %s", parked, extra=_where(instance))


def _where(instance: Instance) -> dict[str, str]:
    return {"saga": instance.saga, "key": instance.key}
