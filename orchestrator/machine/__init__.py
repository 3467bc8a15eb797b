"""The machine: decides what each message does. Pure functions of values: no await, no clock, no chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import load_when_used

if TYPE_CHECKING:
    from .instance import Bug, Call, CallKind, Do, Instance, Payload, Status, Then, Undo, Visit, VisitState
    from .limits import MachineLimits
    from .react import fold, migrate, react, replay, set_aside
    from .timers import away, next_timer
    from .transition import Entry, Outcome, Record, Transition
    from .turn import HandlerBug

_HOMES: dict[str, tuple[str, ...]] = {
    "instance": (
        "Bug",
        "Call",
        "CallKind",
        "Do",
        "Instance",
        "Payload",
        "Status",
        "Then",
        "Undo",
        "Visit",
        "VisitState",
    ),
    "limits": ("MachineLimits",),
    "react": ("fold", "migrate", "react", "replay", "set_aside"),
    "timers": ("away", "next_timer"),
    "transition": ("Entry", "Outcome", "Record", "Transition"),
    "turn": ("HandlerBug",),
}

if not TYPE_CHECKING:
    load_when_used(__name__, _HOMES)

__all__ = [
    "Bug",
    "Call",
    "CallKind",
    "Do",
    "Entry",
    "HandlerBug",
    "Instance",
    "MachineLimits",
    "Outcome",
    "Payload",
    "Record",
    "Status",
    "Then",
    "Transition",
    "Undo",
    "Visit",
    "VisitState",
    "away",
    "fold",
    "migrate",
    "next_timer",
    "react",
    "replay",
    "set_aside",
]
