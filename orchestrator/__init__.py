"""Durable sagas as Python classes: the public names, nothing else.

Each name is loaded when it is first asked for, so that the command line starts without what it does not need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .app import App, load_app
    from .config import Limits, Settings
    from .context import Handling, delivery, now, unique_id
    from .errors import (
        AppError,
        BadMessage,
        BusUnavailable,
        ConfigError,
        DefinitionError,
        DuplicateMessage,
        Fatal,
        NoStore,
        NotFound,
        OrchestratorError,
        Refused,
        RetryAfter,
        StoreCorrupt,
        StoreError,
        StoreFull,
        StoreLocked,
        StoreUnavailable,
        VersionConflict,
    )
    from .ledger import First, Ledger, Once
    from .messages import Command, Done, Event, Failure, Message, NeverRefused, Query, Refusal, Secret, Unwound, upcast
    from .participant import Call, Delivery, Listener, Participant, listener, participant
    from .retry import Retry
    from .runtime.embedded import End, Orchestrator, Run
    from .saga import (
        Child,
        Compensate,
        Finish,
        Goto,
        Saga,
        Stay,
        Step,
        Wait,
        days,
        hours,
        migrate,
        minutes,
        on,
        seconds,
        start,
        step,
    )

_HOMES: dict[str, tuple[str, ...]] = {
    "app": (
        "App",
        "load_app",
    ),
    "config": (
        "Limits",
        "Settings",
    ),
    "context": (
        "Handling",
        "delivery",
        "now",
        "unique_id",
    ),
    "errors": (
        "AppError",
        "BadMessage",
        "BusUnavailable",
        "ConfigError",
        "DefinitionError",
        "DuplicateMessage",
        "Fatal",
        "NoStore",
        "NotFound",
        "OrchestratorError",
        "Refused",
        "RetryAfter",
        "StoreCorrupt",
        "StoreError",
        "StoreFull",
        "StoreLocked",
        "StoreUnavailable",
        "VersionConflict",
    ),
    "ledger": (
        "First",
        "Ledger",
        "Once",
    ),
    "messages": (
        "Command",
        "Done",
        "Event",
        "Failure",
        "Message",
        "NeverRefused",
        "Query",
        "Refusal",
        "Secret",
        "Unwound",
        "upcast",
    ),
    "participant": (
        "Call",
        "Delivery",
        "Listener",
        "Participant",
        "listener",
        "participant",
    ),
    "retry": ("Retry",),
    "runtime.embedded": (
        "End",
        "Orchestrator",
        "Run",
    ),
    "saga": (
        "Child",
        "Compensate",
        "Finish",
        "Goto",
        "Saga",
        "Stay",
        "Step",
        "Wait",
        "days",
        "hours",
        "migrate",
        "minutes",
        "on",
        "seconds",
        "start",
        "step",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})


__all__ = [
    "App",
    "AppError",
    "BadMessage",
    "BusUnavailable",
    "Call",
    "Child",
    "Command",
    "Compensate",
    "ConfigError",
    "DefinitionError",
    "Delivery",
    "Done",
    "DuplicateMessage",
    "End",
    "Event",
    "Failure",
    "Fatal",
    "Finish",
    "First",
    "Goto",
    "Handling",
    "Ledger",
    "Limits",
    "Listener",
    "Message",
    "NeverRefused",
    "NoStore",
    "NotFound",
    "Once",
    "Orchestrator",
    "OrchestratorError",
    "Participant",
    "Query",
    "Refusal",
    "Refused",
    "Retry",
    "RetryAfter",
    "Run",
    "Saga",
    "Secret",
    "Settings",
    "Stay",
    "Step",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "StoreUnavailable",
    "Unwound",
    "VersionConflict",
    "Wait",
    "days",
    "delivery",
    "hours",
    "listener",
    "load_app",
    "migrate",
    "minutes",
    "now",
    "on",
    "participant",
    "seconds",
    "start",
    "step",
    "unique_id",
    "upcast",
]
