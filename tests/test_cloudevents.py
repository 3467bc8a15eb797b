"""The official SDK of CloudEvents as a judge: it reads what we write, and we read what it writes, in every form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from orchestrator import BadMessage
from orchestrator.cloudevents import STRUCTURED, Received, received, text_headers, to_cloud_event
from orchestrator.wire import Envelope, Kind

from .servers.process import missing

try:
    from cloudevents.core.bindings import amqp, http, kafka, rabbitmq
    from cloudevents.core.v1.event import CloudEvent
except ModuleNotFoundError:
    missing("the SDK of CloudEvents", "pip install 'saga-orchestrator[servers]'")


class Carried(NamedTuple):
    """A message as a bus delivers it: the names of its headers in lower case, their values as text."""

    body: bytes
    headers: dict[str, str]


# How the bindings of the SDK lay an event on the wire, and what our adapters make of that.


def by_http(event: CloudEvent, is_binary: bool) -> Carried:
    message = http.to_binary_event(event) if is_binary else http.to_structured_event(event)
    return Carried(message.body, _lower(message.headers))


def by_kafka(event: CloudEvent, is_binary: bool) -> Carried:
    message = kafka.to_binary_event(event) if is_binary else kafka.to_structured_event(event)
    return Carried(message.value, _lower({name: value.decode() for name, value in message.headers.items()}))


def by_amqp(event: CloudEvent, is_binary: bool) -> Carried:
    """The properties have types of their own: a number, a boolean, a time in milliseconds."""
    message = amqp.to_binary_event(event) if is_binary else amqp.to_structured_event(event)
    headers = {**message.properties, **message.application_properties}
    return Carried(message.application_data, _lower({name: str(value) for name, value in headers.items()}))


def by_rabbitmq(event: CloudEvent, is_binary: bool) -> Carried:
    message = rabbitmq.to_binary_event(event) if is_binary else rabbitmq.to_structured_event(event)
    return Carried(message.body, _lower({**message.headers, "content-type": message.content_type or ""}))


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


Binding = Callable[[CloudEvent, bool], Carried]
BINDINGS: list[Binding] = [by_http, by_kafka, by_amqp, by_rabbitmq]
by_every_binding = pytest.mark.parametrize("carry", BINDINGS)
in_both_modes = pytest.mark.parametrize("is_binary", [True, False], ids=["binary", "structured"])

# What is said.

_CHARS = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))
_TEXTS = st.text(_CHARS, max_size=40)
_NAMES = st.text(_CHARS, min_size=1, max_size=40)
_TIMES = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC)).map(
    lambda moment: moment.replace(microsecond=moment.microsecond // 1_000 * 1_000)  # AMQP has milliseconds
)
_NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
_PAYLOAD_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
_JSON = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _PAYLOAD_TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_PAYLOAD_TEXTS, inner, max_size=4),
    max_leaves=12,
)
_PAYLOADS = st.dictionaries(_PAYLOAD_TEXTS, _JSON, max_size=4)
_ENVELOPES = st.builds(
    Envelope,
    id=_NAMES,
    kind=st.sampled_from([Kind.EVENT, Kind.COMMAND, Kind.YES, Kind.REFUSAL, Kind.FAILURE]),
    type=_NAMES,
    data=_PAYLOADS.map(lambda payload: Raw(json.dumps(payload).encode())),
    time=_TIMES.map(datetime.timestamp),
    saga=_TEXTS,
    key=_TEXTS,
    reply_to=_TEXTS,
    attempt=st.integers(0, 10**9 - 1),
    clean=st.booleans(),
    version=st.integers(1, 10**9 - 1),
    user=_TEXTS,
    correlation_id=_TEXTS,
    causation_id=_TEXTS,
    traceparent=_TEXTS,
)
_ATTRIBUTES = st.fixed_dictionaries(
    {"id": _NAMES, "source": _NAMES, "type": _NAMES, "specversion": st.just("1.0"), "time": _TIMES},
    optional={
        "subject": _NAMES,
        "datacontenttype": st.sampled_from(["application/json", "application/vnd.shop+json; charset=utf-8"]),
        "dataschema": st.just("https://shop.example/order"),
        "partitionkey": _NAMES,
        "correlationid": _TEXTS,
        "causationid": _TEXTS,
        "inreplyto": _TEXTS,
        "sagatype": _TEXTS,
        "sagakey": _TEXTS,
        "messagekind": st.sampled_from(["command", "yes", "refusal", "failure"]),
        "attempt": st.integers(0, 10**9 - 1),
        "clean": st.booleans(),
        "undoes": _TEXTS,
        "replyto": _TEXTS,
        "traceparent": _TEXTS,
        "dataversion": st.integers(1, 10**9 - 1),
    },
)


# It reads ours.


@given(_ENVELOPES, _TEXTS, _TEXTS, st.none() | _TIMES)
def test_it_reads_what_we_send(envelope: Envelope, undoes: str, reply_to: str, deadline: datetime | None) -> None:
    until = None if deadline is None else deadline.timestamp()
    body = to_cloud_event(envelope, "/orchestrator/shop", undoes=undoes, deadline=until, reply_to=reply_to)
    headers = text_headers(envelope)
    found = [
        http.from_http_event(http.HTTPMessage(headers, body)),
        kafka.from_kafka_event(kafka.KafkaMessage({k: v.encode() for k, v in headers.items()}, None, body)),
        amqp.from_amqp_event(amqp.AMQPMessage({"content-type": STRUCTURED}, {}, body)),
        rabbitmq.from_rabbitmq_event(rabbitmq.RabbitMQMessage(headers, STRUCTURED, body)),
    ]
    expected = {
        "specversion": "1.0",
        "id": envelope.id,
        "source": "/orchestrator/shop",
        "type": envelope.type,
        "subject": envelope.key,
        "time": datetime.fromtimestamp(envelope.time, UTC),
        "datacontenttype": "application/json",
        "dataversion": envelope.version if envelope.version != 1 else None,
        "correlationid": envelope.correlation_id,
        "causationid": envelope.causation_id,
        "inreplyto": envelope.reply_to,
        "sagatype": envelope.saga,
        "sagakey": envelope.key,
        "messagekind": envelope.kind.value if envelope.kind is not Kind.EVENT else None,
        "attempt": envelope.attempt,
        "clean": envelope.clean,
        "undoes": undoes,
        "replyto": reply_to,
        "messageuser": envelope.user,
        "traceparent": envelope.traceparent,
    }
    for event in found:
        attributes = event.get_attributes()
        told = attributes.pop("deadline", None)
        assert (None if told is None else datetime.fromisoformat(told)) == deadline
        assert attributes == {name: value for name, value in expected.items() if value}
        assert event.get_data() == json.loads(bytes(envelope.data))


# We read what it writes.


@by_every_binding
@in_both_modes
@given(attributes=_ATTRIBUTES, payload=_PAYLOADS)
def test_we_read_what_it_sends(
    carry: Binding, is_binary: bool, attributes: dict[str, Any], payload: dict[str, Any]
) -> None:
    if carry is by_rabbitmq and is_binary:  # as the next test but one says
        attributes = {k: v.replace("%", "") or "-" if isinstance(v, str) else v for k, v in attributes.items()}
    found = _read(carry(CloudEvent(attributes, payload), is_binary))
    envelope = found.envelope
    assert envelope.kind.value == attributes.get("messagekind", "event")
    assert msgspec.json.decode(envelope.data) == json.loads(json.dumps(payload))
    assert envelope.time == attributes["time"].timestamp()
    told = {
        "id": envelope.id,
        "source": found.source,
        "type": envelope.type,
        "correlationid": envelope.correlation_id,
        "causationid": envelope.causation_id,
        "inreplyto": envelope.reply_to,
        "sagatype": envelope.saga,
        "sagakey": envelope.key,
        "attempt": envelope.attempt,
        "clean": envelope.clean,
        "undoes": found.undoes,
        "replyto": found.reply_to,
        "traceparent": envelope.traceparent,
        "dataversion": envelope.version,
    }
    absent = {"attempt": 0, "clean": False, "dataversion": 1}
    assert told == {name: attributes.get(name, absent.get(name, "")) for name in told}


@pytest.mark.parametrize("written", ["1700000000250", "2023-11-14 22:13:20.25+00:00", "2023-11-14T22:13:20.250Z"])
def test_a_time_of_amqp_is_read_in_each_of_its_forms(written: str) -> None:
    attributes = {"specversion": "1.0", "id": "1", "source": "/s", "type": "T", "time": written, "deadline": written}
    found = received(b"{}", {f"cloudevents:{name}": value for name, value in attributes.items()}, None)
    assert (found.envelope.time, found.deadline) == (1_700_000_000.25, 1_700_000_000.25)
    with pytest.raises(BadMessage, match="time"):
        received(
            b"{}", {f"cloudevents:{name}": value for name, value in (attributes | {"time": "9" * 20}).items()}, None
        )


@by_every_binding
@in_both_modes
def test_payloads_that_are_not_json_are_refused(carry: Binding, is_binary: bool) -> None:
    attributes = {"id": "1", "source": "/s", "type": "T", "specversion": "1.0", "datacontenttype": "image/png"}
    with pytest.raises(BadMessage):
        _read(carry(CloudEvent(attributes, b"\x89PNG"), is_binary))


def test_what_the_binding_of_rabbitmq_leaves_unescaped_is_read_as_escaped() -> None:
    """It borrows the prefix of HTTP and NATS without the percent-encoding that those ask for."""
    attributes = {"id": "a%20b", "source": "/s", "type": "T", "specversion": "1.0"}
    event = CloudEvent(attributes, {})
    assert _read(by_rabbitmq(event, True)).envelope.id == "a b"
    for carry in (by_http, by_kafka, by_amqp):
        assert _read(carry(event, True)).envelope.id == "a%20b"
    assert _read(by_rabbitmq(event, False)).envelope.id == "a%20b"


def _read(carried: Carried) -> Received:
    return received(carried.body, carried.headers, None)
