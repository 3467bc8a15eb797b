"""Read models: a class with tables, and a function for each type of event that keeps them (`@project`)."""

from __future__ import annotations

import hashlib
import inspect
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any, ClassVar, NoReturn, TypeVar, overload

from msgspec import Struct

from .errors import BadMessage, DefinitionError
from .hints import members, resolve, shown
from .messages import Event
from .recorded import EventTypes, Recorded, by_wire_type

P = TypeVar("P", bound="Projection")
E = TypeVar("E", bound=Event)

BOOKMARK_TABLE = "orchestrator_projection"  # in the file of every projection, beside its own tables
LONGEST_NAME = 80

_MARK = "__projects__"


class Projection:
    """The base of read models: tables of a SQLite file that hold what the events of the log come to.

        class Funnel(Projection, version=1):
            tables = "CREATE TABLE funnel (month TEXT PRIMARY KEY, submitted INTEGER NOT NULL DEFAULT 0) STRICT"

            @project
            def submitted(self, event: ApplicationSubmitted) -> None:
                self.db.execute("INSERT INTO funnel VALUES (?, 1) ON CONFLICT DO UPDATE SET submitted = submitted + 1",
                                (event.month,))

    Every event reaches its handler once, in the order of the log: what the handlers write is committed together with
    how far it got. Change `version` when the handlers would write other rows for the same events: the tables are
    then made anew from the first event on, beside the old ones, which serve until that is done. A change of `tables`
    or of the types of events does the same by itself.

    tables   SQL that makes them, any number of statements
    db       the connection: for statements on these tables, within a transaction that is not to be ended here
    """

    tables: ClassVar[str] = ""
    __projection__: ClassVar[Shape | None] = None

    def __init__(self, db: sqlite3.Connection) -> None:
        """Made by the daemon, and in tests: over any connection that has the tables."""
        self.db = db

    def __init_subclass__(cls, *, version: int = 1, **keywords: Any) -> None:
        """Read the class. Errors: DefinitionError, with the remedy."""
        super().__init_subclass__(**keywords)
        frame = inspect.currentframe()
        around = dict(frame.f_back.f_locals) if frame is not None and frame.f_back is not None else {}
        cls.__projection__ = _shape(cls, version, around) if cls.tables else None  # without tables a base of others


class Handler(Struct, frozen=True):
    """A function of a projection; `takes_recorded`: it wants the Recorded beside the event."""

    function: Callable[..., None]
    takes_recorded: bool


class Shape(Struct, frozen=True):
    """What is known of a projection class. `digest` is another one when tables or types are others."""

    name: str
    version: int
    statements: tuple[str, ...]
    handlers: dict[str, Handler]  # by wire type
    events: tuple[type[Event], ...]
    types: EventTypes
    digest: str


@overload
def project(handler: Callable[[P, E, Recorded], None]) -> Callable[[P, E, Recorded], None]: ...
@overload
def project(handler: Callable[[P, E], None]) -> Callable[[P, E], None]: ...
def project(handler: Callable[..., None]) -> Callable[..., None]:
    """Make a method of a Projection the one for the event (or the union of events) that its parameter names.

    A plain `def` that writes to `self.db` and returns nothing. A second parameter, if it has one, is the `Recorded`:
    stream, version, position and time of the event.
    """
    setattr(handler, _MARK, True)
    return handler


def shape_of(cls: type[Projection]) -> Shape:
    """What is known of the class. Errors: DefinitionError, if it is only a base of projections."""
    shape = cls.__projection__
    if shape is None:
        _fail(cls, 'has no tables: write tables = "CREATE TABLE ..."')
    return shape


def _shape(cls: type[Projection], version: int, around: Mapping[str, Any]) -> Shape:
    if version < 1:
        _fail(cls, f"has version={version}: versions are counted from 1")
    if len(cls.__name__) > LONGEST_NAME:
        _fail(cls, f"has a name of more than {LONGEST_NAME} characters, which is that of its file too")
    statements = tuple(_statements(cls))
    handlers: dict[str, Handler] = {}
    classes: dict[str, type[Event]] = {}
    for name, function in _marked(cls):
        types, handler = _handler(cls, name, function, around)
        for wire_type, event in types.items():
            if wire_type in handlers:
                _fail(cls, f"has two handlers for {wire_type}, {handlers[wire_type].function.__name__} and {name}")
            handlers[wire_type] = handler
            classes[wire_type] = event
    if not handlers:
        _fail(cls, "handles no event: put @project over a method")
    said = "\n".join((*(" ".join(each.split()) for each in statements), "", *sorted(handlers)))
    return Shape(
        name=cls.__name__,
        version=version,
        statements=statements,
        handlers=handlers,
        events=tuple(classes.values()),
        types=EventTypes(classes, only=True),
        digest=hashlib.sha256(said.encode()).hexdigest()[:16],
    )


def _marked(cls: type[Projection]) -> Iterator[tuple[str, Callable[..., None]]]:
    """The handlers, those of its bases first; one that a subclass defines again counts as it is there."""
    names = dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base))
    for name in names:
        value = inspect.getattr_static(cls, name, None)
        if hasattr(value, _MARK):
            yield name, value


def _handler(
    cls: type[Projection], name: str, function: Callable[..., None], around: Mapping[str, Any]
) -> tuple[dict[str, type[Event]], Handler]:
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        _fail(cls, f"has an async or yielding {name}: write a plain def; it runs in a thread, within a transaction")
    parameters = list(inspect.signature(function).parameters.values())[1:]
    if not 1 <= len(parameters) <= 2 or any(it.kind is not it.POSITIONAL_OR_KEYWORD for it in parameters):
        _fail(cls, f"has a {name} of {len(parameters)} parameters: it takes an event and, if it likes, `at: Recorded`")
    hints = _hints(cls, name, function, around)
    event = parameters[0].name
    found = members(hints.get(event))
    for each in found:
        if not (isinstance(each, type) and issubclass(each, Event)) or each is Event:
            _fail(cls, f"has a {name} that takes {event}: {shown(each)}: annotate it with an Event class, or a union")
    if len(parameters) == 2 and hints.get(parameters[1].name) is not Recorded:
        _fail(cls, f"has a {name} with a second parameter that is no Recorded: annotate it so")
    if hints.get("return", ...) not in (None, type(None)):
        _fail(cls, f"has a {name} that does not say `-> None`: it writes to self.db and returns nothing")
    try:
        return by_wire_type(found), Handler(function, len(parameters) == 2)
    except BadMessage as error:
        _fail(cls, f"has a {name} for two types of one name: {error}")


def _hints(
    cls: type[Projection], name: str, function: Callable[..., None], around: Mapping[str, Any]
) -> dict[str, Any]:
    global_names = vars(sys.modules[function.__module__])
    try:
        return {key: resolve(value, global_names, around) for key, value in function.__annotations__.items()}
    except NameError as error:
        _fail(cls, f"has a {name} with an annotation that is not defined before it ({error}): import it above")


def _statements(cls: type[Projection]) -> Iterator[str]:
    """The statements of `tables`, each tried."""
    with closing(sqlite3.connect(":memory:")) as trial:
        statement = ""
        for part in cls.tables.replace(";", ";\0").split("\0"):
            statement += part
            if not sqlite3.complete_statement(statement) and statement.strip():
                continue
            if statement.strip():
                yield _tried(cls, trial, statement)
            statement = ""
        if statement.strip():
            yield _tried(cls, trial, statement)
        if trial.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (BOOKMARK_TABLE,)).fetchone():
            _fail(cls, f"has a table called {BOOKMARK_TABLE}: that name is taken")


def _tried(cls: type[Projection], trial: sqlite3.Connection, statement: str) -> str:
    try:
        trial.execute(statement)
    except sqlite3.Error as error:
        _fail(cls, f"has tables that SQLite does not make: {error}, in {' '.join(statement.split())}")
    return statement.strip().removesuffix(";")


def _fail(cls: type[Projection], what: str) -> NoReturn:
    raise DefinitionError(f"projection {cls.__name__} {what}")
