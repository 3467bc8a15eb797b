"""What the steps and handlers of a class body say by their annotations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_origin

from ..definition import Handler, StepDefinition, StepKind, definition_of
from ..errors import DefinitionError
from ..hints import members, shown
from ..messages import Command, Event
from ..steps import Child, Role, Step, Wait
from .handlers import Sent, events_taken, of_answer, of_event, of_failure, of_lateness, undo
from .signature import Signature


class Itself:
    """Stands for the class that is being made, where an annotation in its body names it."""


class Reader:
    """Reads the functions of one class body."""

    def __init__(self, saga: str, local_names: Mapping[str, Any]) -> None:
        """`local_names`: those of the function that defines the class, if one does."""
        self._saga = saga
        self._local_names = {**local_names, saga: Itself}

    def step(self, step: Step) -> StepDefinition:
        """All of a step but its place in the graph."""
        where = f"{self._saga}.{step.name}"
        sent = self._sent(where, step)
        _check_options(where, step, sent)
        _check_roles(where, step, sent)
        handlers = {decorator: self._handlers(where, step, sent, decorator) for decorator in _ROLES[sent.kind]}
        return StepDefinition(
            name=step.name,
            function=step.function,
            kind=sent.kind,
            sends=sent.classes,
            many=sent.many,
            timeout=step.options.timeout,
            retry=step.options.retry,
            pivot=step.options.pivot,
            may_stand=step.options.may_stand,
            at_once=step.options.at_once,
            on=handlers.get("on", ()),
            refused=handlers.get("refused", ()),
            failed=_only(handlers.get("failed", ())),
            late=_only(handlers.get("late", ())),
            compensate=_only(handlers.get("compensate", ())),
        )

    def always(self, name: str, function: Callable[..., Any], key: str) -> Handler:
        """A class-level `@on` handler."""
        return of_event(self._read(f"{self._saga}.{name}", function, 1, 1), function, key)

    def start(self, name: str, function: Callable[..., Any]) -> tuple[type[Event], ...]:
        """The events that a `@start` method takes."""
        return events_taken(self._read(f"{self._saga}.{name}", function, 1, 1))

    def _read(self, where: str, function: Callable[..., Any], least: int, most: int) -> Signature:
        return Signature(where, function, self._local_names, least, most)

    def _sent(self, where: str, step: Step) -> Sent:
        signature = self._read(where, step.function, 0, 0)
        parts = signature.returned()
        if not parts:
            raise signature.wrong("does not say what it sends: annotate what it returns, -> SomeCommand")
        lists = [part for part in parts if _is_list(part)]
        if lists and len(parts) > 1:
            raise signature.wrong("returns a list or something else: return always a list, it may be empty")
        single = [member for each in lists for part in get_args(each) if part is not ... for member in members(part)]
        sent = [self._one_sent(signature, part) for part in single or parts]
        kinds = {kind for kind, _ in sent}
        if len(kinds) > 1:
            raise signature.wrong("must send one kind of thing: either commands, or events, or a Wait, or a Child")
        return Sent(kinds.pop(), tuple(cls for _, cls in sent), bool(lists))

    def _one_sent(self, signature: Signature, part: Any) -> tuple[StepKind, type]:
        if get_origin(part) is Child:
            return StepKind.CHILD, self._child(signature, get_args(part)[0])
        for kind, base in _SENT.items():
            if isinstance(part, type) and issubclass(part, base):
                return kind, part
        raise signature.wrong(
            f"returns {shown(part)}: a step returns a Command, an Event, a Wait, a Child[...], or a list of them"
        )

    def _child(self, signature: Signature, cls: Any) -> type:
        if cls is Itself:
            raise signature.wrong(f"starts {self._saga} as its own child: children cannot go in a circle")
        try:
            return definition_of(cls).cls
        except DefinitionError as error:
            raise signature.wrong(f"cannot start this child: {error}") from None

    def _handlers(self, where: str, step: Step, sent: Sent, decorator: str) -> tuple[Handler, ...]:
        return tuple(
            self._handler(f"{where} (.{decorator} {role.function.__name__})", role, sent)
            for role in step.roles
            if role.decorator == decorator
        )

    def _handler(self, where: str, role: Role, sent: Sent) -> Handler:
        function = role.function
        match role.decorator:
            case "on" if sent.kind is StepKind.WAIT:
                return of_event(self._read(where, function, 1, 1), function, role.key)
            case "on" | "refused":
                answers = sent.yes if role.decorator == "on" else sent.refusals
                return of_answer(self._read(where, function, 1, 2), function, sent, answers)
            case "failed":
                return of_failure(self._read(where, function, 1, 2), function, sent)
            case "late":
                return of_lateness(self._read(where, function, 0, 0), function)
            case _:
                return undo(self._read(where, function, 0, 1), function, sent)


_SENT: dict[StepKind, type] = {StepKind.COMMAND: Command, StepKind.WAIT: Wait, StepKind.PUBLISH: Event}
_ROLES: dict[StepKind, tuple[str, ...]] = {
    StepKind.COMMAND: ("on", "refused", "failed", "compensate"),
    StepKind.CHILD: ("on", "refused", "failed", "compensate"),
    StepKind.WAIT: ("on", "late"),
    StepKind.PUBLISH: ("compensate",),
}


def _only(handlers: tuple[Handler, ...]) -> Handler | None:
    return handlers[0] if handlers else None


def _is_list(part: Any) -> bool:
    origin = get_origin(part)
    return isinstance(origin, type) and issubclass(origin, Sequence)


def _check_options(where: str, step: Step, sent: Sent) -> None:
    options = step.options
    if options.timeout is not None and sent.kind in (StepKind.WAIT, StepKind.PUBLISH):
        raise DefinitionError(f"{where} sends no command to time out: remove timeout=, a Wait says its own time")
    if options.timeout is not None and not options.timeout > 0:
        raise DefinitionError(f"{where} has timeout={options.timeout}: give more than 0 seconds")
    if options.at_once is not None and not sent.many:
        raise DefinitionError(f"{where} sends no list: remove at_once=")
    if options.at_once is not None and options.at_once < 1:
        raise DefinitionError(f"{where} has at_once={options.at_once}: give 1 or more")
    if sent.many and sent.kind is StepKind.WAIT:
        raise DefinitionError(f"{where} returns a list of Wait: return one Wait")
    if options.may_stand and any(role.decorator == "compensate" for role in step.roles):
        raise DefinitionError(f"{where} has undo=None and a compensation: keep one of them")


def _check_roles(where: str, step: Step, sent: Sent) -> None:
    seen: set[str] = set()
    for role in step.roles:
        name = role.function.__name__
        if role.decorator not in _ROLES[sent.kind]:
            raise DefinitionError(f"{where} is a {sent.kind} step and cannot have .{role.decorator}: remove {name}")
        if sent.kind is StepKind.WAIT and role.decorator == "on":
            continue
        if role.key:
            raise DefinitionError(f"{where} waits for a reply, not for an event: remove key= from {name}")
        if role.decorator in seen:
            raise DefinitionError(f"{where} has .{role.decorator} twice: keep one, it may take a union A | B")
        seen.add(role.decorator)
