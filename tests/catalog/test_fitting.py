"""What is said to fit is read; what is said not to fit, some value shows."""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from orchestrator import Secret
from orchestrator.catalog.fitting import Misfit, Reader, misfits
from orchestrator.catalog.schemas import Schema, schema_of
from orchestrator.errors import BadMessage
from orchestrator.messages import decode, encode

from .kinds import KINDS, LessMood, Line, LongerLine, Mood, Pair, Place, event_class, values_of

BYTES = [kind for kind in KINDS if getattr(kind, "__origin__", None) is bytes]


@cache
def of_kind(kind: Any) -> tuple[Any, Schema, Draft202012Validator]:
    cls = event_class({"it": kind})
    return cls, schema_of(cls), Draft202012Validator(schema_of(cls))


@cache
def written(kind: Any) -> list[bytes]:
    """A few payloads with a field of this kind, always the same."""
    found: list[bytes] = []

    @given(values_of(of_kind(kind)[0], {"it": kind}))
    @settings(max_examples=30, deadline=None, derandomize=True, database=None)
    def keep(event: Any) -> None:
        found.append(encode(event))

    keep()
    return found


def is_read(cls: Any, data: bytes) -> bool:
    try:
        decode(cls, data)
    except BadMessage:
        return False
    return True


@pytest.mark.parametrize("old", KINDS, ids=str)
def test_every_payload_of_a_kind_that_fits_another_is_read_as_that(old: Any) -> None:
    for new in KINDS:
        cls, schema, _ = of_kind(new)
        if not misfits(of_kind(old)[1], schema, Reader.OURS):
            assert [data for data in written(old) if not is_read(cls, data)] == [], new


@pytest.mark.parametrize("old", KINDS, ids=str)
def test_every_payload_of_a_kind_that_fits_another_is_valid_for_its_readers(old: Any) -> None:
    for new in KINDS:
        if not misfits(of_kind(new)[1], of_kind(old)[1], Reader.THEIRS):
            valid = of_kind(old)[2].is_valid
            assert [data for data in written(new) if not valid(msgspec.json.decode(data))] == [], new


# Where no value shows that two kinds do not fit, though it is said: short texts that happen to be base64, and tuples
# that we write in full though their last elements have defaults.
CAREFUL: tuple[set[Any], ...] = ({LessMood, bytes, *BYTES}, {Place, Pair, tuple[int, str]})


def test_hardly_any_pair_of_kinds_is_said_not_to_fit_that_does() -> None:
    needless: list[str] = []
    for old in KINDS:
        for new in KINDS:
            cls, schema, _ = of_kind(new)
            is_careful = any(old in kinds and new in kinds for kinds in CAREFUL)
            wrong = misfits(of_kind(old)[1], schema, Reader.OURS)
            if wrong and not is_careful and all(is_read(cls, data) for data in written(old)):
                needless.append(f"{old} -> {new}")
    assert needless == []


@pytest.mark.parametrize(
    ("old", "new", "ours", "theirs"),
    [
        ({"a": int}, {"a": int, "b": int}, "told.b: new required field, is new and has no default", ""),
        ({"a": int, "b": int}, {"a": int}, "", "told.b: removed field, is not there any more"),
        ({"a": int}, {"a": str}, "told.a: changed type, was integer, is string now", "*"),
        ({"a": int}, {"a": int | str}, "", "told.a: widened type, may be string now"),
        ({"a": int | None}, {"a": int}, "told.a: narrowed type, may not be null any more", ""),
        ({"a": int}, {"a": Decimal}, "", "told.a: changed type, was integer, is string (decimal) now"),
        ({"a": int}, {"a": float}, "", "told.a: changed type, was integer, is number now"),
        ({"a": Mood}, {"a": LessMood}, 'told.a: removed value, may not be "bad" any more', ""),
        ({"a": LessMood}, {"a": Mood}, "", 'told.a: new value, may be "bad" now'),
        ({"a": Line}, {"a": LongerLine}, "told.a.colour: new required field, is new and has no default", ""),
        ({"a": LongerLine}, {"a": Line}, "", "told.a.colour: removed field, is not there any more"),
        (
            {"a": tuple[Line, ...]},
            {"a": tuple[LongerLine, ...]},
            "told.a[...].colour: new required field, is new and has no default",
            "",
        ),
        ({"a": str}, {"a": Secret[str]}, "", "told.a: changed type, was string, is Secret now"),
    ],
)
def test_a_misfit_names_the_place_and_what_became_of_it(
    old: dict[str, Any], new: dict[str, Any], ours: str, theirs: str
) -> None:
    before, after = schema_of(event_class(old)), schema_of(event_class(new))
    assert said(misfits(before, after, Reader.OURS)) == ours
    heard = said(misfits(after, before, Reader.THEIRS))
    assert heard == theirs or (theirs == "*" and heard == ours)


def said(wrong: list[Misfit]) -> str:
    return "; ".join(f"told{it.path}: {it.kind}, {it.why}" for it in wrong)


def test_a_default_that_is_taken_away_is_missed_where_it_was_left_out() -> None:
    old, new = event_class({"a": int}, defaults={"a": 1}), event_class({"a": int})
    assert [it.kind for it in misfits(schema_of(old), schema_of(new), Reader.OURS)] == ["new required field"]
    assert misfits(schema_of(new), schema_of(old), Reader.OURS) == []
    assert misfits(schema_of(new), schema_of(old), Reader.THEIRS) == []


def test_classes_that_hold_themselves_are_compared_to_their_ends() -> None:
    before, after = schema_of(event_class({"a": Line})), schema_of(event_class({"a": LongerLine}))
    assert misfits(before, before, Reader.OURS) == misfits(before, before, Reader.THEIRS) == []
    assert misfits(before, after, Reader.OURS) != []
