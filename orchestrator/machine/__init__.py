"""The machine: decides what each message does. Pure functions of values: no await, no clock, no chance."""

from .instance import Bug, Call, CallKind, Do, Instance, Payload, Status, Then, Undo, Visit, VisitState
from .limits import MachineLimits
from .react import fold, migrate, react, set_aside
from .timers import next_timer
from .transition import Entry, Outcome, Transition
from .turn import HandlerBug

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
