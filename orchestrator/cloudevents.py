"""CloudEvents 1.0, the form in which messages leave this process and come into it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from typing import cast
from urllib.parse import unquote

import msgspec
from msgspec import Raw, Struct

from .errors import BadMessage
from .strictjson import BODY_BYTES, DEPTH, strict_json
from .topics import Plain
from .wire import Envelope, Kind

STRUCTURED = "application/cloudevents+json"
NAME_CHARS = 1024  # of an id, a type and every other attribute round the payload
NUMBER_DIGITS = 9  # of a version and an attempt
NUMBERS_END = 10**NUMBER_DIGITS
MILLISECOND_DIGITS = 14  # of a time: up to the year 5138
SHOWN_CHARS = 80  # of what is wrong, in the text of an error

_ABSENT = Raw()
_NO_PAYLOAD = Raw(b"{}")


class _CloudEvent(Struct, frozen=True, omit_defaults=True, gc=False):
    """CloudEvents 1.0 in JSON, with our extensions: lower-case letters and digits only."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str = ""
    time: datetime | None = None
    datacontenttype: str = ""
    dataversion: int | str = 1
    correlationid: str = ""
    causationid: str = ""
    inreplyto: str = ""
    sagatype: str = ""
    sagakey: str = ""
    messagekind: str = ""
    attempt: int | str = 0
    clean: bool | str = False
    undoes: str = ""
    deadline: datetime | None = None
    replyto: str = ""
    messageuser: str = ""
    traceparent: str = ""
    data_base64: str = ""
    data: Raw = _ABSENT


def to_cloud_event(
    envelope: Envelope, source: str, *, undoes: str = "", deadline: float | None = None, reply_to: str = ""
) -> bytes:
    """The message as CloudEvents 1.0 JSON. `source` names who sends, a URI reference such as `/orchestrator/shop`.

    For a command `id` is the idempotency key; `undoes` the key of the do that it undoes; `deadline`, in seconds since
    1970, when the attempt is given up; `reply_to` the topic that its answer goes to.
    """
    return msgspec.json.encode(
        _CloudEvent(
            specversion="1.0",
            id=envelope.id,
            source=source,
            type=envelope.type,
            subject=envelope.key,
            time=_moment(envelope.time),
            datacontenttype="application/json",
            dataversion=envelope.version,
            correlationid=envelope.correlation_id,
            causationid=envelope.causation_id,
            inreplyto=envelope.reply_to,
            sagatype=envelope.saga,
            sagakey=envelope.key,
            messagekind="" if envelope.kind is Kind.EVENT else envelope.kind.value,
            attempt=envelope.attempt,
            clean=envelope.clean,
            undoes=undoes,
            deadline=None if deadline is None else _moment(deadline),
            replyto=reply_to,
            messageuser=envelope.user,
            traceparent=envelope.traceparent,
            data=envelope.data,
        )
    )


def boundary_event(envelope: Envelope, source: str) -> bytes:
    """An event as CloudEvents 1.0 JSON for the outside: without what only matters among ourselves, such as who caused
    it; its version is always given.
    """
    parts: dict[str, object] = {
        "specversion": "1.0",
        "id": envelope.id,
        "source": source,
        "type": envelope.type,
        "time": _moment(envelope.time),
        "datacontenttype": "application/json",
        "dataversion": envelope.version,
    }
    if envelope.key:
        parts["subject"] = envelope.key
    return msgspec.json.encode(parts | {"data": envelope.data})


class Received(Struct, frozen=True, gc=False):
    """A message from a bus: what `to_cloud_event` was given. Of one without CloudEvents, `source` is empty."""

    envelope: Envelope
    source: str = ""
    undoes: str = ""
    deadline: float | None = None
    reply_to: str = ""


def cloud_event(raw: bytes, limit: int = BODY_BYTES, depth: int = DEPTH) -> Envelope:
    """The message in a CloudEvents 1.0 JSON object, as `to_cloud_event` or any other sender writes it.

    Unknown extensions are passed over; a missing time is 0. What only this process says to itself (timers, operators'
    verbs) is refused. The payload is not looked into. Errors: BadMessage.
    """
    return received(raw, {}, None, limit, depth).envelope


def received(
    body: bytes, headers: Mapping[str, str], plain: Plain | None, limit: int = BODY_BYTES, depth: int = DEPTH
) -> Received:
    """The message that a bus delivered, in structured or binary mode, or with `plain` as JSON of somebody who speaks
    no CloudEvents. The names of the headers are in lower case. Errors: BadMessage, as `cloud_event`.
    """
    media_type = headers.get("content-type", "")
    if media_type != STRUCTURED:
        media_type = media_type.partition(";")[0].strip().lower()
        if media_type.startswith("application/cloudevents") and media_type != STRUCTURED:
            raise BadMessage(f"content-type is {_quoted(media_type)}: only {STRUCTURED} is read")
    attributes = {} if media_type == STRUCTURED else _attributes(headers)
    content: object = strict_json(body, limit, depth)
    if "specversion" in attributes:
        return decoded(_structured(attributes, media_type, body))
    if plain is not None:
        payload = cast("dict[str, object]", content) if isinstance(content, dict) else {}
        if "specversion" not in payload:
            return Received(_from_plain(payload, body, plain))
    return decoded(body)


def text_headers(envelope: Envelope) -> dict[str, str]:
    """What a reader may look at without decoding the body, which is a CloudEvent in structured mode."""
    headers = {"content-type": STRUCTURED, "type": envelope.type}
    if envelope.correlation_id:
        headers["correlationid"] = envelope.correlation_id
    if envelope.causation_id:
        headers["causationid"] = envelope.causation_id
    if envelope.reply_to:
        headers["inreplyto"] = envelope.reply_to
    if envelope.traceparent:
        headers["traceparent"] = envelope.traceparent
    return headers


_CLOUD_EVENT = msgspec.json.Decoder(_CloudEvent)
_KINDS = (Kind.EVENT, Kind.COMMAND, Kind.YES, Kind.REFUSAL, Kind.FAILURE)
_FROM_OUTSIDE = {"": Kind.EVENT} | {kind.value: kind for kind in _KINDS}
_NAMES = ("source", "id", "type")
_TEXTS = (
    *("sagatype", "sagakey", "inreplyto", "messageuser", "correlationid", "causationid", "traceparent"),
    *("undoes", "replyto"),
)
_JSON_TYPES = ("application/json", "")
_JSON_TYPE = re.compile(r"application/([\w.-]+\+)?json *(;.*)?", re.IGNORECASE)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def decoded(raw: bytes) -> Received:
    """The message in a CloudEvents 1.0 JSON object that `strict_json` has passed. Errors: BadMessage."""
    event = _decoded_event(raw)
    if event.specversion != "1.0":
        raise BadMessage(f"specversion is {_quoted(event.specversion)}: only CloudEvents 1.0 is read")
    if event.data_base64:
        raise BadMessage("data_base64 is not read: send the payload as JSON in `data`")
    if event.datacontenttype not in _JSON_TYPES and not _JSON_TYPE.fullmatch(event.datacontenttype):
        raise BadMessage(f"datacontenttype is {_quoted(event.datacontenttype)}: only JSON is read")
    kind = _FROM_OUTSIDE.get(event.messagekind)
    if kind is None:
        raise BadMessage(f"messagekind is {_quoted(event.messagekind)}, which is not taken from outside")
    _check_texts(event)
    envelope = Envelope(
        id=event.id,
        kind=kind,
        type=event.type,
        data=_NO_PAYLOAD if event.data is _ABSENT else event.data,
        time=0.0 if event.time is None else _seconds("time", event.time),
        saga=event.sagatype,
        key=event.sagakey,
        reply_to=event.inreplyto,
        attempt=_attempt(event.attempt),
        clean=_flag("clean", event.clean),
        version=_version(event.dataversion),
        user=event.messageuser,
        correlation_id=event.correlationid,
        causation_id=event.causationid,
        traceparent=event.traceparent,
    )
    deadline = None if event.deadline is None else _seconds("deadline", event.deadline)
    return Received(envelope, event.source, event.undoes, deadline, event.replyto)


def _check_texts(event: _CloudEvent) -> None:
    """What is fine together is so one by one: all attributes of most messages pass in one look."""
    together = (
        f"{event.id}{event.source}{event.type}{event.sagatype}{event.sagakey}{event.inreplyto}{event.messageuser}"
        f"{event.correlationid}{event.causationid}{event.traceparent}{event.undoes}{event.replyto}"
    )
    if event.id and event.source and event.type and len(together) <= NAME_CHARS and together.isprintable():
        return
    for attribute in _NAMES:
        name_of(attribute, getattr(event, attribute))
    for attribute in _TEXTS:
        text_of(attribute, getattr(event, attribute))


def _decoded_event(raw: bytes) -> _CloudEvent:
    try:
        return _CLOUD_EVENT.decode(raw if b"null" not in raw else _without_nulls(raw))
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$.")
        raise BadMessage(f"CloudEvent{'.' if path else ''}{path.rstrip('`')}: {what[:1].lower()}{what[1:]}") from None


def _without_nulls(raw: bytes) -> bytes:
    """An attribute that is null is one that is not there; the payload may be null."""
    parts = msgspec.json.decode(raw, type=dict[str, Raw])
    return msgspec.json.encode({k: v for k, v in parts.items() if k == "data" or bytes(v).strip() != b"null"})


def name_of(attribute: str, value: object) -> str:
    """An attribute that must be there."""
    if not isinstance(value, str) or not value:
        raise BadMessage(f"{attribute} must be a text that is not empty")
    return text_of(attribute, value)


def text_of(attribute: str, value: str) -> str:
    if len(value) > NAME_CHARS:
        raise BadMessage(f"{attribute} has {len(value):,} characters, the limit is {NAME_CHARS:,}")
    if _CONTROL.search(value):
        raise BadMessage(f"{attribute} holds a control character")
    return value


def _version(value: int | str) -> int:
    if type(value) is int and 1 <= value < NUMBERS_END:
        return value
    text = str(value)
    if not text.isascii() or not text.isdigit() or len(text) > NUMBER_DIGITS or int(text) < 1:
        raise BadMessage(f"dataversion is {_quoted(value)}: versions are whole numbers from 1")
    return int(text)


def _attempt(value: int | str) -> int:
    if type(value) is int and 0 <= value < NUMBERS_END:
        return value
    text = str(value)
    if not text.isascii() or not text.isdigit() or len(text) > NUMBER_DIGITS:
        raise BadMessage(f"attempt is {_quoted(value)}: attempts count from 1")
    return int(text)


def _flag(attribute: str, value: bool | str) -> bool:
    """A boolean, or the text that stands for one in a header, where some write it with a capital."""
    if isinstance(value, bool):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise BadMessage(f"{attribute} is {_quoted(value)}, neither true nor false")


def _quoted(value: object) -> str:
    """What came from outside, as much of it as an error needs."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _seconds(attribute: str, moment: datetime) -> float:
    if moment.tzinfo is None:
        raise BadMessage(f"{attribute} has no time zone: write RFC 3339, as 2026-01-31T12:00:00Z")
    seconds = moment.timestamp()
    if MINYEAR < moment.year < MAXYEAR:
        return seconds
    try:
        _moment(seconds)
    except (ValueError, OverflowError):
        raise BadMessage(f"{attribute} is beyond the years 1 to 9999 in UTC") from None
    return seconds


# Binary mode: attributes in headers, as the bindings of HTTP, NATS, Kafka and AMQP name them.

_TIMES = ("time", "deadline")
_PREFIXES = ("ce-", "ce_", "cloudevents:", "cloudevents_")


def _attributes(headers: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for header, value in headers.items():
        prefix = next((prefix for prefix in _PREFIXES if header.startswith(prefix)), "")
        if prefix and header != prefix:
            name = header.removeprefix(prefix)
            found[name] = unquote(value) if prefix == "ce-" else _from_property(name, value)
    return found


def _from_property(name: str, value: str) -> str:
    """A time of AMQP's own type comes as milliseconds since 1970."""
    if name in _TIMES and value.isascii() and value.isdigit() and len(value) <= MILLISECOND_DIGITS:
        return _moment(int(value) / 1000).isoformat()
    return value


def _structured(attributes: Mapping[str, str], media_type: str, body: bytes) -> bytes:
    """The same message in structured mode. No header can take the place of the payload."""
    parts: dict[str, str | Raw] = {
        name: value
        for name, value in attributes.items()
        if not name.startswith("data") or name in ("dataversion", "dataschema")
    }
    return msgspec.json.encode(parts | {"datacontenttype": media_type or "application/json", "data": Raw(body)})


# No CloudEvents at all.


def _from_plain(payload: Mapping[str, object], body: bytes, plain: Plain) -> Envelope:
    wire_type = plain.type or _field(payload, plain.type_field)
    if not wire_type:
        raise BadMessage(f"its field {plain.type_field!r}, which is to hold its type, is missing or empty")
    hashed = hashlib.sha256(wire_type.encode() + b"\0" + body).hexdigest()[:40]
    return Envelope(
        id=name_of("id", _field(payload, plain.id_field) or f"plain-{hashed}"),
        kind=Kind.EVENT,
        type=name_of("type", wire_type),
        data=Raw(body),
        key=text_of("key", _field(payload, plain.key_field)),
    )


def _field(payload: Mapping[str, object], name: str) -> str:
    value = payload.get(name) if name else None
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
