"""A schema takes what the codec writes, as an independent validator sees it, and what it takes the codec reads."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from msgspec import UNSET, UnsetType

from orchestrator import Command, Event, Saga, Secret, step
from orchestrator.app import load_app
from orchestrator.catalog import schema_of
from orchestrator.errors import BadMessage
from orchestrator.messages import decode, encode

from .kinds import KINDS, Line, event_class, values_of

SAGAS = Path(__file__).parents[2] / "sagas"
ODD: list[Any] = [None, True, 0, -1, 7, 1.5, "", "a", "good", "2020-02-03", "P1D", "1.5", [], [1], [1, "a"], {}]
ODD += [{"$secret": "a"}, {"product": 1}, {"product": 1, "part": {"product": "x"}}, {"type": "card"}, [None]]


def fits(schema: Any, value: Any) -> bool:
    return bool(Draft202012Validator(schema).is_valid(value))


@cache
def held(kind: Any) -> tuple[Any, Draft202012Validator]:
    """A class with a field of this kind, and the validator of its schema."""
    cls = event_class({"it": kind})
    schema = schema_of(cls)
    Draft202012Validator.check_schema(schema)
    return cls, Draft202012Validator(schema)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_what_the_codec_writes_fits(kind: Any, data: st.DataObject) -> None:
    cls, validator = held(kind)
    written = msgspec.json.decode(encode(data.draw(values_of(cls, {"it": kind}))))
    assert validator.is_valid(written)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_fits_the_codec_reads(kind: Any) -> None:
    """Numbers such as 1.0 aside, which JSON Schema counts among the integers."""
    cls, validator = held(kind)
    taken = [value for value in ODD if validator.is_valid({"it": value})]
    for value in taken:
        decode(cls, msgspec.json.encode({"it": value}))
    assert kind in (Any, msgspec.Raw) or len(taken) < len(ODD)


@given(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=5), st.data())
@settings(max_examples=80, deadline=None)
def test_no_payload_with_something_else_put_in_fits_unless_it_is_read(kinds: list[Any], data: st.DataObject) -> None:
    fields = {f"f{at}": kind for at, kind in enumerate(kinds)}
    cls = event_class(fields)
    written = msgspec.json.decode(encode(data.draw(values_of(cls, fields))))
    name = data.draw(st.sampled_from(sorted(fields)))
    if data.draw(st.booleans()):
        del written[name]
    else:
        written[name] = data.draw(st.sampled_from(ODD))
    if fits(schema_of(cls), written):
        decode(cls, msgspec.json.encode(written))


def test_a_missing_field_does_not_fit_unless_it_has_a_default() -> None:
    cls = event_class({"a": int, "b": int}, defaults={"b": 3})
    assert fits(schema_of(cls), {"a": 1})
    assert not fits(schema_of(cls), {"b": 1})
    assert schema_of(cls)["properties"]["b"] == {"type": "integer", "default": 3}


def test_a_default_that_is_secret_is_not_shown() -> None:
    class Paid(Event):
        card: Secret[str] = Secret("4111-1111")
        cards: tuple[Secret[str], ...] = (Secret("4111-1111"),)
        line: Line = Line(7)

    schema = schema_of(Paid)
    assert "4111" not in str(schema)
    assert schema["properties"]["line"]["default"] == {"product": 7, "price": "1.50", "part": None}
    assert fits(schema, msgspec.json.decode(encode(Paid())))


def test_a_field_that_may_be_unset_may_be_missing() -> None:
    class Changed(Event):
        name: str | UnsetType = UNSET

    assert fits(schema_of(Changed), msgspec.json.decode(encode(Changed())))
    assert not fits(schema_of(Changed), {"name": None})


def test_the_state_of_a_saga_may_hold_what_a_message_may_not() -> None:
    class Begun(Event):
        name: str

    class Do(Command):
        name: str

    class Holds(Saga, key="name", starts=Begun):
        name: str
        counts: dict[str, int] = {}
        by_mood: dict[Literal["good", "bad"], list[Line]] = {}
        seen: set[str] = set()
        secrets: dict[str, Secret[int]] = {}

        @step(undo=None)
        def do(self) -> Do:
            return Do(self.name)

    state = Holds(name="a", counts={"b": 1}, by_mood={"bad": [Line(1)]}, seen={"c"}, secrets={"d": Secret(4)})
    schema = schema_of(Holds)
    written = msgspec.json.decode(encode(state))
    assert fits(schema, written)
    assert not fits(schema, {**written, "by_mood": {"a": []}})
    assert not fits(schema, {**written, "secrets": {"d": "text"}})
    assert not fits(schema, {**written, "counts": {"b": None}})


def test_two_classes_of_one_name_have_a_schema_each() -> None:
    def made(kind: Any) -> Any:
        return event_class({"it": kind}, "Same")

    class Both(Event):
        one: made(int)  # type: ignore[valid-type]
        other: made(str)  # type: ignore[valid-type]

    schema = schema_of(Both)
    assert len(schema["$defs"]) == 2
    assert fits(schema, {"one": {"it": 1}, "other": {"it": "a"}})
    assert not fits(schema, {"one": {"it": "a"}, "other": {"it": 1}})


def test_the_messages_and_states_of_the_examples_have_schemas_that_are_valid() -> None:
    for app in (load_app(str(path)) for path in sorted(SAGAS.glob("*_*.py"))):
        for cls in (*app.types.values(), *(definition.cls for definition in app.sagas.values())):
            Draft202012Validator.check_schema(schema_of(cls))


def test_an_unknown_field_fits_and_is_passed_over() -> None:
    cls = event_class({"a": int})
    assert fits(schema_of(cls), {"a": 1, "later": 2})
    assert decode(cls, b'{"a":1,"later":2}') == cls(1)
    with pytest.raises(BadMessage):
        decode(cls, b'{"later":2}')
