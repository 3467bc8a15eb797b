"""What we write and read of AMQP ourselves: the driver's codec has the same opinion of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pamqp.frame
import pytest
from pamqp.body import ContentBody
from pamqp.commands import Basic, Connection
from pamqp.header import ContentHeader

from orchestrator.ports import BusMessage
from orchestrator_adapters.rabbitmq.frames import HEARTBEAT, Confirm, headers_of, message_id_of, to_delivery, to_frames
from orchestrator_adapters.rabbitmq.wire import Turnout

pytestmark = pytest.mark.anyio
CHANNEL = 3
MAX_BODY = 10


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def by_the_driver(raw: bytes) -> list[Any]:
    """Each frame, and that nothing is left."""
    found: list[Any] = []
    while raw:
        size, channel, frame = pamqp.frame.unmarshal(raw)
        assert channel == CHANNEL
        found.append(frame)
        raw = raw[size:]
    return found


def delivery(body: bytes = b"", headers: Mapping[str, Any] | None = None, tag: int = 7, **more: Any) -> bytes:
    """As a broker sends it; bodies of at most MAX_BODY."""
    properties = Basic.Properties(headers=dict(headers) if headers else None, **more)
    parts = [body[at : at + MAX_BODY] for at in range(0, len(body), MAX_BODY)]
    sent: list[Any] = [
        Basic.Deliver("consumer", tag, False, "exchange", "topic"),
        ContentHeader(0, len(body), properties),
        *map(ContentBody, parts),
    ]
    return b"".join(pamqp.frame.marshal(each, CHANNEL) for each in sent)


class Took:
    """Who gets the messages."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.tags: list[tuple[str, int]] = []
        self.headers: list[Mapping[str, str]] = []
        self.confirms: list[Confirm] = []

    def came(self, method: bytes, header: bytes, body: bytes) -> None:
        self.bodies.append(body)
        self.tags.append(to_delivery(method))
        self.headers.append(headers_of(header))

    def confirmed(self, confirm: Confirm) -> None:
        self.confirms.append(confirm)


def turnout() -> tuple[Turnout, Took]:
    reader, took = Turnout(), Took()
    reader.turn_off(CHANNEL, took)
    return reader, took


async def left(reader: Turnout) -> bytes:
    """What came as far as to the driver."""
    reader.feed_eof()
    return await reader.read()


async def headers_read(raw: bytes) -> Mapping[str, str]:
    reader, took = turnout()
    reader.feed_data(raw)
    return took.headers[0]


@pytest.mark.parametrize("body", [b"", b"short", b"x" * MAX_BODY, b"x" * (2 * MAX_BODY + 1)])
def test_the_driver_reads_what_is_published(body: bytes) -> None:
    headers = {"Content-Type": "application/json", "type": "Ördered", "empty": ""}
    message = BusMessage("a.*", body, id="1", headers=headers, expected=True)
    method, header, *bodies = by_the_driver(to_frames(message, "1", CHANNEL, "exchange", MAX_BODY))
    assert (method.exchange, method.routing_key, method.mandatory) == ("exchange", "a.%2A", True)
    assert header.body_size == len(body)
    assert header.properties.content_type == "application/json"
    assert header.properties.headers == {"type": "Ördered", "empty": ""}
    assert (header.properties.delivery_mode, header.properties.message_id) == (2, "1")
    assert b"".join(each.value for each in bodies) == body
    assert all(len(each.value) <= MAX_BODY for each in bodies)


def test_an_event_without_headers_is_not_mandatory() -> None:
    method, header = by_the_driver(to_frames(BusMessage("A", b""), "1", CHANNEL, "exchange", MAX_BODY))
    assert not method.mandatory
    assert header.properties.headers is None and header.properties.content_type is None


async def test_a_returned_message_is_known_by_its_id() -> None:
    raw = pamqp.frame.marshal(ContentHeader(0, 0, Basic.Properties(headers={"a": "b"}, message_id="that one")), CHANNEL)
    assert message_id_of(raw[7:-1]) == "that one"


async def test_headers_of_others_are_read_as_text() -> None:
    theirs = {"Name": "value", "number": 7, "bytes": bytearray(b"\xff"), "table": {"a": 1}, "nothing": None}
    read = await headers_read(delivery(headers=theirs, content_type="text/plain", content_encoding="utf-8"))
    assert read == {"name": "value", "number": "7", "bytes": "\ufffd", "content-type": "text/plain"}


async def test_headers_are_read_behind_an_encoding_and_without_a_type() -> None:
    assert await headers_read(delivery(headers={"a": "b"}, content_encoding="gzip", priority=3)) == {"a": "b"}
    assert await headers_read(delivery(content_type="text/plain", correlation_id="1")) == {"content-type": "text/plain"}
    assert await headers_read(delivery()) == {}


async def test_headers_that_cannot_be_read_are_none_and_the_message_comes() -> None:
    raw = delivery(b"body", {"name": "value"}).replace(b"\x04name", b"\xf0name")
    reader, took = turnout()
    reader.feed_data(raw)
    assert took.headers == [{}] and took.bodies == [b"body"]


@pytest.mark.parametrize("piece", [1, 2, 7, 8, 50, 10_000])
async def test_messages_in_pieces_of_any_size_turn_off_and_all_else_comes_to_the_driver(piece: int) -> None:
    bodies = [b"", b"one", b"x" * (3 * MAX_BODY), b"last"]
    others = [
        pamqp.frame.marshal(Basic.Cancel("consumer"), CHANNEL),
        delivery(b"of another channel").replace(b"\x00\x03", b"\x00\x04"),
        pamqp.frame.marshal(Connection.Blocked("memory"), 0),
        b"",
    ]
    raw = b""
    for tag, (body, other) in enumerate(zip(bodies, others, strict=True)):
        raw += delivery(body, tag=tag) + other
    raw += pamqp.frame.marshal(Basic.Ack(9, True), CHANNEL) + pamqp.frame.marshal(Basic.Nack(10, False), CHANNEL)
    reader, took = turnout()
    for at in range(0, len(raw), piece):
        reader.feed_data(raw[at : at + piece])
    assert took.bodies == bodies
    assert took.tags == [("consumer", tag) for tag in range(len(bodies))]
    assert took.confirms == [Confirm(9, True, True), Confirm(10, False, False)]
    assert (await left(reader)).replace(HEARTBEAT, b"") == b"".join(others)


async def test_frames_of_two_channels_may_alternate() -> None:
    reader, took = turnout()
    reader.turn_off(4, other := Took())
    theirs = (Basic.Deliver("c", 1, False, "", ""), ContentHeader(0, 3), ContentBody(b"two"))
    raw = [pamqp.frame.marshal(each, 4) for each in theirs]
    ours = delivery(b"one")
    at = ours.index(b"\xce") + 1
    reader.feed_data(raw[0] + ours[:at] + raw[1] + ours[at:] + raw[2])
    assert (took.bodies, other.bodies) == ([b"one"], [b"two"])


async def test_a_driver_that_gets_no_messages_is_not_to_believe_that_the_broker_is_silent() -> None:
    reader, _ = turnout()
    reader.feed_data(delivery(b"one"))
    reader.feed_data(delivery(b"two"))  # soon after
    assert await left(reader) == HEARTBEAT


async def test_what_is_no_amqp_is_left_to_the_driver() -> None:
    reader, _ = turnout()
    for piece in (b"HTTP/1.1 40", b"0 Bad Request\r\n"):
        reader.feed_data(piece)
    assert await left(reader) == b"HTTP/1.1 400 Bad Request\r\n"


async def test_the_beginning_of_a_frame_comes_to_the_driver_when_the_peer_hangs_up() -> None:
    reader, _ = turnout()
    reader.feed_data(delivery(b"one")[:12])
    assert await left(reader) == delivery(b"one")[:12]
