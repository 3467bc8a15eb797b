"""A saga: its state as fields, its steps as methods, read and checked when the class is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Raw, Struct, StructMeta
from typing_extensions import dataclass_transform

from . import codec
from .defining.body import Namespace, check_names, inherited_body, read_body
from .defining.define import Keywords, define
from .definition import Definition, definition_of
from .errors import BadMessage
from .fields import type_errors_of
from .hints import names_at_class_statement, resolve_fields
from .messages import Event
from .steps import (
    Child,
    Compensate,
    Finish,
    Goto,
    Stay,
    Step,
    Wait,
    days,
    hours,
    migrate,
    minutes,
    on,
    seconds,
    start,
    step,
)

__all__ = [
    "Child",
    "Compensate",
    "Finish",
    "Goto",
    "Saga",
    "Stay",
    "Step",
    "Wait",
    "days",
    "decode_state",
    "definition_of",
    "encode_state",
    "hours",
    "migrate",
    "migrated",
    "minutes",
    "on",
    "seconds",
    "start",
    "step",
]


class SagaMeta(StructMeta):
    """Takes the class keywords of a saga, reads its body and binds its definition."""

    @classmethod
    def __prepare__(mcls, name: str, bases: tuple[type, ...], /, **keywords: Any) -> Namespace:
        """The body notices what would be lost."""
        return Namespace(name)

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        key: str = "",
        starts: type[Event] | tuple[type[Event], ...] = (),
        version: int = 1,
        deadline: float | None = None,
        restartable: bool = False,
    ) -> Any:
        """Make the class; without `key` it is a base for others."""
        local_names = names_at_class_statement()
        namespace = dict(namespace)
        resolve_fields(namespace, local_names)
        with type_errors_of(name):
            cls: Any = super().__new__(mcls, name, bases, namespace, kw_only=True)
        inherited = inherited_body(cls)
        check_names(cls, namespace, inherited)
        cls.__body__ = read_body(name, namespace, local_names)
        if key:
            starts = starts if isinstance(starts, tuple) else (starts,)
            keywords = Keywords(key, starts, version, deadline, restartable)
            cls.__definition__ = define(cls, cls.__body__.over(inherited), keywords)
        return cls


if TYPE_CHECKING:

    @dataclass_transform(kw_only_default=True)
    class Saga:
        """The base of all sagas."""

        def __init_subclass__(
            cls,
            *,
            key: str = "",
            starts: type[Event] | tuple[type[Event], ...] = (),
            version: int = 1,
            deadline: float | None = None,
            restartable: bool = False,
        ) -> None: ...

else:

    class Saga(Struct, metaclass=SagaMeta):
        """The base of all sagas: fields are the stored state, given by name; methods under `@step` are its steps.

        key          the field by which events find their instance. Without it the class is a base for other sagas.
        starts       the event or events that start an instance; fields of the same name are copied from it.
        version      of the stored state, from 1; `@migrate` lifts older ones (R18).
        deadline     seconds from the start after which forward work stops and all is undone.
        restartable  whether a key that ended may start again (R13).

        Errors: DefinitionError, at import, for a class that cannot be right.
        """


def encode_state(saga: Saga) -> bytes:
    """The JSON of a saga's fields. Errors: BadMessage, if a field holds what could not be read back."""
    return codec.encode(saga)


def decode_state(definition: Definition, data: bytes | Raw) -> Any:
    """The saga that `data`, of the definition's version, holds. Errors: BadMessage, naming the field."""
    cls: type[Any] = definition.cls
    return codec.decode(cls, data, definition.name)


def migrated(definition: Definition, data: bytes | Raw, from_version: int) -> bytes:
    """A stored state, lifted step by step from that version to the definition's (R18).

    Errors: BadMessage, if a migration is missing, raises, or what comes out is no state of the present class.
    """
    if from_version > definition.version:
        raise BadMessage(f"{definition.name}: version {from_version} is newer than this code's, {definition.version}")
    state = codec.decode(dict[str, Any], data, definition.name)
    for version in range(from_version, definition.version):
        migration = definition.migrations.get(version)
        if migration is None:
            raise BadMessage(f"{definition.name}: there is no @migrate(from_version={version})")
        state = codec.lifted(definition.name, migration, state)
    return encode_state(decode_state(definition, codec.encode(state)))
