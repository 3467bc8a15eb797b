"""The AsyncAPI document: well formed, as another library reads it, and true of what travels on a bus."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from jsonschema import Draft7Validator
from msgspec import Raw

from orchestrator import Event, listener
from orchestrator.app import App, load_app
from orchestrator.catalog import asyncapi, catalog_of
from orchestrator.cloudevents import to_cloud_event
from orchestrator.memory import MemoryBus, MemoryStore
from orchestrator.messages import encode
from orchestrator.ports import BusMessage, NotTaken
from orchestrator.runtime.engine import Engine
from orchestrator.topics import NO_SETTINGS, Plain, Topics, TopicSettings
from orchestrator.wire import Envelope, Kind

from ..runtime.shop import CardDeclined, OrderPlaced, ReserveStock, World, event, order, send_mail, shop
from ..runtime.virtual import LoopClock

pytestmark = pytest.mark.anyio

EXAMPLES = sorted((Path(__file__).parents[2] / "sagas").glob("*_*.py"))


def document_of(app: App[Any], settings: TopicSettings = NO_SETTINGS) -> dict[str, Any]:
    topics = Topics(app, settings)
    return asyncapi(app, topics, catalog_of(app, topics))


def resolved(document: Any, reference: str) -> Any:
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
    return document


def validator(document: dict[str, Any], message: str) -> Draft7Validator:
    """Of a message's payload, the references within the document."""
    payload = document["components"]["messages"][message]["payload"]
    return Draft7Validator({"allOf": [payload], "components": document["components"]})


def references(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [found for inner in part.values() for found in references(inner)]
    return [found for inner in part for found in references(inner)] if isinstance(part, list) else []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_another_library_reads_the_document(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own fields' names
        from asyncapi3.models import AsyncAPI3
    document = document_of(load_app(str(path)))
    AsyncAPI3.model_validate(document)
    for reference in references(document):
        resolved(document, reference)
    for schema in document["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)
    broken = {**document, "operations": {"x": {"action": "sends"}}}
    with pytest.raises(ValueError):
        AsyncAPI3.model_validate(broken)


def test_the_same_app_gives_the_same_document_and_another_another_version() -> None:
    app = shop(World())
    assert document_of(app) == document_of(app)
    other = document_of(app, TopicSettings(prefix="p."))
    assert document_of(app)["info"]["version"] != other["info"]["version"]


class Overheard(MemoryBus):
    """Outlives the engines on it, and keeps what was published."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[BusMessage] = []

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        self.heard += messages
        return await super().publish(messages)

    async def __aexit__(self, *exc: object) -> None: ...


async def test_all_that_two_engines_say_to_each_other_is_in_their_documents_and_valid_by_them() -> None:
    world, bus = World(), Overheard()
    app = shop(world, listeners=[send_mail])
    world.will("ChargeCard", CardDeclined("no"))
    asks, works = document_of(app.sagas_only()), document_of(app.work_only())
    async with (
        bus,
        Engine(app.work_only(), MemoryStore(), bus, clock=LoopClock()) as worker,
        Engine(app.sagas_only(), MemoryStore(), bus, clock=LoopClock()) as engine,
    ):
        await anyio.sleep(0.1)
        for number in ("1", "2"):
            await engine.accept(event(OrderPlaced(number)))
            await engine.ended(order(number))
        await anyio.sleep(1)
        await worker.until_idle()
    assert {told(each)["type"] for each in bus.heard} >= {
        "ReserveStock",
        "StockReserved",
        "ReleaseStock",
        "Done",
        "MailSent",
    }
    for message in bus.heard:
        wire_type = told(message)["type"]
        document = works if told(message).get("source") == "/orchestrator/shop.work" else asks
        channels = [it for it in document["channels"].values() if wire_type in it["messages"]]
        assert any(channel["address"] in (message.topic, None) for channel in channels), wire_type
        validator(document, wire_type).validate(told(message))


def told(message: BusMessage) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(message.body)
    return found


def test_who_sends_and_who_receives_is_said_from_the_side_of_the_app() -> None:
    app = shop(World(), listeners=[send_mail])
    asks, works = document_of(app.sagas_only())["operations"], document_of(app.work_only())["operations"]
    assert asks["ask-ReserveStock"]["action"] == "send"
    assert asks["ask-ReserveStock"]["reply"]["channel"] == {"$ref": "#/channels/replies_shop"}
    assert works["carry-out-ReserveStock"]["action"] == "receive"
    assert works["carry-out-ReserveStock"]["reply"]["address"] == {"location": "$message.payload#/replyto"}
    assert asks["publish-OrderFulfilled"]["action"] == "send"
    assert works["take-OrderFulfilled"]["action"] == "receive"
    assert works["publish-MailSent"]["action"] == "send"
    assert "carry-out-ReserveStock" not in asks


def test_the_topics_are_those_that_the_settings_name() -> None:
    settings = TopicSettings(
        prefix="p.", routes={"OrderPlaced": "orders/in"}, plain={"legacy": Plain(type="OrderPlaced")}
    )
    document = document_of(shop(World()), settings)
    assert document["channels"]["p_orders_in"]["address"] == "p.orders/in"
    assert document["channels"]["legacy"]["messages"].keys() == {"OrderPlaced-plain"}
    assert document["operations"]["take-plain-legacy"]["action"] == "receive"
    validator(document, "OrderPlaced-plain").validate(msgspec.json.decode(encode(OrderPlaced("1"))))
    assert not validator(document, "OrderPlaced-plain").is_valid({"order_id": 1})


def test_what_is_not_so_is_not_valid() -> None:
    document = document_of(shop(World()))
    envelope = Envelope(id="1", kind=Kind.COMMAND, type="ReserveStock", data=Raw(encode(ReserveStock("1"))))
    good = msgspec.json.decode(to_cloud_event(envelope, "/test", reply_to="replies.test"))
    check = validator(document, "ReserveStock")
    check.validate(good)
    assert not check.is_valid({**good, "type": "Other"})
    assert not check.is_valid({**good, "messagekind": "event"})
    assert not check.is_valid({**good, "data": {}})
    assert not check.is_valid({**good, "specversion": "0.3"})
    assert not check.is_valid({**good, "dataversion": 2})


class Written(Event, version=3):
    at: tuple[int, str]


def test_tuples_are_said_as_draft_07_has_them_and_a_later_version_must_be_named() -> None:
    @listener
    def keep(event: Written) -> None: ...

    document = document_of(App("notes", listeners=[keep]))
    envelope = Envelope(id="1", kind=Kind.EVENT, type="Written", data=Raw(encode(Written((1, "a")))), version=3)
    good = msgspec.json.decode(to_cloud_event(envelope, "/test"))
    check = validator(document, "Written")
    check.validate(good)
    assert not check.is_valid({**good, "data": {"at": [1, 2]}})
    assert not check.is_valid({**good, "data": {"at": [1, "a", 2]}})
    assert not check.is_valid({name: value for name, value in good.items() if name != "dataversion"})
