"""Says in the log what a person may want to know of a commit; payloads are never logged."""

from __future__ import annotations

import logging

from ..machine.instance import Instance, Status
from ..machine.transition import Transition
from ..wire import Envelope, Kind

_MAY_PARK = frozenset({Kind.REFUSAL, Kind.FAILURE, Kind.TIMER, Kind.BUG})

_log = logging.getLogger(__name__)


def tell(transition: Transition) -> None:
    """Dead letters, verbs, parked instances, and ends other than the hoped for."""
    for letter in transition.dead:
        what = letter.envelope.type if letter.envelope is not None else f"{len(letter.raw)} bytes"
        _log.warning("dead letter: %s: %s", what, letter.reason, extra={"listener": letter.listener})
    if transition.instance is not None and transition.message is not None:
        _tell_of(transition.instance, transition.message, transition)


def _tell_of(instance: Instance, message: Envelope, transition: Transition) -> None:
    where = {"saga": instance.saga, "key": instance.key}
    if message.kind is Kind.VERB:
        _log.info("%s by %s: %s", message.type, message.user, transition.outcome, extra=where)
    if instance.status.is_end:
        level = logging.DEBUG if instance.status is Status.COMPLETED else logging.INFO
        if instance.ended_at == transition.at and _log.isEnabledFor(level):
            _log.log(level, "%s: %s", instance.status, instance.why or "done", extra=where)
    elif message.kind in _MAY_PARK and (parked := instance.parked):
        _log.warning("parked, needs a person: %s", parked, extra=where)
