"""A Definition, put together from a class, its body and its keywords."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from msgspec import Struct
from msgspec.structs import fields

from ..definition import Definition, StepDefinition, StepKind, definition_of
from ..errors import DefinitionError
from ..fields import check_storable
from ..hints import members
from ..messages import Event, Failure, Message, Unwound, is_command, is_message, replies_of, type_name
from .body import Body
from .checks import check
from .graph import predecessors, reaches, successors


class Keywords(Struct, frozen=True):
    """What stands behind the class's name."""

    key: str
    starts: tuple[type[Event], ...]
    version: int
    deadline: float | None
    restartable: bool


def define(cls: type, body: Body, keywords: Keywords) -> Definition:
    """The checked definition of a saga class. Errors: DefinitionError."""
    _check_keywords(cls, body, keywords)
    starters = _starters(cls, body, keywords)
    bare = Definition(
        cls=cls,
        name=cls.__name__,
        key=keywords.key,
        version=keywords.version,
        deadline=keywords.deadline,
        restartable=keywords.restartable,
        steps=_with_graph(cls, body),
        starters={type_name(event): starter for event, starter in starters.items()},
        always=tuple(body.always.values()),
        migrations=body.migrations,
        pivot=next((name for name, step in body.definitions.items() if step.pivot), ""),
    )
    definition = replace(bare, routes=_routes(bare, starters), types=_types(bare, starters))
    check(definition)
    return definition


def _check_keywords(cls: Any, body: Body, keywords: Keywords) -> None:
    name = cls.__name__
    if keywords.key not in cls.__struct_fields__:
        raise DefinitionError(f"{name} has key={keywords.key!r}, but no such field: add {keywords.key}: str")
    if keywords.deadline is not None and not keywords.deadline > 0:
        raise DefinitionError(f"{name} has deadline={keywords.deadline}: give more than 0 seconds")
    if keywords.version < 1:
        raise DefinitionError(f"{name} has version={keywords.version}: versions count from 1")
    for version in body.migrations:
        if not 1 <= version < keywords.version:
            raise DefinitionError(
                f"{name} is of version {keywords.version}, and from_version={version} of a migration is not before it: "
                f"say class {name}(..., version={version + 1})"
            )
    _check_fields(cls)
    if not body.steps:
        raise DefinitionError(f"{name} has no step: write at least one @step")


def _check_fields(cls: type) -> None:
    try:
        check_storable(cls)
    except NameError as error:
        raise DefinitionError(
            f"a field of {cls.__name__} is annotated with {error.name}, which is not there yet: define it above"
        ) from None


# The graph.


def _with_graph(cls: type, body: Body) -> dict[str, StepDefinition]:
    after = predecessors(cls, body.steps)
    before, reach = successors(after), reaches(cls.__name__, after)
    past_pivot = {later for step in body.definitions.values() if step.pivot for later in reach[step.name]}
    return {
        name: replace(step, after=after[name], before=before[name], reach=reach[name], past_pivot=name in past_pivot)
        for name, step in body.definitions.items()
    }


# How an instance begins.


def _starters(cls: Any, body: Body, keywords: Keywords) -> dict[type[Event], Callable[[Any], Any]]:
    starters: dict[type[Event], Callable[[Any], Any]] = {}
    methods = [(event, getattr(cls, name)) for name, events in body.starters.items() for event in events]
    for event, starter in [*((event, _filler(cls, event)) for event in keywords.starts), *methods]:
        if event in starters:
            raise DefinitionError(f"{cls.__name__} is started by {event.__name__} in two ways: keep one")
        starters[event] = starter
    if not starters:
        raise DefinitionError(f"{cls.__name__} has nothing that starts it: say starts=SomeEvent, or write a @start")
    return starters


def _filler(cls: Any, event: Any) -> Callable[[Any], Any]:
    """Copies the fields of the same name."""
    if not (isinstance(event, type) and issubclass(event, Event)):
        raise DefinitionError(f"{cls.__name__} has starts={event!r}: name an Event class, or a tuple of them")
    names = [name for name in cls.__struct_fields__ if name in event.__struct_fields__]  # type: ignore[attr-defined]
    _check_filled(cls, event, names)
    return lambda message: cls(**{name: getattr(message, name) for name in names})


def _check_filled(cls: Any, event: Any, names: list[str]) -> None:
    _check_fields(event)
    types = {field.name: field.type for field in fields(event)}
    for field in fields(cls):
        if field.name in names:
            if not _fits(types[field.name], field.type):
                raise DefinitionError(
                    f"{cls.__name__}.{field.name} cannot be filled from {event.__name__}.{field.name}, "
                    f"which is of another type: annotate both alike, or compute it in a @start"
                )
        elif field.required:
            raise DefinitionError(
                f"{cls.__name__}.{field.name} cannot be filled from {event.__name__}, which has no such field: "
                f"give it a default, or compute it in a @start"
            )


def _fits(theirs: Any, ours: Any) -> bool:
    """Whether every value of their annotation is one of ours."""
    if ours is Any or theirs == ours:
        return True
    return all(any(_is_a(part, mine) for mine in members(ours)) for part in members(theirs))


def _is_a(theirs: Any, ours: Any) -> bool:
    if theirs == ours or (theirs, ours) == (int, float):
        return True
    if not (isinstance(theirs, type) and isinstance(ours, type)):
        return False
    return issubclass(theirs, ours) and theirs is not bool


# What comes in and goes out.


def _routes(definition: Definition, starters: Iterable[type[Event]]) -> dict[str, tuple[str, ...]]:
    """By which fields each event finds its instance."""
    waiting = [handler for step in definition.steps.values() if step.kind is StepKind.WAIT for handler in step.on]
    handled = [(handler, event) for handler in (*definition.always, *waiting) for event in handler.types]
    wanted = [(event, definition.key, "its start") for event in starters]
    wanted += [(event, handler.key or definition.key, handler.function.__name__) for handler, event in handled]
    routes: dict[str, tuple[str, ...]] = {}
    for event, field, by in wanted:
        if field not in event.__struct_fields__:  # type: ignore[attr-defined]
            raise DefinitionError(
                f"{definition.name} finds its instance for {event.__name__} ({by}) by the field {field}, "
                f"which the event has not: add it, or name another field with key="
            )
        known = routes.get(type_name(event), ())
        routes[type_name(event)] = known if field in known else (*known, field)
    return routes


def _types(definition: Definition, starters: Iterable[type[Event]]) -> dict[str, type]:
    """Every class that may come in or go out, by its wire type."""
    types: dict[str, type] = {}
    handled = [cls for handler in definition.always for cls in handler.types]
    sent = [cls for step in definition.steps.values() for cls in _of_step(step)]
    for name, cls in _named([Failure, *starters, *handled, *sent]):
        if types.setdefault(name, cls) is not cls:
            raise DefinitionError(
                f"{definition.name} uses two classes of the wire type {name}: give one another with type="
            )
    return types


def _of_step(step: StepDefinition) -> Iterable[type]:
    handlers = (*step.on, *step.refused, *([step.compensate] if step.compensate else ()))
    yield from (cls for handler in handlers for cls in handler.types)
    if step.kind is not StepKind.WAIT:
        yield from step.sends


def _named(classes: Iterable[type[Any]]) -> Iterable[tuple[str, type]]:
    for cls in classes:
        yield from _of_message(cls) if is_message(cls) else _of_child(definition_of(cls))


def _of_message(cls: type[Message]) -> Iterable[tuple[str, type]]:
    yield type_name(cls), cls
    if is_command(cls):
        yield from ((type_name(reply), reply) for replies in replies_of(cls) for reply in replies)


def _of_child(child: Definition) -> Iterable[tuple[str, type]]:
    """Its end, whose type is its name; what starts it; and its refusal."""
    yield child.name, child.cls
    yield from ((event, child.types[event]) for event in child.starters)
    yield type_name(Unwound), Unwound
