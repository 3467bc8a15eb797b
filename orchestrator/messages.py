"""What travels between sagas, participants and listeners: immutable values with a wire type and a version."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Generic, get_args, get_origin

from msgspec import Raw, Struct, StructMeta
from typing_extensions import TypeIs, TypeVar, dataclass_transform

from . import codec
from .codec import Secret as Secret
from .codec import encode as encode
from .errors import BadMessage, DefinitionError
from .fields import check_immutable, check_public, check_storable, type_errors_of
from .hints import members, names_at_class_statement, resolve_fields, shown

_type = type  # which is also a class keyword here
Lift = Callable[[dict[str, Any]], dict[str, Any]]
Replies = tuple[tuple[type["Event"], ...], tuple[type["Refusal"], ...]]


class Wire:
    """What a message class is outside of this process: its type, its version, how older payloads are lifted, and for
    a command the name of the participant that carries it out, if the class says one; for an event whether it is meant
    for the outside.
    """

    __slots__ = ("boundary", "checked", "lifts", "participant", "replies", "type", "version")

    def __init__(self, type: str, version: int, participant: str, boundary: bool) -> None:
        """Of a class whose fields are not checked yet."""
        self.boundary = boundary
        self.type = type
        self.version = version
        self.participant = participant
        self.lifts: dict[int, Lift] = {}
        self.checked = False
        self.replies: Replies | None = None

    def check(self, cls: _type) -> None:
        """Errors: DefinitionError for fields that cannot be; NameError, if one names a class still to come."""
        check_storable(cls)
        check_immutable(cls)
        if self.boundary:
            check_public(cls)
        self.checked = True


class MessageMeta(StructMeta):
    """Takes the class keywords of a message and refuses what could be changed after it was sent."""

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        type: str = "",
        version: int = 1,
        participant: str = "",
        boundary: bool = False,
        **config: Any,
    ) -> Any:
        """Make the class; `type` is its wire type (default: its name), `version` that of its payload, from 1;
        `participant` who carries it out, behind a bus (default: its type); `boundary`: others than us build on it.
        """
        if version < 1:
            raise DefinitionError(f"{name} has version={version}: versions count from 1")
        resolve_fields(namespace, names_at_class_statement())
        namespace["__wire__"] = Wire(type or name, version, participant, boundary)
        with type_errors_of(name):
            cls: Any = super().__new__(mcls, name, bases, namespace, **config)
        if boundary:
            _check_boundary(cls, type)
        if participant and not any(issubclass(base, Command) for base in bases):
            raise DefinitionError(f"{name} has participant={participant!r}: only a Command is carried out by one")
        with suppress(NameError):  # of a class still to come: checked when it is used
            cls.__wire__.check(cls)
        return cls


if TYPE_CHECKING:

    @dataclass_transform(frozen_default=True)
    class Message:
        """The base of all that travels: immutable, comparable, hashable, with positional or named fields."""

        __wire__: ClassVar[Wire]

        def __init_subclass__(cls, *, type: str = "", version: int = 1) -> None: ...

else:

    class Message(Struct, frozen=True, metaclass=MessageMeta):
        """The base of all that travels: immutable, comparable, hashable, with positional or named fields.

        Class keywords: `type` is the wire type (default: the class's name), `version` that of the payload. Fields hold
        what JSON can carry: str, int, float, bool, Decimal, datetime, UUID, Enum, tuple[...], frozenset[...],
        Secret[...] and frozen dataclasses of these. DefinitionError, if a field could be changed after sending.
        """


class Event(Message):
    """A fact, named in the past tense: what a participant answers, what starts or moves a saga, what is published.

    Class keyword, beside those of every message: `boundary=True` for what is published to the outside, to webhooks for
    one. It needs a `type=` of its own, since others build on it, and its fields hold no Secret.
    """

    if TYPE_CHECKING:

        def __init_subclass__(cls, *, type: str = "", version: int = 1, boundary: bool = False) -> None: ...


class Refusal(Message):
    """A reply that says no for a business reason: never retried; without a `.refused` handler the saga compensates."""


class Done(Event):
    """The yes of a command that declares no reply of its own."""


class NeverRefused(Refusal):
    """Stands in a command's type for: this cannot be refused. There is no such message."""


class Unwound(Refusal):
    """The refusal of a child saga: it compensated by itself, for the reason `why`."""

    saga: str
    key: str
    why: str = ""


class Failure(Message):
    """No answer, for a technical reason. `reason` is timeout, error, fatal or killed; `error` the last one's text;
    `attempts` how often it was tried.
    """

    reason: str
    error: str = ""
    attempts: int = 0


R = TypeVar("R", bound=Event, default=Done, covariant=True)
X = TypeVar("X", bound=Refusal, default=NeverRefused, covariant=True)


class Command(Message, Generic[R, X]):
    """A request to a participant: `Command[StockReserved, OutOfStock]` says what may come back, yes and no.

    Either may be a union. Without arguments it is answered by Done and cannot be refused. Class keyword, beside those
    of every message: `participant="warehouse"` names who carries it out behind a bus (default: its wire type).
    """

    if TYPE_CHECKING:

        def __init_subclass__(cls, *, type: str = "", version: int = 1, participant: str = "") -> None: ...


class Query(Command[R, X], Generic[R, X]):
    """A command that promises to change nothing, so there is nothing to undo."""


def is_message(cls: type) -> TypeIs[type[Message]]:
    """Whether it is a class of messages."""
    return issubclass(cls, Message)


def is_command(cls: type) -> TypeIs[type[Command[Any, Any]]]:
    """Whether it is a class of commands, queries among them."""
    return issubclass(cls, Command)


def type_name(cls: type[Message]) -> str:
    """The wire type of a message class."""
    return cls.__wire__.type


def participant_of(cls: type[Command[Any, Any]]) -> str:
    """Who carries out a command, by name: as its class says, or else its wire type."""
    return cls.__wire__.participant or cls.__wire__.type


def is_boundary(cls: type[Message]) -> bool:
    """Whether it is published to the outside."""
    return cls.__wire__.boundary


def type_version(cls: type[Message]) -> int:
    """The payload version a message class writes."""
    return cls.__wire__.version


M = TypeVar("M", bound=Message)


def decode(cls: type[M], data: bytes | Raw, version: int = 1) -> M:
    """The message that `data`, JSON of payload version `version`, holds; older versions are lifted step by step (R18).

    Errors: BadMessage, naming the field's path.
    """
    wire = cls.__wire__
    if not wire.checked:
        wire.check(cls)
    if version != wire.version:
        data = _lifted(wire, data, version)
    return codec.decode(cls, data, wire.type)


def upcast(cls: type[Message], *, from_version: int) -> Callable[[Lift], Lift]:
    """Register a function that turns the payload of version `from_version` of `cls`, a dict, into the next version's.

    Errors: DefinitionError, if the class is not beyond that version or has one already.
    """
    wire = cls.__wire__
    if not 1 <= from_version < wire.version:
        raise DefinitionError(
            f"{cls.__name__} is of version {wire.version}: from_version={from_version} is not before it; "
            f"say class {cls.__name__}(..., version={from_version + 1})"
        )
    if from_version in wire.lifts:
        raise DefinitionError(f"{cls.__name__} has an upcast from_version={from_version} already: remove one")

    def register(lift: Lift) -> Lift:
        wire.lifts[from_version] = lift
        return lift

    return register


def replies_of(command: type[Command[Any, Any]]) -> Replies:
    """What may answer a command: the classes of its yes and of its refusals (none: it cannot be refused).

    Errors: DefinitionError, if what it declares is not that.
    """
    wire = command.__wire__
    if wire.replies is None:
        wire.replies = _replies(command)
    return wire.replies


def _check_boundary(cls: _type, wire_type: str) -> None:
    if not issubclass(cls, Event):
        raise DefinitionError(f"{cls.__name__} has boundary=True: only an Event is published to the outside")
    if not wire_type:
        raise DefinitionError(
            f"{cls.__name__} has boundary=True and no wire type of its own, so that renaming the class would break "
            f'those who take it: say class {cls.__name__}(Event, type="user.registered", boundary=True)'
        )


def _lifted(wire: Wire, data: bytes | Raw, version: int) -> bytes:
    if version > wire.version:
        raise BadMessage(f"{wire.type}: version {version} is newer than this code's, {wire.version}")
    payload = codec.decode(dict[str, Any], data, wire.type)
    for step in range(version, wire.version):
        lift = wire.lifts.get(step)
        if lift is None:
            raise BadMessage(f"{wire.type}: there is no @upcast from version {step}")
        payload = codec.lifted(wire.type, lift, payload)
    return codec.encode(payload)


def _replies(command: type[Command[Any, Any]]) -> Replies:
    yes, no = _declared(command)
    for reply in yes:
        if not (isinstance(reply, type) and issubclass(reply, Event)):
            raise DefinitionError(
                f"{command.__name__} declares {shown(reply)} as its reply: name Event classes there, Refusals second"
            )
    for refusal in no:
        if not (isinstance(refusal, type) and issubclass(refusal, Refusal)):
            raise DefinitionError(
                f"{command.__name__} declares {shown(refusal)} as its refusal: name Refusal classes there"
            )
    return yes, tuple(refusal for refusal in no if refusal is not NeverRefused)


def _declared(command: type[Command[Any, Any]]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    for cls in command.__mro__:
        for base in cls.__dict__.get("__orig_bases__", ()):
            if get_origin(base) in (Command, Query) and cls is not Query:
                yes, no = get_args(base)
                return members(yes), members(no)
    return (Done,), ()
