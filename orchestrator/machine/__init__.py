"""The machine: decides what each message does. Pure functions of values; nothing here awaits, sleeps or asks the time."""

from .instance import Bug, Call, CallKind, Do, Instance, Payload, Status, Then, Undo, Visit, VisitState
from .limits import MachineLimits
from .react import HandlerBug, fold, migrate, react, set_aside
from .timers import next_timer
from .transition import Entry, Outcome, Transition

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
    "Status",
    "Then",
    "Transition",
    "Undo",
    "Visit",
    "VisitState",
    "fold",
    "migrate",
    "next_timer",
    "react",
    "set_aside",
]
