"""An app: the sagas, participants and listeners that belong together, and how it is found by name."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Generic, cast, overload

from typing_extensions import TypeVar

from .definition import Definition, StepKind
from .errors import AppError, BadMessage
from .messages import Command, Done, Event, Failure, Message, Unwound, is_boundary, replies_of, type_name
from .nearest import nearest
from .participant import Listener, Participant
from .projection import Projection, shape_of
from .recorded import EventTypes, all_events
from .saga import Saga, definition_of

R = TypeVar("R", default=object)

Resources = Callable[[], AbstractAsyncContextManager[R]]


class App(Generic[R]):
    """The sagas, participants and listeners that one daemon hosts; `App[Services]` if its resources are Services.

    sagas          name -> Definition, child sagas included
    participants   wire type of a command -> who carries it out here
    listeners      name -> Listener
    projections    name -> Projection class
    routes         wire type of an event -> for each saga that takes it (its name, the field that holds the key)
    listening      wire type of an event -> names of the listeners that take it
    event_types    wire type -> class, of every event that is taken or published here; replies are not among them
    published      wire types of the events that sagas and listeners here publish
    types          wire type -> class, of every message
    """

    @overload
    def __init__(
        self: App[object],
        name: str,
        *,
        sagas: Sequence[type[Saga]] = (),
        participants: Sequence[Participant[object]] = (),
        listeners: Sequence[Listener[object]] = (),
        projections: Sequence[type[Projection]] = (),
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        *,
        sagas: Sequence[type[Saga]] = (),
        participants: Sequence[Participant[R]] = (),
        listeners: Sequence[Listener[R]] = (),
        projections: Sequence[type[Projection]] = (),
        resources: Resources[R],
    ) -> None: ...
    def __init__(
        self,
        name: str,
        *,
        sagas: Sequence[type[Saga]] = (),
        participants: Sequence[Participant[Any]] = (),
        listeners: Sequence[Listener[Any]] = (),
        projections: Sequence[type[Projection]] = (),
        resources: Resources[Any] | None = None,
    ) -> None:
        """Put them together. `resources` is called without arguments and gives an async context manager (a function
        under `contextlib.asynccontextmanager`); only a daemon enters it, once, and hands what it gives to every
        participant and listener. Child sagas need not be listed.

        Errors: AppError, if two things go by one name, a command has two participants, or a participant wants
        resources and there are none.
        """
        if not name:
            raise AppError("an app needs a name: App('shop', ...)")
        self.name = name
        self.sagas = _sagas(name, sagas)
        self.participants = _participants(name, participants)
        self.listeners = _listeners(name, listeners)
        self.projections = _projections(name, projections)
        if resources is None:
            _check_no_resources(name, (*participants, *listeners))
        self.resources: Resources[R] = cast("Resources[R]", resources or nullcontext)
        self.routes = _routes(self.sagas.values())
        self.listening = _listening(self.listeners.values())
        self.types = _types(self)
        self.event_types = _event_types(self)
        self.published = _published(self)
        self._classes = EventTypes(self.event_types)

    def is_boundary(self, wire_type: str) -> bool:
        """Whether events of this type are published to the outside: as its class says, of this app or defined here."""
        try:
            return is_boundary(self._classes.find(wire_type))
        except BadMessage:
            return False

    def boundary_types(self) -> list[str]:
        """The wire types of all boundary events that are defined here."""
        return sorted({type_name(cls) for cls in all_events() if is_boundary(cls)})

    def missing_participants(self) -> tuple[type[Command[Any, Any]], ...]:
        """The commands that a saga here sends and no participant here carries out: another service must."""
        return tuple(
            command
            for definition in self.sagas.values()
            for command in _commands(definition.types.values())
            if type_name(command) not in self.participants
        )

    def sagas_only(self) -> App[object]:
        """The same sagas and projections; participants and listeners are in other processes."""
        return App(
            self.name,
            sagas=[definition.cls for definition in self.sagas.values()],
            projections=list(self.projections.values()),
        )

    def work_only(self) -> App[R]:
        """The same participants and listeners; sagas are in other processes."""
        return App(
            self.name,
            participants=list(dict.fromkeys(self.participants.values())),
            listeners=list(self.listeners.values()),
            resources=self.resources,
        )

    def __repr__(self) -> str:
        return f"<app {self.name}: {', '.join(self.sagas) or 'no sagas'}>"


def _sagas(app: str, classes: Sequence[type[Saga]]) -> dict[str, Definition]:
    found: dict[str, Definition] = {}
    pending: list[Any] = list(classes)
    while pending:
        cls = pending.pop(0)
        if not (isinstance(cls, type) and issubclass(cls, Saga)):
            raise AppError(f"app {app}: {cls!r} among its sagas is no Saga class")
        definition = definition_of(cls)
        known = found.setdefault(definition.name, definition)
        if known.cls is not cls:
            raise AppError(
                f"app {app}: {_place(known.cls)} and {_place(cls)} are both called {definition.name}: rename one"
            )
        if known is definition:
            pending += [child for child in _children(definition) if child not in (d.cls for d in found.values())]
    return found


def _children(definition: Definition) -> list[type]:
    return [cls for step in definition.steps.values() if step.kind is StepKind.CHILD for cls in step.sends]


def _participants(app: str, given: Sequence[Participant[Any]]) -> dict[str, Participant[Any]]:
    found: dict[str, Participant[Any]] = {}
    for participant in given:
        if not isinstance(participant, Participant):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise AppError(f"app {app}: {_named(participant)} among its participants is none: put @participant over it")
        for command in participant.commands:
            other = found.setdefault(type_name(command), participant)
            if other is not participant:
                raise AppError(
                    f"app {app}: {other.name} and {participant.name} both carry out {type_name(command)}: keep one"
                )
    return found


def _listeners(app: str, given: Sequence[Listener[Any]]) -> dict[str, Listener[Any]]:
    found: dict[str, Listener[Any]] = {}
    for listener in given:
        if not isinstance(listener, Listener):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise AppError(f"app {app}: {_named(listener)} among its listeners is none: put @listener over it")
        if found.setdefault(listener.name, listener) is not listener:
            raise AppError(f"app {app}: two listeners are called {listener.name}: rename one")
    return found


def _projections(app: str, given: Sequence[type[Projection]]) -> dict[str, type[Projection]]:
    found: dict[str, type[Projection]] = {}
    folded: dict[str, str] = {}  # some file systems do not tell capitals apart
    for projection in given:
        if not (isinstance(projection, type) and issubclass(projection, Projection)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise AppError(f"app {app}: {projection!r} among its projections is no Projection class")
        name = shape_of(projection).name
        if folded.setdefault(name.casefold(), name) != name or found.setdefault(name, projection) is not projection:
            raise AppError(f"app {app}: two projections are called {name}: rename one")
    return found


def _check_no_resources(app: str, functions: Iterable[Participant[Any] | Listener[Any]]) -> None:
    for function in functions:
        if function.resources not in (object, Any, None, type(None)):
            wanted = getattr(function.resources, "__name__", str(function.resources))
            raise AppError(f"app {app}: {function.name} wants {wanted} as its resources: give App(..., resources=...)")


def _routes(definitions: Iterable[Definition]) -> dict[str, tuple[tuple[str, str], ...]]:
    found: dict[str, tuple[tuple[str, str], ...]] = {}
    for definition in definitions:
        for wire_type, fields in definition.routes.items():
            found[wire_type] = found.get(wire_type, ()) + tuple((definition.name, field) for field in fields)
    return found


def _listening(listeners: Iterable[Listener[Any]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for listener in listeners:
        for event in listener.events:
            found[type_name(event)] = (*found.get(type_name(event), ()), listener.name)
    return found


def _types(app: App[Any]) -> dict[str, type[Message]]:
    found: dict[str, type[Message]] = {}
    for cls in _all_messages(app):
        other = found.setdefault(type_name(cls), cls)
        if other is not cls:
            raise AppError(
                f"app {app.name}: {_place(other)} and {_place(cls)} have the same wire type {type_name(cls)}: "
                f'rename one, or give it another: class {cls.__name__}(..., type="...")'
            )
    return found


def _all_messages(app: App[Any]) -> Iterable[type[Message]]:
    yield from (Done, Failure, Unwound)
    for definition in app.sagas.values():
        yield from (cls for cls in definition.types.values() if issubclass(cls, Message))  # a child saga is no message
    for participant in app.participants.values():
        for command in participant.commands:
            yes, no = replies_of(command)
            yield from (command, *yes, *no)
    for listener in app.listeners.values():
        yield from (*listener.events, *listener.publishes)
    for projection in app.projections.values():
        yield from shape_of(projection).events


def _event_types(app: App[Any]) -> dict[str, type[Event]]:
    replies: set[type] = {Done}
    for command in _commands(app.types.values()):
        replies |= set(replies_of(command)[0])
    told = {cls for listener in app.listeners.values() for cls in listener.publishes}
    return {
        wire_type: cls
        for wire_type, cls in app.types.items()
        if issubclass(cls, Event)
        and (wire_type in app.routes or wire_type in app.listening or cls in told or cls not in replies)
    }


def _published(app: App[Any]) -> frozenset[str]:
    told: list[type] = [cls for listener in app.listeners.values() for cls in listener.publishes]
    for definition in app.sagas.values():
        for step in definition.steps.values():
            if step.kind is StepKind.PUBLISH:
                told += [*step.sends, *(step.compensate.types if step.compensate is not None else ())]
    return frozenset(type_name(cls) for cls in told if issubclass(cls, Event))


def _commands(classes: Iterable[type]) -> list[type[Command[Any, Any]]]:
    return [cast("type[Command[Any, Any]]", cls) for cls in classes if issubclass(cls, Command)]  # type: ignore[redundant-cast]


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _named(thing: object) -> str:
    return str(getattr(thing, "__name__", repr(thing)))


def load_app(spec: str, directory: Path | None = None) -> App[Any]:
    """The app that "module:attribute" or "file.py:attribute" names; the default attribute is `app`.

    Modules are looked for in `directory` first (default: the current one), files relative to it; a file is imported
    under its own name, or, within a package, under its dotted one, and once. The directory stays on the import path.
    Errors: AppError, saying what was looked for and what is there; if the import fails, its text is the traceback of
    the user's own code.
    """
    place, _, attribute = _split(spec)
    if not place:
        raise AppError("no app is given: name one as `module:attribute` or `file.py:attribute`")
    return _app_of(_module(place, directory), attribute or "app")


def load_object(spec: str, directory: Path | None = None) -> Any:
    """What "module:attribute" or "file.py:attribute" names, found like an app. Errors: AppError."""
    place, _, attribute = _split(spec)
    if not place or not attribute:
        raise AppError(f"{spec!r} is not `module:attribute` or `file.py:attribute`")
    module = _module(place, directory)
    if not hasattr(module, attribute):
        raise AppError(f"{module.__name__} has no {attribute!r}{_near(attribute, vars(module))}")
    return getattr(module, attribute)


def _module(place: str, directory: Path | None) -> ModuleType:
    directory = (directory or Path.cwd()).absolute()
    if place.endswith(".py") or os.sep in place:
        return _load_file(_path(place, directory), directory)
    return _load_module(place, directory)


def _split(spec: str) -> tuple[str, str, str]:
    place, colon, attribute = spec.strip().rpartition(":")
    return (place, colon, attribute) if colon else (attribute, "", "")


def _path(place: str, directory: Path) -> Path:
    """The file that a text names. Errors: AppError, if it is none that could be."""
    try:
        path = (directory / Path(place).expanduser()).resolve()
        path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long; a NUL; the ~ of nobody
        raise AppError(f"{place!r} names no file: {error}") from None
    return path


def _load_file(path: Path, directory: Path) -> ModuleType:
    if not path.is_file():
        raise AppError(f"there is no file {path}{_near(path.name, _python_files(path.parent))}")
    root, name = path.parent, path.stem
    while (root / "__init__.py").is_file():
        root, name = root.parent, f"{root.name}.{name}"
    _put_first(directory)
    _put_first(root)
    module = _imported(name)
    found = getattr(module, "__file__", None)
    if found is None or Path(found).resolve() != path:
        raise AppError(f"{path} cannot be imported as {name!r}, which is {found or 'built in'}: rename the file")
    return module


def _load_module(name: str, directory: Path) -> ModuleType:
    _put_first(directory)
    return _imported(name)


def _put_first(directory: Path) -> None:
    entry = str(directory)
    if sys.path[:1] != [entry]:
        if entry in sys.path:
            sys.path.remove(entry)
        sys.path.insert(0, entry)
        importlib.invalidate_caches()


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise AppError(_not_found(name, error.name)) from None
        raise AppError(_own_traceback(error)) from None
    except AppError as error:
        raise AppError(_own_traceback(error)) from None
    except (Exception, SystemExit) as error:
        raise AppError(_own_traceback(error)) from error


def _not_found(name: str, missing: str) -> str:
    parent, _, last = missing.rpartition(".")
    if parent and not hasattr(sys.modules.get(parent), "__path__"):
        return f"there is no module {name!r}: {parent} is not a package; write `{parent}:attribute` for what is in it"
    if parent:
        siblings = [m.name for m in pkgutil.iter_modules(sys.modules[parent].__path__)]
        return f"there is no module {name!r} in the package {parent}{_near(last, siblings)}"
    here = [m.name for m in pkgutil.iter_modules([sys.path[0]])]
    return f"there is no module {name!r}, looked for in {sys.path[0]} and where Python's are{_near(last, here)}"


def _near(name: str, names: Iterable[str]) -> str:
    near = nearest(name, names, most=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _python_files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.py")) if directory.is_dir() else []


def _own_traceback(error: BaseException) -> str:
    """What the user's code raised, without the frames of this library and of the import machinery around it."""
    tb: TracebackType | None = error.__traceback__
    while tb is not None and not _is_users(tb):
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(error), error, _without_tail(tb))).rstrip()


def _without_tail(tb: TracebackType | None) -> TracebackType | None:
    frames: list[TracebackType] = []
    while tb is not None:
        frames.append(tb)
        tb = tb.tb_next
    while frames and not _is_users(frames[-1]):
        frames.pop()
    rest: TracebackType | None = None
    for frame in reversed(frames):
        rest = TracebackType(rest, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return rest


def _is_users(tb: TracebackType) -> bool:
    file = tb.tb_frame.f_code.co_filename
    return not file.startswith(("<frozen importlib", os.path.dirname(__file__) + os.sep, importlib.__file__))


def _app_of(module: ModuleType, attribute: str) -> App[Any]:
    found = getattr(module, attribute, None)
    if isinstance(found, App):
        return cast("App[Any]", found)  # type: ignore[redundant-cast]  # pyright: its resources are unknown
    apps = [name for name, value in vars(module).items() if isinstance(value, App)]
    there = f"its apps are {', '.join(apps)}" if apps else "it has none: write app = App('name', sagas=[...])"
    if not hasattr(module, attribute):
        raise AppError(f"{module.__name__} has no {attribute!r}; {there}")
    raise AppError(f"{attribute!r} of {module.__name__} is {type(found).__name__}, not an App; {there}")
