"""What a change of an app breaks: for whom, and what nobody notices."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from orchestrator import Aggregate, App, Call, Command, Event, Refusal, Saga, Wait, apply, listener, participant, step
from orchestrator.catalog import Breaks, Catalog, catalog_of, changes, read_catalog
from orchestrator.errors import AppError, BadMessage
from orchestrator.messages import decode, encode, upcast
from orchestrator.topics import Topics, TopicSettings

from .kinds import KINDS, event_class, values_of

CONSUMERS, PRODUCERS, STORED = Breaks.CONSUMERS, Breaks.PRODUCERS, Breaks.STORED


def catalog(app: App[Any], *aggregates: type[Aggregate], topics: TopicSettings | None = None) -> Catalog:
    return catalog_of(app, Topics(app, topics or TopicSettings()), aggregates)


def said(old: Catalog, new: Catalog) -> dict[str, tuple[Breaks, ...]]:
    return {f"{it.kind}: {it.where}": it.breaks for it in changes(old, new)}


def taking(cls: Any) -> App[Any]:
    """An app with a listener that takes the events of this class."""

    def take(event): ...  # type: ignore[no-untyped-def]

    take.__annotations__ = {"event": cls, "return": None}
    return App("shop", listeners=[listener(take)])


def telling(cls: Any) -> App[Any]:
    """An app with a listener that publishes events of this class."""

    class Wished(Event):
        order: str

    def tell(event): ...  # type: ignore[no-untyped-def]

    tell.__annotations__ = {"event": Wished, "return": cls}
    return App("shop", listeners=[listener(tell)])


# Fields, by direction.


def test_a_new_required_field_breaks_who_sends_it_to_us_and_what_is_stored_and_nobody_else() -> None:
    old, new = event_class({"a": int}), event_class({"a": int, "b": int})
    assert said(catalog(taking(old)), catalog(taking(new))) == {
        "new required field: event Told.b": (PRODUCERS, STORED),
    }
    assert said(catalog(telling(old)), catalog(telling(new))) == {"changed schema: event Told": ()}


def test_a_removed_field_breaks_who_gets_it_from_us_and_nobody_else() -> None:
    old, new = event_class({"a": int, "b": int}), event_class({"a": int})
    assert said(catalog(telling(old)), catalog(telling(new))) == {"removed field: event Told.b": (CONSUMERS,)}
    assert said(catalog(taking(old)), catalog(taking(new))) == {"changed schema: event Told": ()}


def test_a_new_field_with_a_default_breaks_nobody() -> None:
    old, new = event_class({"a": int}), event_class({"a": int, "b": int}, defaults={"b": 0})
    for app in (taking, telling):
        assert said(catalog(app(old)), catalog(app(new))) == {"changed schema: event Told": ()}


def test_a_change_of_words_is_no_change() -> None:
    old, new = event_class({"a": int}, defaults={"a": 1}), event_class({"a": int}, defaults={"a": 2})
    new.__doc__ = "Other words."
    assert said(catalog(taking(old)), catalog(taking(new))) == {}


def evolved(data: st.DataObject) -> tuple[dict[str, Any], Any, Any]:
    """A class and what became of it: fields dropped, added, of another kind."""
    kinds = st.sampled_from(list(KINDS))
    old = data.draw(st.dictionaries(st.sampled_from("abcd"), kinds, min_size=1))
    new = {name: data.draw(kinds) if data.draw(st.integers(0, 3)) == 0 else kind for name, kind in old.items()}
    for name in data.draw(st.sets(st.sampled_from("abcd"), max_size=1)):
        new.pop(name, None)
    added = data.draw(st.sets(st.sampled_from("ef"), max_size=1))
    new |= dict.fromkeys(added, int)
    defaults = dict.fromkeys(added, 0) if data.draw(st.booleans()) else {}
    return old, event_class(old), event_class(new, defaults=defaults)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_where_nothing_stored_is_broken_every_stored_payload_is_read(data: st.DataObject) -> None:
    fields, old, new = evolved(data)
    found = changes(catalog(taking(old)), catalog(taking(new)))
    payload = encode(data.draw(values_of(old, fields)))
    if not any(STORED in change.breaks for change in found):
        decode(new, payload)
    assert all(change.breaks == (PRODUCERS, STORED) for change in found if change.breaks)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_where_no_consumer_is_broken_every_new_payload_is_valid_for_the_old_schema(data: st.DataObject) -> None:
    fields, new, old = evolved(data)
    before = catalog(telling(old))
    payload = msgspec.json.decode(encode(data.draw(values_of(new, fields))))
    if not any(CONSUMERS in change.breaks for change in changes(before, catalog(telling(new)))):
        assert Draft202012Validator(before.by_type["Told"].schema).is_valid(payload)
        assert set(before.by_type["Told"].schema["properties"]) <= set(payload)


# Versions.


def test_a_version_with_an_upcast_breaks_only_consumers_of_what_is_published() -> None:
    class Old(Event, type="Told"):
        a: int

    class New(Event, type="Told", version=2):
        a: str

    assert said(catalog(taking(Old)), catalog(taking(New))) == {
        "missing upcast: event Told": (PRODUCERS, STORED),
        "raised version: event Told": (),
    }
    upcast(New, from_version=1)(lambda old: {"a": str(old["a"])})
    assert said(catalog(taking(Old)), catalog(taking(New))) == {"raised version: event Told": ()}
    assert said(catalog(telling(Old)), catalog(telling(New))) == {
        "raised version: event Told": (CONSUMERS,),
        "changed type: event Told.a": (CONSUMERS,),
    }
    assert said(catalog(taking(New)), catalog(taking(Old)))["lowered version: event Told"] == (PRODUCERS, STORED)


def test_an_upcast_that_is_taken_away_breaks_what_it_lifted() -> None:
    class Old(Event, type="Told", version=2):
        a: int

    class New(Event, type="Told", version=2):
        a: int

    upcast(Old, from_version=1)(dict)
    [change] = changes(catalog(taking(Old)), catalog(taking(New)))
    assert (change.kind, change.breaks) == ("missing upcast", (PRODUCERS, STORED))
    assert change.remedy == "write @upcast(Told, from_version=1)"


# Commands, sagas, listeners, aggregates.


class Placed(Event):
    order: str
    other: str = ""


class Paid(Event):
    order: str


class Reserved(Event):
    pass


class SoldOut(Refusal):
    pass


class Reserve(Command[Reserved, SoldOut], participant="warehouse"):
    order: str


class Order(Saga, key="order", starts=Placed):
    order: str

    @step(undo=None)
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @step
    def pay(self) -> Wait:
        return Wait()

    @pay.on
    def paid(self, event: Paid) -> None: ...


@participant
def reserve(command: Reserve, call: Call) -> Reserved | SoldOut:
    return Reserved()


def tell(event: Paid) -> None: ...


class Tally(Aggregate):
    count: int = 0

    @apply
    def reserved(self, event: Reserved) -> None:
        self.count += 1


SHOP = App("shop", sagas=[Order], participants=[reserve], listeners=[listener(tell)])


def test_a_catalog_is_read_as_it_was_written() -> None:
    whole = catalog(SHOP, Tally)
    assert read_catalog(msgspec.json.encode(whole)) == whole
    assert changes(whole, whole) == []
    for wrong in (b"", b"[]", b'{"version": 1}', b'{"version": 2}', b'{"version": "1", "app": 3}'):
        with pytest.raises(BadMessage):
            read_catalog(wrong)


def test_what_is_gone_breaks_whom_it_was_for() -> None:
    assert said(catalog(SHOP, Tally), catalog(App("shop", sagas=[Order], participants=[reserve]))) == {
        "removed listener: listener tell": (STORED,),
        "removed aggregate: aggregate Tally": (STORED,),
    }
    gone = said(catalog(SHOP), catalog(App("shop", listeners=[listener(tell)])))
    assert gone["removed saga: saga Order"] == (STORED,)
    assert gone["removed message: event Placed"] == (PRODUCERS, STORED)
    assert gone["removed message: command Reserve"] == (PRODUCERS, STORED)
    assert gone["removed message: refusal SoldOut"] == (CONSUMERS, STORED)
    assert gone["changed group: app shop"] == (STORED,)


def changed_order(**keywords: Any) -> App[Any]:
    class Order(Saga, **({"key": "order", "starts": Placed} | keywords)):
        order: str
        other: str = ""

        @step
        def pay(self) -> Wait:
            return Wait()

        @pay.on
        def paid(self, event: Paid) -> None: ...

    return App("shop", sagas=[Order])


def test_a_step_that_is_gone_breaks_what_stands_in_it() -> None:
    found = said(catalog(App("shop", sagas=[Order])), catalog(changed_order()))
    assert found["removed step: saga Order, step reserve"] == (STORED,)
    assert "removed step: saga Order, step pay" not in found


def test_another_version_of_a_saga_needs_its_migration() -> None:
    old, new = catalog(changed_order()), catalog(changed_order(version=2))
    assert said(old, new) == {"missing migration: saga Order": (STORED,)}
    assert said(new, old) == {"lowered version: saga Order": (STORED,)}


def test_another_key_of_a_saga_is_another_saga() -> None:
    class Order(Saga, key="other", starts=Placed):
        order: str
        other: str = ""

        @step
        def pay(self) -> Wait:
            return Wait()

        @pay.on(key="order")
        def paid(self, event: Paid) -> None: ...

    found = said(catalog(changed_order()), catalog(App("shop", sagas=[Order])))
    assert found == {
        "changed key field: saga Order": (PRODUCERS, STORED),
        "changed key field: event Placed": (PRODUCERS, STORED),
    }


def test_another_topic_breaks_who_is_at_the_old_one() -> None:
    moved = TopicSettings(routes={"Told": "elsewhere"})
    told = event_class({"a": int})
    for app, who in ((taking(told), PRODUCERS), (telling(told), CONSUMERS)):
        [change] = changes(catalog(app), catalog(app, topics=moved))
        assert (change.kind, change.breaks) == ("changed topic", (who,))
        assert change.remedy == 'set topics.routes."Told" = "Told"'
    grouped = catalog(SHOP, topics=TopicSettings(group="other"))
    assert said(catalog(SHOP), grouped) == {"changed group: app shop": (STORED,)}


def test_another_answer_breaks_who_asks() -> None:
    class Late(Refusal):
        pass

    def shop(command: Any, answers: Any) -> App[Any]:
        def do(command, call): ...  # type: ignore[no-untyped-def]

        do.__annotations__ = {"command": command, "call": Call, "return": answers}
        return App("shop", participants=[participant(do)])

    class Old(Command[Reserved, SoldOut], type="Do"):
        pass

    class New(Command[Reserved, SoldOut | Late], type="Do"):
        pass

    old, new = catalog(shop(Old, Reserved | SoldOut)), catalog(shop(New, Reserved | SoldOut | Late))
    assert said(old, new) == {"new reply: command Do": (CONSUMERS,), "new refusal: refusal Late": ()}
    assert said(new, old)["removed reply: command Do"] == (STORED,)


def test_an_event_that_an_aggregate_does_not_apply_any_more_breaks_its_streams() -> None:
    class Tally(Aggregate):
        count: int = 0

        @apply
        def paid(self, event: Paid) -> None: ...

    found = said(catalog(SHOP, globals()["Tally"]), catalog(SHOP, Tally))
    assert found["removed apply: aggregate Tally"] == (STORED,)


def test_an_event_of_an_aggregate_may_not_have_the_type_of_another_message() -> None:
    class Other(Event, type="Paid"):
        pass

    class Ledger(Aggregate):
        @apply
        def paid(self, event: Other) -> None: ...

    with pytest.raises(AppError, match="have the same wire type Paid"):
        catalog(SHOP, Ledger)


def test_breaking_changes_come_first_and_each_says_what_to_do() -> None:
    class Other(Event, type="Told"):
        a: Literal["x"]
        b: int

    found = changes(catalog(taking(event_class({"a": str}))), catalog(taking(Other)))
    assert [bool(change.breaks) for change in found] == sorted((bool(it.breaks) for it in found), reverse=True)
    assert all(change.remedy for change in found if change.breaks)


def test_an_event_that_is_no_boundary_event_any_more_breaks_who_gets_it_by_a_webhook() -> None:
    class Outside(Event, type="order.told", boundary=True):
        order: str

    class Inside(Event, type="order.told"):
        order: str

    assert catalog(telling(Outside)).by_type["order.told"].boundary
    assert said(catalog(telling(Outside)), catalog(telling(Inside))) == {"not sent: event order.told": (CONSUMERS,)}
    assert said(catalog(telling(Inside)), catalog(telling(Outside))) == {}
