"""Every kind of field that a message may have, with values of it: classes are made of them as hypothesis likes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from types import new_class
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import msgspec
from hypothesis import strategies as st
from msgspec import Meta, Raw

from orchestrator import Event, Secret


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class LessMood(Enum):
    GOOD = "good"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@dataclass(frozen=True)
class Line:
    """What was ordered, with what belongs to it."""

    product: int
    price: Decimal = Decimal("1.50")
    part: Line | None = None


@dataclass(frozen=True)
class LongerLine:
    product: int
    colour: str
    price: Decimal = Decimal("1.50")
    part: LongerLine | None = None


class Place(NamedTuple):
    shelf: int
    row: str = "a"


class Card(msgspec.Struct, frozen=True, tag="card"):
    number: Secret[str]


class Cash(msgspec.Struct, frozen=True, tag="cash"):
    coins: int


class Pair(msgspec.Struct, frozen=True, array_like=True):
    first: int
    second: str = ""


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    width: int
    height: int = 1


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
whole = st.integers(-(2**70), 2**70)
decimals = st.decimals(allow_nan=False, allow_infinity=False)
floats = st.floats(allow_nan=False, allow_infinity=False)
offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
aware = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC) | offsets)
naive = st.datetimes()
lines: st.SearchStrategy[Line] = st.deferred(lambda: st.builds(Line, whole, decimals, st.none() | lines))

KINDS: dict[Any, st.SearchStrategy[Any]] = {
    str: texts,
    int: whole,
    float: floats,
    bool: st.booleans(),
    bytes: st.binary(max_size=7),
    Decimal: decimals,
    datetime: aware | naive,
    Annotated[datetime, Meta(tz=True)]: aware,
    Annotated[datetime, Meta(tz=False)]: naive,
    date: st.dates(),
    time: st.times(),
    timedelta: st.timedeltas(timedelta(days=-9999), timedelta(days=9999)),
    UUID: st.uuids(),
    Mood: st.sampled_from(Mood),
    LessMood: st.sampled_from(LessMood),
    Level: st.sampled_from(Level),
    Literal["good", "bad"]: st.sampled_from(["good", "bad"]),
    Literal[1, 2, 3]: st.sampled_from([1, 2, 3]),
    Literal[1, "good", None]: st.sampled_from([1, "good", None]),
    Annotated[int, Meta(ge=3, lt=9)]: st.integers(3, 8),
    Annotated[int, Meta(gt=2, le=9)]: st.integers(3, 9),
    Annotated[int, Meta(multiple_of=4)]: st.integers(-9, 9).map(lambda n: 4 * n),
    Annotated[int, Meta(multiple_of=8)]: st.integers(-9, 9).map(lambda n: 8 * n),
    Annotated[int, Meta(multiple_of=6)]: st.integers(-9, 9).map(lambda n: 6 * n),
    Annotated[float, Meta(ge=0)]: st.floats(0, allow_nan=False, allow_infinity=False),
    Annotated[str, Meta(min_length=2, max_length=4)]: st.text("abc", min_size=2, max_size=4),
    Annotated[str, Meta(pattern="^[ab]+$")]: st.text("ab", min_size=1, max_size=4),
    Annotated[bytes, Meta(max_length=4)]: st.binary(max_size=4),
    Annotated[bytes, Meta(max_length=5)]: st.binary(max_size=5),
    Annotated[tuple[int, ...], Meta(max_length=2)]: st.lists(whole, max_size=2).map(tuple),
    tuple[int, str]: st.tuples(whole, texts),
    tuple[int, ...]: st.lists(whole, max_size=3).map(tuple),
    tuple[Line, ...]: st.lists(lines, max_size=2).map(tuple),
    tuple[Decimal, ...]: st.lists(decimals, max_size=3).map(tuple),
    frozenset[str]: st.frozensets(texts, max_size=3),
    frozenset[Decimal]: st.frozensets(decimals, max_size=3),
    Line: lines,
    LongerLine: st.builds(LongerLine, whole, texts, decimals),
    Place: st.builds(Place, whole, texts),
    Pair: st.builds(Pair, whole, texts),
    Strict: st.builds(Strict, whole, st.sampled_from([1, 2])),
    Card | Cash: st.builds(Card, texts.map(Secret)) | st.builds(Cash, whole),
    Secret[str]: texts.map(Secret),
    Secret[Decimal]: decimals.map(Secret),
    Secret[Secret[int]]: whole.map(lambda value: Secret(Secret(value))),
    tuple[Secret[Line], ...]: st.lists(lines.map(Secret), max_size=2).map(tuple),
    int | None: whole | st.none(),
    int | str: whole | texts,
    float | bool | None: floats | st.booleans() | st.none(),
    Line | None: lines | st.none(),
    Decimal | None: decimals | st.none(),
    Secret[str] | None: texts.map(Secret) | st.none(),
    Mood | None: st.sampled_from(Mood) | st.none(),
    Raw: st.sampled_from([Raw(b"1"), Raw(b'"a"'), Raw(b'{"a":[null]}')]),
    Any: st.none() | st.booleans() | whole | texts | st.lists(whole, max_size=2),
}


def event_class(fields: Mapping[str, Any], name: str = "Told", defaults: Mapping[str, Any] | None = None) -> Any:
    """An Event class of these fields, those with a default last."""
    given = defaults or {}
    ordered = sorted(fields, key=lambda field: field in given)
    body = {"__annotations__": {field: fields[field] for field in ordered}, **given}
    return new_class(name, (Event,), {}, lambda namespace: namespace.update(body))


def values_of(cls: Any, fields: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Events of a class, all fields given."""
    return st.builds(cls, **{name: KINDS[kind] for name, kind in fields.items()})
