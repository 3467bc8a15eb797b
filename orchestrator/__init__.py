"""Durable sagas as Python classes: the public names, nothing else.

Each name is loaded when it is first asked for, so that the command line starts without what it does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import load_when_used

if TYPE_CHECKING:
    from .aggregate import Aggregate, apply
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
        NotAccepting,
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
    from .event_log import EventLog, EventStore
    from .ledger import First, Ledger, Once
    from .machine import Status
    from .messages import Command, Done, Event, Failure, Message, NeverRefused, Query, Refusal, Secret, Unwound, upcast
    from .participant import Call, Delivery, Listener, Participant, listener, participant
    from .ports import Find, Page
    from .projecting.looking import open_projection
    from .projection import Projection, project
    from .recorded import Appended, Cause, Metadata, Recorded
    from .repository import Repository
    from .retry import Retry
    from .runtime.embedded import End, Orchestrator, ReadModel, Run
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
    from .urls import open_bus, open_store

_HOMES: dict[str, tuple[str, ...]] = {
    "aggregate": ("Aggregate", "apply"),
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
        "NotAccepting",
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
    "event_log": ("EventLog", "EventStore"),
    "ledger": (
        "First",
        "Ledger",
        "Once",
    ),
    "machine": ("Status",),
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
    "ports": ("Find", "Page"),
    "projecting.looking": ("open_projection",),
    "projection": (
        "Projection",
        "project",
    ),
    "recorded": (
        "Appended",
        "Cause",
        "Metadata",
        "Recorded",
    ),
    "repository": ("Repository",),
    "retry": ("Retry",),
    "runtime.embedded": (
        "End",
        "Orchestrator",
        "ReadModel",
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
    "urls": ("open_bus", "open_store"),
}

if not TYPE_CHECKING:
    load_when_used(__name__, _HOMES)

__all__ = [
    "Aggregate",
    "App",
    "AppError",
    "Appended",
    "BadMessage",
    "BusUnavailable",
    "Call",
    "Cause",
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
    "EventLog",
    "EventStore",
    "Failure",
    "Fatal",
    "Find",
    "Finish",
    "First",
    "Goto",
    "Handling",
    "Ledger",
    "Limits",
    "Listener",
    "Message",
    "Metadata",
    "NeverRefused",
    "NoStore",
    "NotAccepting",
    "NotFound",
    "Once",
    "Orchestrator",
    "OrchestratorError",
    "Page",
    "Participant",
    "Projection",
    "Query",
    "ReadModel",
    "Recorded",
    "Refusal",
    "Refused",
    "Repository",
    "Retry",
    "RetryAfter",
    "Run",
    "Saga",
    "Secret",
    "Settings",
    "Status",
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
    "apply",
    "days",
    "delivery",
    "hours",
    "listener",
    "load_app",
    "migrate",
    "minutes",
    "now",
    "on",
    "open_bus",
    "open_projection",
    "open_store",
    "participant",
    "project",
    "seconds",
    "start",
    "step",
    "unique_id",
    "upcast",
]
