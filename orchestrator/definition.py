"""A saga class, read and checked: the graph of its steps and what handles which message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .errors import DefinitionError
from .retry import Retry

Migration = Callable[[dict[str, Any]], dict[str, Any]]


class StepKind(StrEnum):
    """What a step sends, as its annotation says. (A step may also return None: nothing to do.)"""

    COMMAND = "command"  # a Command or Query, or a list of them
    WAIT = "wait"
    CHILD = "child"
    PUBLISH = "publish"  # an Event


@dataclass(frozen=True, eq=False, slots=True)
class Handler:
    """A plain function of (saga, message[, command])."""

    function: Callable[..., Any]
    types: tuple[type, ...] = ()  # the message classes it takes
    key: str = ""  # the field by which its event is routed, when not the saga's own
    takes_command: bool = False  # wants the command as last parameter


@dataclass(frozen=True, eq=False, slots=True)
class StepDefinition:
    """One step. Times in seconds. `reach` are all steps that come after it, in any number of hops."""

    name: str
    function: Callable[..., Any]
    kind: StepKind
    sends: tuple[type, ...]
    many: bool = False
    timeout: float | None = None
    retry: Retry = field(default_factory=Retry)
    pivot: bool = False
    may_stand: bool = False  # undo=None
    at_once: int | None = None
    after: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    reach: frozenset[str] = frozenset()
    past_pivot: bool = False
    on: tuple[Handler, ...] = ()
    refused: tuple[Handler, ...] = ()
    failed: Handler | None = None
    late: Handler | None = None
    compensate: Handler | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Definition:
    """One saga class. `steps` in the order written; all message types by their wire names.

    starters   wire type -> how an instance begins: a function of the event that gives the saga's first state.
    always     class-level `@on` handlers.
    routes     wire type of each event this saga takes -> the fields that may hold an instance's key.
    migrations from_version -> function of the stored state (a dict of builtins) that gives the next version's.
    types      wire type -> class, of everything that may come in or go out: events, replies, refusals, commands.
    """

    cls: type
    name: str
    key: str
    version: int = 1
    deadline: float | None = None
    restartable: bool = False
    steps: dict[str, StepDefinition] = field(default_factory=dict[str, StepDefinition])
    starters: dict[str, Callable[[Any], Any]] = field(default_factory=dict[str, Callable[[Any], Any]])
    always: tuple[Handler, ...] = ()
    routes: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    migrations: dict[int, Migration] = field(default_factory=dict[int, Migration])
    types: dict[str, type] = field(default_factory=dict[str, type])
    pivot: str = ""


def definition_of(cls: type) -> Definition:
    """The definition of a saga class. Errors: DefinitionError for a base without `key=`, or no saga at all."""
    found = cls.__dict__.get("__definition__")
    if not isinstance(found, Definition):
        raise DefinitionError(f"{cls.__name__} is not a saga with key=: only such a class can have instances")
    return found
