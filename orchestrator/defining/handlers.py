"""What a handler takes and returns, held against what its step sends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..definition import Handler, StepKind
from ..hints import shown
from ..messages import Command, Event, Failure, Query, Unwound, is_command, replies_of
from ..steps import Compensate, Finish, Goto, Stay
from .signature import Signature

Function = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Sent:
    """What a step sends: commands, events, a Wait, or children (then the sagas' classes); one or a list."""

    kind: StepKind
    classes: tuple[type, ...]
    many: bool

    @property
    def yes(self) -> tuple[type, ...]:
        """What may come back as a yes; of a child its last state."""
        if self.kind is StepKind.CHILD:
            return self.classes
        return tuple(reply for cls in self.classes if is_command(cls) for reply in replies_of(cls)[0])

    @property
    def refusals(self) -> tuple[type, ...]:
        """What may come back as a no."""
        if self.kind is StepKind.CHILD:
            return (Unwound,)
        return tuple(refusal for cls in self.classes if is_command(cls) for refusal in replies_of(cls)[1])


def of_answer(signature: Signature, function: Function, sent: Sent, declared: tuple[type, ...]) -> Handler:
    """Handles a yes or a refusal: all that are declared and no others."""
    taken = tuple(part for part in signature.parameter(0) if isinstance(part, type))
    names = " | ".join(dict.fromkeys(cls.__name__ for cls in declared)) or "nothing"
    for part in taken:
        if not any(issubclass(cls, part) for cls in declared):
            raise signature.wrong(f"takes {part.__name__}, but what may come is {names}: annotate it so")
    for cls in declared:
        if not issubclass(cls, taken):
            raise signature.wrong(f"forgets {cls.__name__}, but what may come is {names}: annotate it so")
    _check_decision(signature, sent.many)
    return Handler(function, declared, takes_command=_takes_command(signature, 1, sent))


def of_failure(signature: Signature, function: Function, sent: Sent) -> Handler:
    """Handles a Failure."""
    if signature.parameter(0) != (Failure,):
        raise signature.wrong("handles what failed for a technical reason: annotate it with Failure")
    _check_decision(signature, sent.many)
    return Handler(function, takes_command=_takes_command(signature, 1, sent))


def of_event(signature: Signature, function: Function, key: str) -> Handler:
    """Handles an event from outside."""
    types = events_taken(signature)
    _check_decision(signature, may_stay=True)
    return Handler(function, types, key)


def of_lateness(signature: Signature, function: Function) -> Handler:
    """Handles that a Wait is over."""
    _check_decision(signature, may_stay=True)
    return Handler(function)


def undo(signature: Signature, function: Function, sent: Sent) -> Handler:
    """A compensation; its `types` are what it may return."""
    parts = signature.returned()
    if parts is None:
        raise signature.wrong("does not say how it undoes: annotate what it returns, -> SomeCommand")
    for part in parts:
        if not isinstance(part, type) or not issubclass(part, (Command, Event)) or issubclass(part, Query):
            raise signature.wrong(f"returns {shown(part)}: an undo is a Command, an Event or None")
    for command in filter(is_command, parts):
        if replies_of(command)[1]:
            raise signature.wrong(
                f"undoes with {command.__name__}, which can be refused: an undo must not be, "
                f"declare {command.__name__}(Command) without a refusal"
            )
    return Handler(function, parts, takes_command=_takes_command(signature, 0, sent))


def events_taken(signature: Signature) -> tuple[type[Event], ...]:
    """The event classes of the only parameter."""
    parts = signature.parameter(0)
    for part in parts:
        if not (isinstance(part, type) and issubclass(part, Event)) or part is Event:
            raise signature.wrong(f"takes {shown(part)}: annotate its parameter with your Event class")
    return parts


def _takes_command(signature: Signature, position: int, sent: Sent) -> bool:
    if len(signature.names) <= position:
        return False
    if sent.kind is not StepKind.COMMAND:
        raise signature.wrong("has one parameter too many: only a command can be the last")
    taken = tuple(part for part in signature.parameter(position) if isinstance(part, type))
    for cls in sent.classes:
        if not issubclass(cls, taken):
            raise signature.wrong(f"does not take {cls.__name__}, which the step sends: annotate its last parameter so")
    return True


def _check_decision(signature: Signature, many: bool = False, may_stay: bool = False) -> None:
    """What a handler returns; what it does not say only running shows."""
    allowed: tuple[type, ...] = (Compensate,) if many else (Goto, Compensate, Finish)
    if may_stay:
        allowed = (*allowed, Stay)
    for part in signature.returned() or ():
        if part is not Any and part not in allowed:
            raise signature.wrong(
                f"returns {shown(part)}: here a handler returns nothing or {' or '.join(c.__name__ for c in allowed)}"
                + ("" if isinstance(part, type) and part in _DECISIONS else "; to send, Goto a step that sends it")
            )


_DECISIONS = (Goto, Compensate, Finish, Stay)
