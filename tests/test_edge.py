"""What comes from outside: what is refused and how that is said, CloudEvents, lines of events."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from orchestrator import BadMessage, Event
from orchestrator.app import App
from orchestrator.cloudevents import cloud_event, to_cloud_event
from orchestrator.edge import event_line
from orchestrator.participant import listener
from orchestrator.strictjson import strict_json
from orchestrator.wire import Envelope, Kind


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"NaN", "it is not JSON"),
        (b'{"a": -Infinity}', "it is not JSON"),
        (b'{"a": 1e400}', "out of range"),
        (b"[9223372036854775808]", "the integer 9223372036854775808, which does not fit into 64 bits"),
        (b"[-9223372036854775809]", "does not fit"),
        (b"1" * 5000, "out of range"),
        (rb'"\ud800"', "half a surrogate pair"),
        (rb'"\udc00x"', "half a surrogate pair"),
        (rb'"\ud800\u0041"', "half a surrogate pair"),
        (rb'{"a": "x\u0000y"}', "NUL"),
        (rb'"\\\u0000"', "NUL"),
        (b'"\x00"', "it is not JSON: invalid character"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64 levels"),
        (b"[" * 500_000, "nested deeper than 64 levels"),
        (b'{"a":' * 2000 + b"1" + b"}" * 2000, "nested deeper than 64 levels"),
        (b'{"amount": 1, "amount": 2}', "the key 'amount' twice in one object"),
        (b'[{"x": {"a": 1, "b": 2, "\\u0061": 3}}]', "the key 'a' twice"),
        (b'{"a":1,"a":1}', "the key 'a' twice"),
        (b'{"a":{"b":[1,{"c":2,"c":2}]}}', "the key 'c' twice"),
        (b'{"a":9223372036854775808}', "does not fit"),
        (b'{"a":[9223372036854775808]}', "does not fit"),
        (b'{"a":[0,18446744073709551616]}', "does not fit"),
        (b'{"a":{"b":-9223372036854775809}}', "does not fit"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"{} {}", "trailing characters"),
        (b'"\xff"', "it is not UTF-8"),
        (b'"\xed\xa0\x80"', "it is not UTF-8"),
        (b'{"a": "' + b"x" * 2**20 + b'"}', r"it has 1,048,585 bytes, the limit is 1,048,576"),
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b'{"a": ', "ends too early"),
        (b"[1,]", "trailing comma"),
        (b"{'a': 1}", "it is not JSON"),
        (b"01", "invalid number"),
    ],
)
def test_what_is_refused(raw: bytes, said: str) -> None:
    with pytest.raises(BadMessage, match=said):
        strict_json(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 64 + b"]" * 64,
        b'{"a": "' + b"[{" * 100 + b'"}',
        b'["' + rb"\"[" * 100 + b'"]',
        rb'"\\u0000"',
        '"😀 \\ud83d\\ude00 ü"'.encode(),
        b"[9223372036854775807, -9223372036854775808, 1e300, 123456789012345678901234567890.5]",
        b'{"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}',
        b'{"a":[9223372036854775807,-9223372036854775808],"b":{"a":"9223372036854775808"}}',
        b'{"a":1e300,"b":[0.1,-0.0,null,true],"c":{"a":{}}}',
        b" [] \n",
        b"[" + b"[]," * 1000 + b"[]]",
    ],
)
def test_what_is_taken(raw: bytes) -> None:
    assert strict_json(raw) == json.loads(raw)


def test_limits_can_be_set() -> None:
    strict_json(b"[[1]]", limit=5, depth=2)
    with pytest.raises(BadMessage, match="the limit is 4"):
        strict_json(b"[[1]]", limit=4)
    with pytest.raises(BadMessage, match="deeper than 1 levels"):
        strict_json(b"[[1]]", depth=1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_what_python_writes_is_taken_or_refused_for_a_reason(value: Any) -> None:
    text = json.dumps(value)
    try:
        assert strict_json(text.encode()) == value
        assert not any(math.isnan(number) or math.isinf(number) for number in floats(value))
    except BadMessage:
        assert re.search(r"NaN|Infinity|\\u0000|\\ud[89a-f]|\d{19}", text)


@given(st.binary(max_size=64) | st.text(alphabet='{}[]",:\\u0d8eE+-19.tfn ', max_size=64).map(str.encode))
def test_no_bytes_do_anything_but_decode_or_be_refused(raw: bytes) -> None:
    try:
        value = strict_json(raw)
    except BadMessage:
        return
    assert not any(math.isinf(number) for number in floats(value))
    "".join(texts(value)).encode()


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [t for k, v in value.items() for t in [k, *texts(v)]]
    if isinstance(value, list):
        return [t for v in value for t in texts(v)]
    return [value] if isinstance(value, str) else []


def floats(value: Any) -> list[float]:
    if isinstance(value, dict | list):
        return [f for v in (value.values() if isinstance(value, dict) else value) for f in floats(v)]
    return [value] if isinstance(value, float) else []


# CloudEvents.

ENVELOPE = Envelope(
    id="Order/1~k3f9/reserve#1:yes:2",
    kind=Kind.YES,
    type="StockReserved",
    data=Raw(b'{"id":"r1"}'),
    time=1_700_000_000.25,
    saga="Order",
    key="ä 1",
    reply_to="Order/1~k3f9/reserve#1",
    attempt=2,
    clean=True,
    version=3,
    user="ann",
    correlation_id="c1",
    causation_id="e1",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)


def test_there_and_back() -> None:
    assert cloud_event(to_cloud_event(ENVELOPE, "/orchestrator/shop")) == ENVELOPE
    event = Envelope(id="e1", kind=Kind.EVENT, type="OrderPlaced", time=1.0)
    assert cloud_event(to_cloud_event(event, "/orchestrator/shop")) == event


def test_how_it_looks_to_others() -> None:
    written = json.loads(to_cloud_event(ENVELOPE, "/orchestrator/shop", undoes="k0", deadline=1_700_000_060.0))
    assert written == {
        "specversion": "1.0",
        "id": "Order/1~k3f9/reserve#1:yes:2",
        "source": "/orchestrator/shop",
        "type": "StockReserved",
        "subject": "ä 1",
        "time": "2023-11-14T22:13:20.250000Z",
        "datacontenttype": "application/json",
        "dataversion": 3,
        "correlationid": "c1",
        "causationid": "e1",
        "inreplyto": "Order/1~k3f9/reserve#1",
        "sagatype": "Order",
        "sagakey": "ä 1",
        "messagekind": "yes",
        "attempt": 2,
        "clean": True,
        "undoes": "k0",
        "deadline": "2023-11-14T22:14:20Z",
        "messageuser": "ann",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "data": {"id": "r1"},
    }
    assert all(name.isascii() and name.islower() and name.isalnum() for name in written)


FOREIGN: dict[str, Any] = {"specversion": "1.0", "id": "7", "source": "/crm", "type": "OrderPlaced"}


def foreign(**more: Any) -> bytes:
    return json.dumps(FOREIGN | more).encode()


def test_what_another_sender_writes() -> None:
    raw = foreign(
        subject="orders/1",
        time="2026-01-31T13:00:00+01:00",
        datacontenttype="application/vnd.crm+json; charset=utf-8",
        dataschema="https://crm.example/order",
        correlationid=None,
        partitionkey="p",
        dataversion="2",
        data={"order_id": "1"},
    )
    envelope = cloud_event(raw)
    assert (envelope.id, envelope.kind, envelope.type, envelope.version) == ("7", Kind.EVENT, "OrderPlaced", 2)
    assert (envelope.key, envelope.correlation_id, envelope.time) == ("", "", 1769860800.0)
    assert msgspec.json.decode(envelope.data) == {"order_id": "1"}
    assert cloud_event(foreign()).data == Raw(b"{}")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (foreign(specversion="0.3"), "specversion is '0.3': only CloudEvents 1.0"),
        (foreign(id=""), "id must be a text that is not empty"),
        (foreign(id=None), "missing required field `id`"),
        (foreign(id=7), "CloudEvent.id: expected `str`, got `int`"),
        (foreign(source=""), "source must be"),
        (foreign(id="x" * 1025), "id has 1,025 characters, the limit is 1,024"),
        (foreign(type="a\nb"), "type holds a control character"),
        (foreign(sagakey="a\x7f"), "sagakey holds a control character"),
        (foreign(time="2026-01-31T13:00:00"), "time has no time zone"),
        (foreign(time="yesterday"), "CloudEvent.time: invalid RFC3339 encoded datetime"),
        (foreign(datacontenttype="text/xml"), "datacontenttype is 'text/xml': only JSON"),
        (foreign(data_base64="aGk="), "data_base64 is not read"),
        (foreign(dataversion="v2"), "dataversion is 'v2'"),
        (foreign(dataversion=0), "dataversion is 0"),
        (foreign(messagekind="verb"), "messagekind is 'verb', which is not taken from outside"),
        (foreign(messagekind="timer"), "not taken from outside"),
        (b'{"id": "1"}', "missing required field `specversion`"),
        (b"[]", "expected `object`, got `array`"),
        (b'{"id": "1", "id": "2"}', "twice"),
    ],
)
def test_a_cloud_event_that_is_refused(raw: bytes, said: str) -> None:
    with pytest.raises(BadMessage, match=said):
        cloud_event(raw)


# Lines of events.


class OrderPlaced(Event, version=2):
    order_id: str
    units: int = 1


@listener
def note(event: OrderPlaced) -> None: ...


SHOP = App("shop", listeners=[note])


def test_a_bare_payload() -> None:
    envelope = event_line(b'  {"order_id": "1"}\r\n', SHOP, "OrderPlaced", now=5.0)
    assert (envelope.kind, envelope.type, envelope.time) == (Kind.EVENT, "OrderPlaced", 5.0)
    assert bytes(envelope.data) == b'{"order_id":"1","units":1}'


def test_the_same_line_has_the_same_id() -> None:
    ids = [
        event_line(line, SHOP, "OrderPlaced").id
        for line in (b'{"order_id": "1"}', b' {"order_id": "1"}\n', b'{"order_id": "2"}', b'{"order_id":"1"}')
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert ids[0].startswith("line-")


def test_a_wrapped_event() -> None:
    envelope = event_line(b'{"type": "OrderPlaced", "data": {"order_id": "1"}}', SHOP)
    assert (envelope.type, bytes(envelope.data)) == ("OrderPlaced", b'{"order_id":"1","units":1}')
    assert envelope.id.startswith("line-")
    assert event_line(b'{"id": "e7", "type": "OrderPlaced", "data": {"order_id": "1"}}', SHOP, "Other").id == "e7"


def test_a_cloud_event_in_a_line() -> None:
    envelope = event_line(foreign(data={"order_id": "1"}, dataversion=2, time="1970-01-01T00:00:09Z"), SHOP, now=5.0)
    assert (envelope.id, envelope.time) == ("7", 9.0)


def test_the_version_of_a_bare_payload_is_the_present_one() -> None:
    assert event_line(b'{"order_id": "1"}', SHOP, "OrderPlaced").version == 2


@pytest.mark.parametrize(
    ("line", "default", "said"),
    [
        (b'{"order_id": 1}', "OrderPlaced", r"OrderPlaced.order_id: expected `str`, got `int`"),
        (b'{"order_id": "1", "units": "x"}', "OrderPlaced", r"OrderPlaced.units: expected `int`"),
        (b"{}", "OrderPlaced", "missing required field `order_id`"),
        (
            b'{"order_id": "1"}',
            "OrderPlacd",
            "OrderPlacd is no event that shop takes .*; did you mean OrderPlaced",
        ),
        (b'{"order_id": "1"}', "Xyz", "Xyz is no event .*; it takes OrderPlaced"),
        (b'{"order_id": "1"}', "", "it does not say its type"),
        (b'{"type": "", "data": {}}', "", "type must be a text that is not empty"),
        (b'{"type": 3, "data": {}}', "", "type must be a text"),
        (b'{"type": "OrderPlaced", "data": {"order_id": "1"}, "id": ""}', "", "id must be a text"),
        (b'{"type": "OrderPlaced", "data": [1]}', "", "expected `object`, got `array`"),
        (b"[1]", "OrderPlaced", "it is an array, not an object"),
        (b"null", "OrderPlaced", "it is null, not an object"),
        (b"true", "OrderPlaced", "it is true or false, not an object"),
        (b"3", "OrderPlaced", "it is a number, not an object"),
        (b"{oops", "OrderPlaced", "it is not JSON"),
        (foreign(messagekind="yes", data={"order_id": "1"}), "", "it is a yes, not an event"),
        (foreign(dataversion=9), "", "version 9 is newer"),
    ],
)
def test_a_line_that_is_refused(line: bytes, default: str, said: str) -> None:
    with pytest.raises(BadMessage, match=said):
        event_line(line, SHOP, default)
