"""An aggregate: its state as fields, methods that decide and record events, and what each event does to the state."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, cast

import msgspec
import msgspec.inspect as mi
from msgspec import Struct, StructMeta
from typing_extensions import dataclass_transform

from .errors import DefinitionError, OrchestratorError
from .fields import check_storable, type_errors_of
from .hints import members, names_at_class_statement, resolve, resolve_fields, shown
from .messages import Event
from .recorded import by_wire_type

A = TypeVar("A", bound="Aggregate")
E = TypeVar("E", bound=Event)

Handler = Callable[[Any, Any], None]


def apply(method: Callable[[A, E], None]) -> Callable[[A, E], None]:
    """A method of an aggregate that says what an event does to its state, found by the annotation of its parameter, one
    Event class or a union. It decides nothing and refuses nothing: what it is told has happened.
    """
    if not inspect.isfunction(method) or inspect.iscoroutinefunction(method):
        raise DefinitionError(f"@apply stands over {shown(method)}: put it over a plain `def` of an Aggregate")
    method.__dict__[_MARK] = True
    return method


_MARK = "__applies__"
_OURS = frozenset({"id", "version", "recorded", "record", "new", "folded", "stream_of"})


class Kind(Struct, frozen=True):
    """What a class of aggregates is: the name its streams begin with, its version, and its handlers by event class."""

    name: str
    version: int
    handlers: Mapping[type[Event], Handler]

    def shape(self, cls: type) -> str:
        """Changes with the class's version, and when its fields do: a snapshot of another shape is of no use."""
        info = mi.type_info(cls)
        assert isinstance(info, mi.StructType)
        fields = repr([(field.encode_name, field.type) for field in info.fields])
        return f"{self.version}.{zlib.crc32(fields.encode()):08x}"


class _Acting:
    """What all aggregates do. Beside their fields they have an id, a version, and events that are not stored yet."""

    __slots__ = ()

    if TYPE_CHECKING:
        __kind__: ClassVar[Kind]
        __dict__: dict[str, Any]

    @classmethod
    def new(cls, id: str) -> Self:
        """One to which nothing has happened yet."""
        self = cls()
        self.__dict__.update(id=id, version=0, recorded=())
        return self

    @classmethod
    def folded(cls, id: str, events: Iterable[Event]) -> Self:
        """One to which these events have happened, and are stored: a test begins with it.

        Errors: OrchestratorError, for an event without `@apply`.
        """
        self = cls.new(id)
        for event in events:
            self._fold(event)
        return self

    @classmethod
    def stream_of(cls, id: str) -> str:
        """The name of its stream."""
        return f"{cls.__kind__.name}-{id}"

    @property
    def id(self) -> str:
        """What it is called among its kind."""
        return str(self._of_its_own("id"))

    @property
    def version(self) -> int:
        """How many events have happened to it, those not stored yet included."""
        return int(self._of_its_own("version"))

    @property
    def recorded(self) -> tuple[Event, ...]:
        """The events that are not stored yet, oldest first."""
        recorded: tuple[Event, ...] = self._of_its_own("recorded")
        return recorded

    def record(self, event: Event) -> None:
        """Say that something has happened: it is applied at once, and stored when the aggregate is saved.

        Errors: OrchestratorError, for an event without `@apply`.
        """
        recorded = self.recorded
        self._fold(event)
        self.__dict__["recorded"] = (*recorded, event)

    def _fold(self, event: Event) -> None:
        handler = self.__kind__.handlers.get(type(event))
        if handler is None:
            raise OrchestratorError(
                f"{type(self).__name__} has no @apply for {type(event).__name__}: write one, with `pass` if it changes "
                "nothing"
            )
        handler(self, event)
        self.__dict__["version"] += 1

    def _of_its_own(self, name: str) -> Any:
        try:
            return self.__dict__[name]
        except KeyError:
            cls = type(self).__name__
            raise OrchestratorError(f"this {cls} has no {name}: make it by {cls}.new(id), not {cls}()") from None


class AggregateMeta(StructMeta):
    """Takes the class keywords of an aggregate, and finds its handlers."""

    def __new__(
        mcls,
        cls_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        name: str = "",
        version: int = 1,
        **config: Any,
    ) -> Any:
        """Make the class."""
        local_names = names_at_class_statement()
        namespace = dict(namespace)
        resolve_fields(namespace, local_names)
        with type_errors_of(cls_name):
            cls: Any = super().__new__(mcls, cls_name, bases, namespace, kw_only=True, **config)
        if cls_name != "Aggregate" or bases[:1] != (Struct,):
            _check(cls, namespace)
            handlers = {**_inherited(cls), **_handlers(cls, namespace, local_names)}
            cls.__kind__ = Kind(name or cls_name, version, handlers)
        return cls


if TYPE_CHECKING:

    @dataclass_transform(kw_only_default=True)
    class Aggregate(_Acting):
        """The base of all aggregates."""

        def __init_subclass__(cls, *, name: str = "", version: int = 1) -> None: ...

else:

    class Aggregate(Struct, _Acting, metaclass=AggregateMeta, dict=True):
        """The base of all aggregates: fields are the state, each with what it is before the first event; methods decide
        and `record` events; methods under `@apply` say what an event does to the state.

            class Account(Aggregate):
                balance: int = 0

                def withdraw(self, amount: int) -> None:
                    if amount > self.balance:
                        raise TooLittle(self.balance)
                    self.record(Withdrawn(amount))

                @apply
                def withdrawn(self, event: Withdrawn) -> None:
                    self.balance -= event.amount

        name     what its streams begin with: `Account-42` (default: the class's name)
        version  of its state, from 1: raise it when an `@apply` does something else than before, so that snapshots
                 made before are not used any more. A change of its fields need not be said.

        A test needs no store: `Account.folded("42", [Deposited(5)])`, then a method, then look at `recorded`.
        Errors: DefinitionError, at import, for a class that cannot be right.
        """


_NO_KIND = Kind("", 1, {})


def _check(cls: Any, namespace: Mapping[str, Any]) -> None:
    for name in sorted(_OURS.intersection([*namespace, *namespace.get("__annotations__", {})])):
        raise DefinitionError(f"{cls.__name__}.{name}: every aggregate has {name} already, choose another name")
    for field in msgspec.structs.fields(cls):
        if field.required:
            raise DefinitionError(f"{cls.__name__}.{field.name} has no default: say what it is before the first event")
    check_storable(cls)


def _inherited(cls: Any) -> dict[type[Event], Handler]:
    """The handlers of the bases, those that a subclass overrides in its form."""
    found: dict[type[Event], Handler] = {}
    for base in reversed(cls.__mro__[1:]):
        kind: Kind = base.__dict__.get("__kind__", _NO_KIND)
        for event, handler in kind.handlers.items():
            found[event] = getattr(cls, handler.__name__, handler)
    return found


def _handlers(cls: Any, namespace: Mapping[str, Any], local_names: Mapping[str, Any]) -> dict[type[Event], Handler]:
    found: dict[type[Event], Handler] = {}
    for name, method in namespace.items():
        if not (inspect.isfunction(method) and _MARK in method.__dict__):
            continue
        for event in _events(f"{cls.__name__}.{name}", method, local_names):
            if event in found:
                raise DefinitionError(
                    f"{cls.__name__}: {found[event].__name__} and {name} both apply {event.__name__}: keep one"
                )
            found[event] = method
    with type_errors_of(cls.__name__):
        by_wire_type(found)
    return found


def _events(where: str, method: Callable[..., Any], local_names: Mapping[str, Any]) -> tuple[type[Event], ...]:
    parameters = list(inspect.signature(method).parameters.values())
    if len(parameters) != 2:
        raise DefinitionError(f"{where} under @apply takes {len(parameters) - 1} parameters: it takes the event alone")
    annotation = parameters[1].annotation
    if annotation is inspect.Parameter.empty:
        raise DefinitionError(f"{where} does not say which event it applies: annotate its parameter")
    try:
        events = members(resolve(annotation, method.__globals__, local_names))
    except NameError as error:
        raise DefinitionError(f"{where} applies what is not defined before it ({error}): define or import it") from None
    for event in events:
        if not (isinstance(event, type) and issubclass(event, Event)) or event is Event:
            raise DefinitionError(f"{where} applies {shown(event)}, which is no Event class: annotate it with one")
    return cast("tuple[type[Event], ...]", events)
