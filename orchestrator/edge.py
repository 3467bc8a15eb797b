"""What comes from outside: strict JSON, CloudEvents, lines of events. What passes here is safe in every store."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, cast

import msgspec
from msgspec import Raw, Struct

from .app import App
from .errors import BadMessage
from .messages import Event, decode, encode, type_version
from .wire import Envelope, Kind

BODY_BYTES = 1024 * 1024
DEPTH = 64
NAME_CHARS = 1024  # of an id, a type and every other attribute round the payload
INT_BITS = 63
NUMBER_DIGITS = 9  # of a version and an attempt
SHOWN_CHARS = 80  # of what is wrong, in the text of an error


def strict_json(raw: bytes, limit: int = BODY_BYTES, depth: int = DEPTH) -> Any:
    """The builtins that one JSON text stands for.

    Refused, because a store, a driver or another reader would choke on it or read it differently: more than `limit`
    bytes or `depth` levels, NaN and infinities, numbers over a float's range, integers of 2**63 and more, lone
    surrogates, NUL characters, a key twice in one object, a byte order mark, bytes that are not UTF-8, and anything
    behind the value. Errors: BadMessage, a sentence that says which.
    """
    if len(raw) > limit:
        raise BadMessage(f"it has {len(raw):,} bytes, the limit is {limit:,}")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise BadMessage("it begins with a byte order mark: write UTF-8 without one")
    if raw.count(b"[") + raw.count(b"{") > depth and _is_deeper(raw, depth):
        raise BadMessage(f"it is nested deeper than {depth} levels")
    if b"\\u0000" in raw and _NUL.search(raw):
        raise BadMessage("it holds the NUL character \\u0000, which not every database can store")
    try:
        _check_syntax(raw)
        return _unique_keys.decode(raw.decode())
    except RecursionError:  # `depth` may be more than Python reads
        raise BadMessage("it is nested too deeply") from None


class _Part(Struct, frozen=True):
    """Where a payload stands in a line or CloudEvent: its own bytes, untouched."""

    data: Raw = Raw()


class _CloudEvent(Struct, frozen=True, omit_defaults=True):
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
    attempt: int = 0
    clean: bool = False
    undoes: str = ""
    deadline: datetime | None = None
    messageuser: str = ""
    traceparent: str = ""
    data_base64: str = ""
    data: Raw = Raw()


def to_cloud_event(envelope: Envelope, source: str, *, undoes: str = "", deadline: float | None = None) -> bytes:
    """The message as CloudEvents 1.0 JSON. `source` names who sends, a URI reference such as `/orchestrator/shop`.

    For a command `id` is the idempotency key; `undoes` the key of the do that it undoes; `deadline`, in seconds since
    1970, when the attempt is given up.
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
            messageuser=envelope.user,
            traceparent=envelope.traceparent,
            data=envelope.data,
        )
    )


def cloud_event(raw: bytes, limit: int = BODY_BYTES, depth: int = DEPTH) -> Envelope:
    """The message in a CloudEvents 1.0 JSON object, as `to_cloud_event` or any other sender writes it.

    Unknown extensions are passed over; a missing time is 0. What only this process says to itself (timers, operators'
    verbs) is refused. The payload is not looked into. Errors: BadMessage.
    """
    strict_json(raw, limit, depth)
    return _from_cloud_event(raw)


def event_line(
    raw: bytes, app: App[Any], default_type: str = "", *, now: float = 0.0, limit: int = BODY_BYTES, depth: int = DEPTH
) -> Envelope:
    """The event in one line of NDJSON: a CloudEvent, or `{"type": ..., "data": {...}}` with or without `"id"`, or the
    bare payload of an event of `default_type`.

    The id is the event's own, or else a hash of its type and the line, so that the same line twice is the same event.
    `now` is its time if it says none. Its payload is what the app's class makes of it, in the present version. Errors:
    BadMessage, naming the field, or the types that the app takes.
    """
    line = raw.strip()
    content = _as_object(strict_json(line, limit, depth))
    if "specversion" in content:
        envelope = _from_cloud_event(line)
        if envelope.kind is not Kind.EVENT:
            raise BadMessage(f"it is a {envelope.kind.value}, not an event")
    elif {"type", "data"} <= content.keys() <= {"type", "data", "id"}:
        wire_type = _name("type", content["type"])
        id = _name("id", content["id"]) if "id" in content else _hash(wire_type, line)
        envelope = _event(id, wire_type, _PART.decode(line).data, app)
    elif default_type:
        envelope = _event(_hash(default_type, line), default_type, Raw(line), app)
    else:
        raise BadMessage('it does not say its type: give one, or write {"type": ..., "data": {...}}')
    cls = _class(envelope.type, app)
    data = Raw(encode(decode(cls, envelope.data, envelope.version)))  # so that a bare secret is stored as one
    return msgspec.structs.replace(envelope, data=data, version=type_version(cls), time=envelope.time or now)


def _event(id: str, wire_type: str, data: Raw, app: App[Any]) -> Envelope:
    """An event that says no version: the present one."""
    return Envelope(id=id, kind=Kind.EVENT, type=wire_type, data=data, version=type_version(_class(wire_type, app)))


def _as_object(content: object) -> dict[str, Any]:
    if isinstance(content, dict):
        return cast("dict[str, Any]", content)
    name = next((name for kind, name in _JSON_NAMES.items() if isinstance(content, kind)), "null")
    raise BadMessage(f"it is {name}, not an object")


def _class(wire_type: str, app: App[Any]) -> type[Event]:
    cls = app.event_types.get(wire_type)
    if cls is None:
        near = get_close_matches(wire_type, list(app.event_types), 1)
        remedy = f"did you mean {near[0]}?" if near else f"it takes {', '.join(sorted(app.event_types)) or 'none'}"
        raise BadMessage(f"{wire_type} is no event that {app.name} takes or publishes; {remedy}")
    return cls


def _hash(wire_type: str, line: bytes) -> str:
    return "line-" + hashlib.sha256(wire_type.encode(errors="surrogatepass") + b"\0" + line).hexdigest()[:40]


# CloudEvents.

_PART = msgspec.json.Decoder(_Part)
_CLOUD_EVENT = msgspec.json.Decoder(_CloudEvent)
_FROM_OUTSIDE = {kind.value: kind for kind in (Kind.EVENT, Kind.COMMAND, Kind.YES, Kind.REFUSAL, Kind.FAILURE)}
_JSON_TYPE = re.compile(r"application/([\w.-]+\+)?json *(;.*)?", re.IGNORECASE)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def _from_cloud_event(raw: bytes) -> Envelope:
    event = _decoded_event(raw)
    if event.specversion != "1.0":
        raise BadMessage(f"specversion is {_quoted(event.specversion)}: only CloudEvents 1.0 is read")
    if event.data_base64:
        raise BadMessage("data_base64 is not read: send the payload as JSON in `data`")
    if event.datacontenttype and not _JSON_TYPE.fullmatch(event.datacontenttype):
        raise BadMessage(f"datacontenttype is {_quoted(event.datacontenttype)}: only JSON is read")
    kind = _FROM_OUTSIDE.get(event.messagekind or Kind.EVENT.value)
    if kind is None:
        raise BadMessage(f"messagekind is {_quoted(event.messagekind)}, which is not taken from outside")
    _name("source", event.source)
    return Envelope(
        id=_name("id", event.id),
        kind=kind,
        type=_name("type", event.type),
        data=event.data if bytes(event.data) else Raw(b"{}"),
        time=0.0 if event.time is None else _seconds("time", event.time),
        saga=_text("sagatype", event.sagatype),
        key=_text("sagakey", event.sagakey),
        reply_to=_text("inreplyto", event.inreplyto),
        attempt=_attempt(event.attempt),
        clean=event.clean,
        version=_version(event.dataversion),
        user=_text("messageuser", event.messageuser),
        correlation_id=_text("correlationid", event.correlationid),
        causation_id=_text("causationid", event.causationid),
        traceparent=_text("traceparent", event.traceparent),
    )


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


def _name(attribute: str, value: object) -> str:
    """An attribute that must be there."""
    if not isinstance(value, str) or not value:
        raise BadMessage(f"{attribute} must be a text that is not empty")
    return _text(attribute, value)


def _text(attribute: str, value: str) -> str:
    if len(value) > NAME_CHARS:
        raise BadMessage(f"{attribute} has {len(value):,} characters, the limit is {NAME_CHARS:,}")
    if _CONTROL.search(value):
        raise BadMessage(f"{attribute} holds a control character")
    return value


def _version(value: int | str) -> int:
    text = str(value)
    if not text.isascii() or not text.isdigit() or len(text) > NUMBER_DIGITS or int(text) < 1:
        raise BadMessage(f"dataversion is {_quoted(value)}: versions are whole numbers from 1")
    return int(text)


def _attempt(value: int) -> int:
    if not 0 <= value < 10**NUMBER_DIGITS:
        raise BadMessage(f"attempt is {value}: attempts count from 1")
    return value


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
    try:
        _moment(seconds)
    except (ValueError, OverflowError):
        raise BadMessage(f"{attribute} is beyond the years 1 to 9999 in UTC") from None
    return seconds


# Strict JSON.

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_HALF = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?P<rest>.{0,5})\Z", re.DOTALL)
_SECOND_BEGUN = re.compile(rb"(\\(u([dD]([c-fC-F][0-9a-fA-F]?)?)?)?)?")
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.?)*+"?|[\[{]|[\]}]', re.DOTALL)  # a text without end goes to the end: linear
_JSON_NAMES = {list: "an array", str: "a text", bool: "true or false", int: "a number", float: "a number"}


def _is_deeper(raw: bytes, depth: int) -> bool:
    """Whether brackets outside of texts nest deeper; without recursion, before anything is decoded."""
    level = 0
    for match in _BRACKETS.finditer(raw):
        token = match[0]
        if token in (b"[", b"{"):
            level += 1
            if level > depth:
                return True
        elif token in (b"]", b"}"):
            level -= 1
    return False


def _check_syntax(raw: bytes) -> None:
    """msgspec is strict about syntax, NaN, the range of numbers, UTF-8 and surrogates."""
    try:
        msgspec.json.decode(raw)
    except UnicodeDecodeError as error:
        raise BadMessage(f"it is not UTF-8: {error.reason} at byte {error.start} of a text") from None
    except msgspec.DecodeError as error:
        raise BadMessage(_sentence(raw, str(error))) from None


def _sentence(raw: bytes, error: str) -> str:
    if error == "Input data was truncated":
        if _ends_in_half_a_pair(raw):
            return "it holds half a surrogate pair, which is no character"
        return "it is not JSON: it ends too early" if raw.strip() else "it is empty"
    if "surrogate" in error:
        return f"it holds half a surrogate pair, which is no character: {error.removeprefix('JSON is malformed: ')}"
    if "out of range" in error:
        return "it holds a number that is out of range: integers are below 2**63, others within a 64-bit float"
    return f"it is not JSON: {error.removeprefix('JSON is malformed: ')}"


def _ends_in_half_a_pair(raw: bytes) -> bool:
    """Whether the first half of a surrogate pair stands near the end, and what follows does not begin the second."""
    half = _HALF.search(raw)
    return half is not None and _SECOND_BEGUN.fullmatch(half["rest"]) is None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadMessage(f"it has the key {twice[:80]!r} twice in one object")
    return found


def _integer(text: str) -> int:
    number = int(text)
    if not -(2**INT_BITS) <= number < 2**INT_BITS:
        raise BadMessage(f"it holds the integer {text}, which does not fit into 64 bits with sign")
    return number


_unique_keys = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)
