"""What the fields of messages and states may hold: what JSON can carry, and in a message nothing that can change."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, get_origin

import msgspec.inspect as mi

from .codec import Secret
from .errors import DefinitionError


@contextmanager
def type_errors_of(name: str) -> Generator[None]:
    """What msgspec finds wrong with the fields of the class `name`, as a DefinitionError."""
    try:
        yield
    except TypeError as error:
        raise error if isinstance(error, DefinitionError) else DefinitionError(f"{name}: {error}") from error


def check_storable(cls: type) -> None:
    """Errors: DefinitionError for a field that JSON cannot carry; NameError if one names a class still to come."""
    for where, part in _parts_of_fields(cls):
        if isinstance(part, mi.CustomType) and (get_origin(part.cls) or part.cls) is not Secret:
            raise DefinitionError(f"{where} holds a {part.cls.__name__}, which has no JSON form: use a dataclass")
        if isinstance(part, mi.DictType) and not _is_text(part.key_type):
            raise DefinitionError(f"{where} holds a dict with keys that are no texts: use dict[str, X]")


def _is_text(key: mi.Type) -> bool:
    match key:
        case mi.Metadata(type=inner):
            return _is_text(inner)
        case mi.EnumType(cls=cls):
            return issubclass(cls, str)
        case mi.LiteralType(values=values):
            return all(isinstance(value, str) for value in values)
        case _:
            return isinstance(key, mi.StrType | mi.AnyType)


def check_immutable(cls: type) -> None:
    """Errors: DefinitionError for a field that can change in place; NameError if one names a class still to come."""
    for where, part in _parts_of_fields(cls):
        match part:
            case mi.ListType() | mi.DictType() | mi.SetType() | mi.ByteArrayType() | mi.TypedDictType():
                mutable, instead = _MUTABLE[type(part)]
                raise DefinitionError(f"{where} holds a {mutable}, and a message cannot change: use {instead}")
            case mi.StructType(cls=held) if not held.__struct_config__.frozen:
                raise DefinitionError(f"{where} holds a {held.__name__}, which can change: declare it frozen=True")
            case mi.DataclassType(cls=held) if not _is_frozen(held):
                raise DefinitionError(f"{where} holds a {held.__name__}, which can change: use @dataclass(frozen=True)")
            case _:
                continue


def check_public(cls: type) -> None:
    """Errors: DefinitionError for a field that holds a Secret; NameError if one names a class still to come."""
    for where, part in _parts_of_fields(cls):
        if isinstance(part, mi.CustomType):
            raise DefinitionError(f"{where} holds a Secret, and a boundary event is for everybody: leave it out")


_MUTABLE: dict[type[mi.Type], tuple[str, str]] = {
    mi.ListType: ("list", "tuple[X, ...]"),
    mi.DictType: ("dict", "a frozen dataclass or tuple[tuple[K, V], ...]"),
    mi.TypedDictType: ("dict", "a frozen dataclass"),
    mi.SetType: ("set", "frozenset[X]"),
    mi.ByteArrayType: ("bytearray", "bytes"),
}


def _parts_of_fields(cls: type) -> Iterator[tuple[str, mi.Type]]:
    try:
        info = mi.type_info(cls)
    except TypeError as error:
        raise DefinitionError(f"{cls.__name__} has no JSON form: {error}") from error
    assert isinstance(info, mi.StructType)
    for field in info.fields:
        for part in _parts(field.type, {cls}):
            yield f"{cls.__name__}.{field.name}", part


def _parts(part: mi.Type, seen: set[Any]) -> Iterator[mi.Type]:
    """A type and all types within it, each class once."""
    if isinstance(part, mi.StructType | mi.DataclassType | mi.NamedTupleType):
        if part.cls in seen:
            return
        seen.add(part.cls)
    yield part
    for inner in _inner(part):
        yield from _parts(inner, seen)


def _inner(part: mi.Type) -> tuple[mi.Type, ...]:
    match part:
        case mi.StructType(fields=fields) | mi.DataclassType(fields=fields) | mi.NamedTupleType(fields=fields):
            return tuple(field.type for field in fields)
        case mi.UnionType(types=types) | mi.TupleType(item_types=types):
            return types
        case mi.DictType(key_type=key, value_type=value):
            return key, value
        case mi.ListType(item_type=item) | mi.SetType(item_type=item):
            return (item,)
        case mi.VarTupleType(item_type=item) | mi.FrozenSetType(item_type=item):
            return (item,)
        case _:
            return ()


def _is_frozen(cls: type) -> bool:
    return bool(getattr(getattr(cls, "__dataclass_params__", None), "frozen", False))
