"""The catalog of an app, from its classes and the settings of its topics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..aggregate import Aggregate
from ..app import App
from ..definition import Definition, StepDefinition, StepKind
from ..errors import AppError
from ..messages import (
    Event,
    Failure,
    Message,
    Query,
    Refusal,
    is_boundary,
    is_command,
    participant_of,
    replies_of,
    type_name,
)
from ..topics import Topics
from .entries import AggregateEntry, Catalog, ListenerEntry, MessageEntry, SagaEntry, Sort, StepEntry, Taken
from .schemas import about, schema_of


def catalog_of(app: App[Any], topics: Topics, aggregates: Sequence[type[Aggregate]] = ()) -> Catalog:
    """All that an app says, hears and keeps, with these classes of aggregates. Errors: AppError, if an event of an
    aggregate has the wire type of another message.
    """
    gathered = _Gathered(app, topics, _with_stored(app, aggregates))
    return Catalog(
        app=app.name,
        group=topics.group,
        replies=topics.replies,
        messages=tuple(gathered.message(name, cls) for name, cls in sorted(gathered.types.items())),
        sagas=tuple(_saga(definition) for _, definition in sorted(app.sagas.items())),
        listeners=tuple(
            ListenerEntry(name, _names(it.events), _names(it.publishes), _first_line(it.function.__doc__))
            for name, it in sorted(app.listeners.items())
        ),
        aggregates=tuple(
            AggregateEntry(cls.__kind__.name, _names(cls.__kind__.handlers), _first_line(about(cls)))
            for cls in sorted(aggregates, key=lambda cls: cls.__kind__.name)
        ),
    )


def aggregates_beside(app: App[Any]) -> list[type[Aggregate]]:
    """The classes of aggregates that are defined in the modules, or in the packages, that the app's own things are
    from: an app does not list them.
    """
    things: list[Any] = [*app.types.values(), *(definition.cls for definition in app.sagas.values())]
    things += [participant.function for participant in app.participants.values()]
    things += [listener.function for listener in app.listeners.values()]
    homes = {thing.__module__.partition(".")[0] for thing in things} - {__name__.partition(".")[0]}
    return [cls for cls in _subclasses(Aggregate) if _is_at_home(cls, homes) and cls.__kind__.handlers]


def _is_at_home(cls: type, homes: set[str]) -> bool:
    return cls.__module__.partition(".")[0] in homes


def _subclasses(base: type[Aggregate]) -> Iterator[type[Aggregate]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def _with_stored(app: App[Any], aggregates: Iterable[type[Aggregate]]) -> dict[str, list[type[Message]]]:
    """Wire type -> its class; and once more, if aggregates keep it."""
    found: dict[str, list[type[Message]]] = {name: [cls] for name, cls in app.types.items()}
    for aggregate in aggregates:
        for event in aggregate.__kind__.handlers:
            known = found.setdefault(type_name(event), [event])
            if known[0] is not event:
                raise AppError(
                    f"{known[0].__module__}.{known[0].__qualname__} and {event.__module__}.{event.__qualname__}, which "
                    f"{aggregate.__name__} applies, have the same wire type {type_name(event)}: rename one"
                )
            known.append(event)
    return found


class _Gathered:
    """What is asked of the app again and again."""

    def __init__(self, app: App[Any], topics: Topics, types: dict[str, list[type[Message]]]) -> None:
        self._app = app
        self._topics = topics
        self.types = types
        self._missing = {type_name(command) for command in app.missing_participants()}
        self._asked_by: dict[str, list[str]] = {}
        for name, definition in sorted(app.sagas.items()):
            for command in _sent_commands(definition):
                self._asked_by.setdefault(command, []).append(name)
        self._answers: dict[str, list[str]] = {}
        for wire_type, cls in sorted(app.types.items()):
            if is_command(cls):
                for reply in (reply for replies in replies_of(cls) for reply in replies):
                    self._answers.setdefault(type_name(reply), []).append(wire_type)

    def message(self, name: str, classes: list[type[Message]]) -> MessageEntry:
        """One message."""
        cls = classes[0]
        common: dict[str, Any] = {
            "type": name,
            "version": cls.__wire__.version,
            "schema": schema_of(cls),
            "about": _first_line(about(cls)),
            "lifts": tuple(sorted(cls.__wire__.lifts)),
        }
        if is_command(cls):
            return MessageEntry(**common, **self._command(name, cls))
        appended, boundary = len(classes) > 1, is_boundary(cls)
        return MessageEntry(**common, **self._event(name, cls), appended=appended, boundary=boundary)

    def _command(self, name: str, cls: Any) -> dict[str, Any]:
        here = self._app.participants.get(name)
        yes, no = replies_of(cls)
        return {
            "kind": Sort.QUERY if Query in cls.__mro__ else Sort.COMMAND,
            "topic": self._topics.of_command(name),
            "sent": name in self._missing,
            "received": here is not None,
            "participant": participant_of(cls),
            "function": "" if here is None else here.name,
            "replies": _names(yes),
            "refusals": _names(no),
            "asked_by": tuple(self._asked_by.get(name, ())),
        }

    def _event(self, name: str, cls: type[Message]) -> dict[str, Any]:
        app, answers = self._app, tuple(self._answers.get(name, ()))
        is_wanted = name in app.routes or name in app.listening
        is_told = name in app.published
        return {
            "kind": next(sort for base, sort in _SORTS if issubclass(cls, base)),
            "topic": self._topics.of_event(name) if is_wanted or is_told else "",
            "sent": is_told or any(command in app.participants for command in answers),
            "received": is_wanted or any(command in self._missing for command in answers),
            "sagas": tuple(
                Taken(saga, definition.routes[name], name in definition.starters)
                for saga, definition in sorted(app.sagas.items())
                if name in definition.routes
            ),
            "listeners": tuple(sorted(app.listening.get(name, ()))),
            "answers": answers,
        }


_SORTS: tuple[tuple[type[Message], Sort], ...] = (
    (Event, Sort.EVENT),
    (Refusal, Sort.REFUSAL),
    (Failure, Sort.FAILURE),
)


def _sent_commands(definition: Definition) -> set[str]:
    return {
        type_name(cls)
        for step in definition.steps.values()
        for cls in (*step.sends, *_undo(step))
        if issubclass(cls, Message) and is_command(cls)
    }


def _saga(definition: Definition) -> SagaEntry:
    published = [
        cls
        for step in definition.steps.values()
        if step.kind is StepKind.PUBLISH
        for cls in (*step.sends, *_undo(step))
        if issubclass(cls, Event)
    ]
    return SagaEntry(
        name=definition.name,
        version=definition.version,
        key=definition.key,
        schema=schema_of(definition.cls),
        about=_first_line(about(definition.cls)),
        migrations=tuple(sorted(definition.migrations)),
        starts=tuple(sorted(definition.starters)),
        steps=tuple(_step(step) for step in definition.steps.values()),
        publishes=_names(published),
    )


def _step(step: StepDefinition) -> StepEntry:
    waits = step.kind is StepKind.WAIT
    return StepEntry(
        name=step.name,
        kind=step.kind.value,
        after=step.after,
        sends=() if waits else _names(step.sends),
        undo=_names(_undo(step)),
        waits_for=_names([cls for handler in step.on for cls in handler.types]) if waits else (),
        pivot=step.pivot,
    )


def _undo(step: StepDefinition) -> tuple[type, ...]:
    return step.compensate.types if step.compensate is not None else ()


def _names(classes: Iterable[type]) -> tuple[str, ...]:
    """Wire types of messages, and names of sagas."""
    return tuple(dict.fromkeys(type_name(cls) if issubclass(cls, Message) else cls.__name__ for cls in classes))


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]
