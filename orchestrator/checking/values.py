"""Example values from types: what a message might hold, every small alternative once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import msgspec
import msgspec.inspect as mi

from ..codec import Secret, encode
from ..errors import BadMessage, DefinitionError

MAX_ALTERNATIVES = 8  # of one class: how many values of it are tried

Examples = Mapping[type, Sequence[Any]]


class Values:
    """Values of a class by its fields' types, or the user's own examples of it."""

    def __init__(self, examples: Examples | None = None) -> None:
        """`examples`: class -> values to take instead of made ones, also where it is a field of another class."""
        self._examples = dict(examples or {})
        self._made: dict[type, tuple[Any, ...]] = {}
        self._within: list[type] = []

    def of(self, cls: type) -> tuple[Any, ...]:
        """The values to try of a class, the plainest first: one more for each alternative of a bool, an Enum, a
        Literal, a union.

        Errors: DefinitionError when none can be made.
        """
        if cls not in self._made:
            self._made[cls] = tuple(self._alternatives(mi.type_info(cls), cls.__name__, 1))
            _check(cls, self._made[cls])
        return self._made[cls]

    def _alternatives(self, part: mi.Type, name: str, number: int) -> list[Any]:
        """`name` and `number` tell plain values apart, so that two elements of a list differ."""
        if isinstance(part, mi.Metadata):
            return self._alternatives(part.type, name, number)
        if isinstance(part, mi.StructType | mi.DataclassType | mi.NamedTupleType):
            return self._of_class(part, number)
        if isinstance(part, mi.UnionType):
            return self._of_union(part, name, number)
        if isinstance(part, mi.EnumType):
            return list(part.cls)
        if isinstance(part, mi.LiteralType):
            return list(part.values)
        if isinstance(part, mi.BoolType):
            return [False, True]
        return [self._plain(part, name, number)]

    def _of_class(self, part: mi.StructType | mi.DataclassType | mi.NamedTupleType, number: int) -> list[Any]:
        if part.cls in self._examples:
            return list(self._examples[part.cls])
        self._within.append(part.cls)
        choices = {field.name: self._of_field(field, number) for field in part.fields}
        self._within.pop()
        return [part.cls(**values) for values in _one_at_a_time(choices)][:MAX_ALTERNATIVES]

    def _of_field(self, field: mi.Field, number: int) -> list[Any]:
        made = self._alternatives(field.type, field.name, number)
        default = _default(field)
        if default is msgspec.NODEFAULT or default in ((), frozenset(), [], {}):
            return made
        return [default, *(value for value in made if value != default)] if len(made) > 1 else [default]

    def _of_union(self, part: mi.UnionType, name: str, number: int) -> list[Any]:
        """A value of each member, None last; a class that is being made already only if there is no other."""
        members = sorted(part.types, key=lambda member: isinstance(member, mi.NoneType))
        free = [member for member in members if getattr(member, "cls", None) not in self._within]
        return [value for member in free or members for value in self._alternatives(member, name, number)]

    def _plain(self, part: mi.Type, name: str, number: int) -> Any:
        match part:
            case mi.IntType() | mi.FloatType():
                return _number(part, number)
            case mi.StrType():
                return _text(part, f"{name}-{number}")
            case mi.VarTupleType(item_type=item):
                return tuple(self._two(item, name))
            case mi.ListType(item_type=item):
                return self._two(item, name)
            case mi.FrozenSetType(item_type=item):
                return frozenset(self._two(item, name))
            case mi.SetType(item_type=item):
                return set(self._two(item, name))
            case mi.TupleType(item_types=items):
                return tuple(self._first(item, name, number) for item in items)
            case mi.DictType(key_type=key, value_type=value):
                return {self._first(key, name, number): self._first(value, name, number)}
            case mi.CustomType(cls=cls) if getattr(cls, "__origin__", cls) is Secret:
                return Secret(self._inside_of_secret(cls, name, number))
            case _:
                return _of_scalar(part, name, number)

    def _two(self, item: mi.Type, name: str) -> list[Any]:
        return [self._first(item, name, 1), self._alternatives(item, name, 2)[-1]]

    def _first(self, part: mi.Type, name: str, number: int) -> Any:
        return self._alternatives(part, name, number)[0]

    def _inside_of_secret(self, cls: Any, name: str, number: int) -> Any:
        inner = next(iter(getattr(cls, "__args__", ())), str)
        return self._first(mi.type_info(inner), name, number)


def _one_at_a_time(choices: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """The first of each, then every other alternative alone."""
    plain = {name: values[0] for name, values in choices.items()}
    yield plain
    for name, values in choices.items():
        for value in values[1:]:
            yield {**plain, name: value}


def _default(field: mi.Field) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return cast("Callable[[], Any]", field.default_factory)()
    return field.default


def _number(part: mi.IntType | mi.FloatType, number: int) -> Any:
    value: float = number
    if part.multiple_of:
        value = part.multiple_of * number
    step = part.multiple_of or 1
    if part.ge is not None and value < part.ge:
        value = part.ge
    if part.gt is not None and value <= part.gt:
        value = part.gt + step
    if part.le is not None and value > part.le:
        value = part.le
    if part.lt is not None and value >= part.lt:
        value = part.lt - step
    return int(value) if isinstance(part, mi.IntType) else float(value)


def _text(part: mi.StrType, text: str) -> str:
    return text.ljust(part.min_length or 0, "x")[: part.max_length]


def _of_scalar(part: mi.Type, name: str, number: int) -> Any:
    for kind, make in _SCALARS.items():
        if isinstance(part, kind):
            return make(number)
    raise DefinitionError(f"no example of {name} can be made: give some with examples={{TheClass: [...]}}")


_SCALARS: dict[type[mi.Type], Callable[[int], Any]] = {
    mi.DecimalType: lambda number: Decimal(number),
    mi.DateTimeType: lambda number: datetime(2026, 1, number, tzinfo=UTC),
    mi.DateType: lambda number: date(2026, 1, number),
    mi.TimeType: lambda number: time(number),
    mi.TimeDeltaType: lambda number: timedelta(hours=number),
    mi.UUIDType: lambda number: UUID(int=number),
    mi.BytesType: lambda number: b"x" * number,
    mi.NoneType: lambda number: None,
    mi.AnyType: lambda number: number,
}


def _check(cls: type, values: Sequence[Any]) -> None:
    for value in values:
        try:
            encode(value)
        except BadMessage as error:
            raise DefinitionError(
                f"no example of {cls.__name__} can be made ({error}): give some, examples={{{cls.__name__}: [...]}}"
            ) from error
