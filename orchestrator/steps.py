"""What the body of a saga class is written with: steps, their handlers, and what these return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from math import inf, isfinite
from types import EllipsisType
from typing import Any, Generic, Protocol, overload

from msgspec import Struct
from typing_extensions import TypeIs, TypeVar

from .definition import Migration, definition_of
from .errors import DefinitionError
from .messages import Command, Event, Failure, NeverRefused, R, Unwound, X, type_name
from .retry import Retry

# What a step or a handler returns.


def seconds(number: float) -> float:
    """So many seconds, in seconds."""
    return float(number)


def minutes(number: float) -> float:
    """So many minutes, in seconds."""
    return number * 60.0


def hours(number: float) -> float:
    """So many hours, in seconds."""
    return number * 3600.0


def days(number: float) -> float:
    """So many days of 24 hours, in seconds."""
    return number * 86400.0


class Wait(Struct, frozen=True):
    """A step waits: `seconds` long, or `until` a moment (an aware datetime, or seconds since 1970), or, given
    neither, for as long as it takes.

    What comes within that time is for the step's `.on`; afterwards `.late` decides. Without `.on` it is a pause.
    Errors: ValueError for both, for a datetime without time zone, for a negative time.
    """

    seconds: float | None = None
    until: datetime | float | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and self.until is not None:
            raise ValueError("Wait takes seconds or until, not both")
        if self.seconds is not None and not 0 <= self.seconds < inf:
            raise ValueError(f"Wait({self.seconds}): the time must be 0 or more; Wait() waits for as long as it takes")
        if isinstance(self.until, float) and not isfinite(self.until):
            raise ValueError(f"Wait(until={self.until}) is no moment; Wait() waits for as long as it takes")
        if isinstance(self.until, datetime) and self.until.tzinfo is None:
            raise ValueError("Wait(until=...) needs a time zone: datetime(..., tzinfo=timezone.utc)")


D = TypeVar("D", covariant=True)


class Child(Struct, Generic[D], frozen=True):
    """A step starts an instance of another saga with `event` and waits for its end (R22).

    Errors: TypeError for an event that does not start it.
    """

    saga: type[D]
    event: Event

    def __post_init__(self) -> None:
        if type_name(type(self.event)) not in definition_of(self.saga).starters:
            raise TypeError(f"{type(self.event).__name__} does not start {self.saga.__name__}")


class Stay(Struct, frozen=True):
    """A handler of a waiting step, or of the class, returns this to go on waiting."""


class Goto(Struct, frozen=True):
    """A handler returns this to go on at another step, `Goto(self.ship)`; backwards, what lies between is undone
    first (R21).
    """

    step: Step

    def __post_init__(self) -> None:
        if not is_step(self.step):
            raise TypeError(f"Goto takes a step of the saga, Goto(self.ship), not {self.step!r}")


class Compensate(Struct, frozen=True):
    """A handler returns this to undo everything and end; past the pivot the step is parked instead (R9)."""

    why: str = ""


class Finish(Struct, frozen=True):
    """A handler returns this to complete the saga here; what is in doubt is undone first (R21)."""


Next = Goto | Compensate | Finish | None
NextOrStay = Goto | Compensate | Finish | Stay | None

# Steps.

Sends = Command[Any, Any] | Event | Wait | Child[Any]

S = TypeVar("S", covariant=True, default=Any)
C = TypeVar("C", bound=Sends, covariant=True, default=Any)
A = TypeVar("A")  # S and C of a function: without defaults, or mypy lets anything pass
K = TypeVar("K", bound=Sends)
E = TypeVar("E", bound=Event)
T = TypeVar("T")
Compensation = Command[Any, NeverRefused] | Event | None


class Options(Struct, frozen=True):
    """What stands in the brackets of `@step(...)`. `after` None: all open ends written so far."""

    timeout: float | None = None
    retry: Retry = Retry()
    pivot: bool = False
    after: tuple[Step, ...] | None = None
    at_once: int | None = None
    may_stand: bool = False


class Role(Struct, frozen=True):
    """A function that was attached to a step: by which decorator, and for an event by which key field."""

    decorator: str
    function: Callable[..., Any]
    key: str = ""


class Step(Generic[S, C]):
    """One step of a saga, generic in the saga and in what it sends: made by `@step`, completed by its decorators.

    The decorators give back the plain function. DefinitionError, if the class the step belongs to is complete.
    """

    def __init__(self, function: Callable[[S], Sequence[C] | C | None], options: Options) -> None:
        """Use `@step` instead."""
        self.name: str = getattr(function, "__name__", "")
        self.function = function
        self.options = options
        self.roles: list[Role] = []
        self.owner = ""  # the class, once it is complete

    def __repr__(self) -> str:
        return f"{self.owner}.{self.name}" if self.owner else self.name

    # The overload with the command comes first: one of two parameters would fit the other too early.

    @overload
    def on(self: Step[S, Command[R, X]], handler: Callable[[S, R, C], Next], /) -> Callable[[S, R, C], Next]: ...
    @overload
    def on(self: Step[S, Command[R, X]], handler: Callable[[S, R], Next], /) -> Callable[[S, R], Next]: ...
    @overload
    def on(self: Step[S, Child[D]], handler: Callable[[S, D], Next], /) -> Callable[[S, D], Next]: ...
    @overload
    def on(self: Step[S, Wait], handler: Callable[[S, E], NextOrStay], /) -> Callable[[S, E], NextOrStay]: ...
    @overload
    def on(
        self: Step[S, Wait], /, *, key: str
    ) -> Callable[[Callable[[S, E], NextOrStay]], Callable[[S, E], NextOrStay]]: ...
    def on(self, handler: Callable[..., Any] | None = None, /, *, key: str = "") -> Any:
        """Handle the yes of a command or child (one handler for all that may come), or an event a Wait waits for.

        The handler may take the command as last parameter. `key`: the event's field that holds the instance's key.
        """
        if handler is None:
            return partial(self._attach, "on", key=key)
        return self._attach("on", handler, key)

    @overload
    def refused(self: Step[S, Command[Any, X]], handler: Callable[[S, X, C], Next], /) -> Callable[[S, X, C], Next]: ...
    @overload
    def refused(self: Step[S, Command[Any, X]], handler: Callable[[S, X], Next], /) -> Callable[[S, X], Next]: ...
    @overload
    def refused(
        self: Step[S, Child[Any]], handler: Callable[[S, Unwound], Next], /
    ) -> Callable[[S, Unwound], Next]: ...
    def refused(self, handler: Callable[..., Any], /) -> Any:
        """Handle a refusal that is not the end; nothing returned goes on without what was refused."""
        return self._attach("refused", handler)

    @overload
    def failed(
        self: Step[S, Command[Any, Any]], handler: Callable[[S, Failure, C], Next], /
    ) -> Callable[[S, Failure, C], Next]: ...
    @overload
    def failed(
        self: Step[S, Command[Any, Any] | Child[Any]], handler: Callable[[S, Failure], Next], /
    ) -> Callable[[S, Failure], Next]: ...
    def failed(self, handler: Callable[..., Any], /) -> Any:
        """Decide what follows when the attempts are used up, the step's time is over, or it failed for good."""
        return self._attach("failed", handler)

    def late(self: Step[S, Wait], handler: Callable[[S], NextOrStay], /) -> Callable[[S], NextOrStay]:
        """Decide what follows when a Wait is over; without it a Wait with `.on` gives up."""
        return self._attach("late", handler)

    @overload
    def compensate(
        self: Step[S, Command[Any, Any]], function: Callable[[S, C], Compensation], /
    ) -> Callable[[S, C], Compensation]: ...
    @overload
    def compensate(
        self: Step[S, Command[Any, Any] | Child[Any] | Event], function: Callable[[S], Compensation], /
    ) -> Callable[[S], Compensation]: ...
    def compensate(self, function: Callable[..., Any], /) -> Any:
        """Say what undoes the step: a command, or an event to publish. It may run several times and must not write."""
        return self._attach("compensate", function)

    def _attach(self, decorator: str, function: Callable[..., T], key: str = "") -> Callable[..., T]:
        if self.owner:
            raise DefinitionError(
                f"{_name_of(function)} is added to {self.owner}.{self.name}, but that class is complete: "
                f"write the step {self.name} again in the subclass"
            )
        self.roles.append(Role(decorator, function, key))
        return function


def is_step(value: object) -> TypeIs[Step]:
    """Whether it is a step."""
    return isinstance(value, Step)


class _StepDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[[A], Sequence[K]], /) -> Step[A, K]: ...
    @overload
    def __call__(self, function: Callable[[A], K | None], /) -> Step[A, K]: ...


@overload
def step(function: Callable[[A], Sequence[K]], /) -> Step[A, K]: ...
@overload
def step(function: Callable[[A], K | None], /) -> Step[A, K]: ...
@overload
def step(
    *,
    timeout: float | None = None,
    retry: Retry | None = None,
    pivot: bool = False,
    after: Step | tuple[Step, ...] | None = None,
    at_once: int | None = None,
    undo: EllipsisType | None = ...,
) -> _StepDecorator: ...
def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    timeout: float | None = None,
    retry: Retry | None = None,
    pivot: bool = False,
    after: Step | tuple[Step, ...] | None = None,
    at_once: int | None = None,
    undo: EllipsisType | None = ...,
) -> Any:
    """Make a method a step: it returns what is sent, a command, an event, a Wait, a Child, a list, or None.

    timeout  seconds for the step with all its attempts.     retry    how often a command is tried (default: Retry()).
    pivot    after its yes there is only forward (R9).       after    the steps it follows; () for the start.
    at_once  of a list, how many are under way together.     undo     None: its effect may stand, nothing undoes it.
    """
    if after is not None and not isinstance(after, tuple):
        after = (after,)
    options = Options(timeout, retry or Retry(), pivot, after, at_once, may_stand=undo is None)
    return partial(Step, options=options) if function is None else Step(function, options)


# Methods of the class as a whole.


class Mark(Struct, frozen=True):
    """What `on`, `start` and `migrate` leave on a function for the class to find."""

    decorator: str
    key: str = ""
    from_version: int = 0


_MARK = "__orchestrator_mark__"


def mark_of(function: object) -> Mark | None:
    """The mark of a function, or of the function in a classmethod or staticmethod."""
    return getattr(getattr(function, "__func__", function), _MARK, None)


@overload
def on(handler: Callable[[A, E], NextOrStay], /) -> Callable[[A, E], NextOrStay]: ...
@overload
def on(*, key: str) -> Callable[[Callable[[A, E], NextOrStay]], Callable[[A, E], NextOrStay]]: ...
def on(handler: Callable[..., Any] | None = None, /, *, key: str = "") -> Any:
    """Handle an event at any time while the saga runs forward. `key`: the event's field with the instance's key."""
    mark = Mark("on", key)
    return partial(_marked, mark) if handler is None else _marked(mark, handler)


def start(function: Callable[[type[A], E], A], /) -> Callable[[type[A], E], A]:
    """Begin an instance from an event: it returns the first state. Under `@classmethod`."""
    return _marked(Mark("start"), function)


def migrate(*, from_version: int) -> Callable[[Migration], Migration]:
    """Turn a stored state of version `from_version`, a dict, into the next version's (R18). Under `@staticmethod`."""
    return partial(_marked, Mark("migrate", from_version=from_version))


def _marked(mark: Mark, function: Callable[..., T]) -> Callable[..., T]:
    setattr(function, _MARK, mark)
    return function


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function)).rpartition("<locals>.")[2]
