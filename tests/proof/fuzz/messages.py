"""What comes as messages: strict JSON, CloudEvents, lines and files of events, payloads by type, ids of instances."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, cast
from uuid import UUID

import msgspec

from orchestrator import Command, Event, Message, Secret, upcast
from orchestrator.app import App
from orchestrator.cloudevents import cloud_event, to_cloud_event
from orchestrator.edge import event_line
from orchestrator.errors import BadMessage
from orchestrator.machine.instance import Call, CallKind, Instance, Visit
from orchestrator.messages import decode, encode, type_name, type_version
from orchestrator.operate.cli.emit import _Reading, _Report
from orchestrator.participant import listener
from orchestrator.runtime.intake import addressed
from orchestrator.strictjson import BODY_BYTES, DEPTH, strict_json
from orchestrator.wire import Address, Envelope, Kind
from orchestrator_adapters.sqlite.rows import HistoryCode

from .cases import Parser, Wrong
from .choices import TEXTS, Choices

LONGEST_ERROR = 4_000  # characters of what is said about a bad message: it is answered, logged and stored

# What the payloads are decoded as.


class Colour(Enum):
    """A closed choice."""

    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Line:
    """A part of a payload."""

    name: str
    count: int = 1
    price: Decimal = Decimal(1)


class Ordered(Event, version=3):
    """A payload with one field of every kind, and two older versions."""

    order: str
    total: Decimal = Decimal("1.50")
    card: Secret[str] = Secret("4111")
    lines: tuple[Line, ...] = (Line("tea"),)
    at: datetime = datetime(2026, 1, 31, 12, tzinfo=UTC)
    day: date = date(2026, 1, 31)
    lasts: timedelta = timedelta(hours=1)
    weight: float = 1.5
    number: int = 1
    id: UUID = UUID(int=1)
    colour: Colour = Colour.RED
    kind: Literal["a", "b", 3] = "a"
    tags: frozenset[str] = frozenset("t")
    raw: bytes = b"xyz"
    note: str | None = None
    either: int | str = 1
    hidden: Secret[Decimal] | None = None


@upcast(Ordered, from_version=1)
def with_total(stored: dict[str, Any]) -> dict[str, Any]:
    """Trusts what it is given, as people write it."""
    return {**stored, "total": str(stored.pop("sum"))}


@upcast(Ordered, from_version=2)
def with_order(stored: dict[str, Any]) -> dict[str, Any]:
    """May lose the type of what it lifts."""
    stored["order"] = stored.pop("number") if "number" in stored else stored["order"]
    return stored


class Plain(Event):
    """A payload of one text."""

    order: str


class Ship(Command):
    """A command, which no line of events may hold."""

    order: str


@listener
async def heard(event: Ordered | Plain) -> None:
    """Makes the events known to the app."""


app = App("fuzz", listeners=[heard])

_PLAIN_PAYLOAD = (('"order"', '"1"'),)
_PAYLOAD = (
    *(('"order"', '"1"'), ('"total"', '"1.50"'), ('"card"', '{"$secret":"4111"}')),
    *(('"lines"', '[{"name":"tea","count":2,"price":"0.5"}]'), ('"at"', '"2026-01-31T12:00:00Z"')),
    *(('"day"', '"2026-01-31"'), ('"lasts"', '"PT3600S"'), ('"weight"', "1.5"), ('"number"', "7")),
    *(('"id"', '"00000000-0000-0000-0000-000000000001"'), ('"colour"', '"blue"'), ('"kind"', "3")),
    *(('"tags"', '["a","b"]'), ('"raw"', '"AAAA"'), ('"note"', "null"), ('"either"', '"x"')),
    ('"hidden"', '{"$secret":"1.5"}'),
)
_EVENT = (
    *(('"specversion"', '"1.0"'), ('"id"', '"e-1"'), ('"source"', '"/shop"'), ('"type"', '"Ordered"')),
    *(('"time"', '"2026-01-31T12:00:00Z"'), ('"datacontenttype"', '"application/json"'), ('"dataversion"', '"3"')),
    *(('"subject"', '"1"'), ('"correlationid"', '"c"'), ('"causationid"', '"b"'), ('"traceparent"', '"00-1-2-03"')),
    *(('"inreplyto"', '"Order/1~r/charge#1"'), ('"sagatype"', '"Order"'), ('"sagakey"', '"1"'), ('"attempt"', "2")),
    *(('"messagekind"', '"yes"'), ('"clean"', "true"), ('"undoes"', '"u"'), ('"messageuser"', '"ada"')),
    ('"deadline"', '"2026-01-31T12:01:00Z"'),
)


def _payload(c: Choices) -> str:
    if c.one_in(2):
        return c.object(_PAYLOAD)
    return c.object([pair for pair in _PAYLOAD if pair[0] == '"order"' or c.one_in(3)])


def _cloud_event(c: Choices) -> str:
    data = ('"data"', c.object(_PLAIN_PAYLOAD) if c.one_in(2) else _payload(c))
    said = [pair for at, pair in enumerate(_EVENT) if at < 4 or c.one_in(3)]
    return c.object([*said, data])


# Strict JSON, against Python's own reader and the rules spelt out.


def strict(c: Choices) -> tuple[int, int]:
    """Taken exactly if Python reads it and every rule of the edge holds."""
    text = c.object([(c.json_text(), c.literal()) for _ in range(c.below(4))]) if c.one_in(2) else c.literal()
    raw = c.bytes_like(text.encode("utf-8", "surrogatepass"))
    limit, depth = (BODY_BYTES, DEPTH) if not c.one_in(8) else (c.below(64), c.pick((1, 3, 1_000, 100_000)))
    value = _told_or_refused(lambda: strict_json(raw, limit, depth))
    should = _is_allowed(raw, limit, depth)
    if value is REFUSED:
        if should and depth <= DEPTH:
            raise Wrong(f"it refuses {raw[:200]!r}")
        return 1, 0
    if not should:
        raise Wrong(f"it takes {raw[:200]!r}")
    if value != json.loads(raw) or strict_json(json.dumps(value).encode(), 2 * BODY_BYTES, depth) != value:
        raise Wrong(f"it reads {raw[:200]!r} as {value!r:.200}")
    return 1, 1


REFUSED = object()


def _told_or_refused(work: Callable[[], Any]) -> Any:
    """What it gives, or REFUSED where that is said as it should be: on one line, and not at any length."""
    try:
        return work()
    except BadMessage as error:
        text = str(error)
        if not text or len(text) > LONGEST_ERROR:
            raise Wrong(f"it says {len(text)} characters about a bad message") from error
        text.encode()
        return REFUSED


def _is_allowed(raw: bytes, limit: int, depth: int) -> bool:
    if len(raw) > limit:
        return False
    try:
        text = raw.decode()
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_never, parse_int=_in_range)
    except (ValueError, RecursionError):
        return False
    return _is_plain(value, depth)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _never(text: str) -> None:
    raise ValueError(text)


def _in_range(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError(text)
    return number


def _is_plain(value: Any, depth: int) -> bool:
    """Whether every text can be stored, every number is finite, and nothing is nested deeper."""
    match value:
        case str():
            return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
        case float():
            return math.isfinite(value)
        case list():
            return depth > 0 and all(_is_plain(inner, depth - 1) for inner in cast("list[Any]", value))
        case dict():
            pairs = cast("dict[str, Any]", value).items()
            return depth > 0 and all(_is_plain(k, 1) and _is_plain(v, depth - 1) for k, v in pairs)
        case _:
            return True


# CloudEvents.


def wire_event(c: Choices) -> tuple[int, int]:
    """What is taken keeps every limit, can be stored, and comes back the same from what we send."""
    raw = c.bytes_like(_cloud_event(c).encode("utf-8", "surrogatepass"))
    envelope = _told_or_refused(lambda: cloud_event(raw))
    if envelope is REFUSED:
        return 1, 0
    _check_envelope(envelope)
    back = cloud_event(to_cloud_event(envelope, "/fuzz"), 2 * BODY_BYTES)
    subject = msgspec.structs.replace(envelope, key=envelope.key)
    if msgspec.json.encode(back) != msgspec.json.encode(subject):
        raise Wrong(f"{envelope} comes back as {back}")
    _check_address(addressed(envelope))
    return 1, 1


_envelopes = msgspec.json.Decoder(Envelope)


def _check_envelope(it: Envelope) -> None:
    texts = (it.id, it.type, it.saga, it.key, it.reply_to, it.user, it.correlation_id, it.causation_id, it.traceparent)
    if any(len(text) > 1_024 or any(c < " " or "\x7f" <= c <= "\x9f" for c in text) for text in texts):
        raise Wrong(f"an attribute is too long or holds a control character: {texts}")
    if not (it.id and it.type and it.kind in (Kind.EVENT, Kind.COMMAND, Kind.YES, Kind.REFUSAL, Kind.FAILURE)):
        raise Wrong(f"{it} says too little, or is not for others to say")
    if not (1 <= it.version < 2**31 and 0 <= it.attempt < 2**31):
        raise Wrong(f"version {it.version}, attempt {it.attempt}")
    datetime.fromtimestamp(it.time, UTC)  # as `now()` and `delivery()` give it to users' code
    if not _is_allowed(bytes(it.data), BODY_BYTES, DEPTH):
        raise Wrong(f"its payload is {bytes(it.data)[:200]!r}")
    if msgspec.json.encode(_envelopes.decode(msgspec.json.encode(it))) != msgspec.json.encode(it):
        raise Wrong("it is not stored as it is")


def _check_address(it: Envelope) -> None:
    if "\0" in it.saga + it.key:
        raise Wrong(f"it is sent to an instance with NUL in its name: {it.address}")
    str(it.address).encode()


# Lines and files of events.


def line(c: Choices) -> tuple[int, int]:
    """An event is of a type the app takes, in its present version, the same each time; its payload can be stored."""
    default = c.pick(("", "Ordered", "Ordered", "Plain", "Ship", "Nothing"))
    match c.below(4):
        case 0:
            text = _payload(c)
        case 1:
            text = _cloud_event(c)
        case _:
            wire_type, data = ("Plain", c.object(_PLAIN_PAYLOAD)) if c.one_in(2) else ("Ordered", _payload(c))
            pairs = [('"type"', f'"{wire_type}"'), ('"data"', data), ('"id"', '"e-1"')][: 2 + c.below(2)]
            text = c.object(pairs) if c.one_in(3) else "{" + ",".join(f"{k}:{v}" for k, v in pairs) + "}"
    raw = c.bytes_like(text.encode("utf-8", "surrogatepass"))
    envelope = _told_or_refused(lambda: event_line(raw, app, default, now=1.0))
    if envelope is REFUSED:
        return 1, 0
    _check_envelope(envelope)
    cls = app.event_types[envelope.type]
    value = decode(cls, envelope.data, envelope.version)
    if envelope.version != type_version(cls) or encode(value) != bytes(envelope.data):
        raise Wrong(f"{bytes(envelope.data)!r} is not the present form of {value}")
    if event_line(b" " + raw + b"\n", app, default, now=1.0).id != envelope.id:
        raise Wrong("the same line twice is two events")
    return 1, 1


def file(c: Choices) -> tuple[int, int]:
    """Every line of a file is one ask or one complaint under its number, whatever its length and its end."""
    limit = c.pick((8, 1, 2, 40))
    parts = (b"{}", b" ", b"x", b"\n", b"\r\n", b"\r", b"\t", b"{" + b"x" * (limit - 1), b"y" * limit, b" " * limit)
    content = b"".join(c.pick(parts) for _ in range(c.below(24)))
    report = _Report()
    reading = _Reading(io.BytesIO(content), "", report, limit)
    asked = [(reading.asked[-1][0], ask.line) for ask in reading.asks()]
    refused = {bad.line for bad in report.bad}
    lines = dict(enumerate(content.split(b"\n"), 1))
    short = [(number, it.strip()) for number, it in lines.items() if it.strip() and number not in refused]
    if asked != short:
        raise Wrong(f"of {content!r} it sends {asked}, at a limit of {limit}")
    if any(len(it) > limit for _, it in asked) or any(len(lines[number]) <= limit for number in refused):
        raise Wrong(f"of {content!r} it refuses lines {refused}, at a limit of {limit}")
    if reading.asked and reading.asked[-1][1] > len(content):
        raise Wrong("it is further than the end")
    return 1, bool(asked)


# Payloads by type.


def payload(c: Choices) -> tuple[int, int]:
    """What is decoded can be encoded, and comes back the same; a secret does not show."""
    cls: type[Message] = c.pick((Ordered, Plain, Ship))
    now = type_version(cls)
    version = c.pick((now, now, now, now, now, 1, 2, 3, 0, 4, -1, 2**70))
    text = _payload(c) if cls is Ordered else c.object(_PLAIN_PAYLOAD)
    if version == 1:
        text = text.replace('"total"', '"sum"')
    raw = c.bytes_like(text.encode("utf-8", "surrogatepass"))
    value = _told_or_refused(lambda: decode(cls, raw, version))
    if value is REFUSED:
        return 1, 0
    data = encode(value)
    if decode(cls, data, type_version(cls)) != value or encode(decode(cls, data, type_version(cls))) != data:
        raise Wrong(f"{value!r} does not come back from {data!r}")
    if isinstance(value, Ordered) and len(value.card.reveal()) > 3 and repr(value.card) != "***":
        raise Wrong(f"{type_name(cls)} shows its secret")
    return 1, 1


# Ids and addresses.


def ids(c: Choices) -> tuple[int, int]:
    """The id of a command leads back to its instance, whatever its key is; history keeps ids as they are (R3)."""
    saga, key, run = c.text(), c.text(), c.text(("k3f9", "0", "a"))
    instance = Instance(saga=saga, key=key, run=run)
    visit = Visit(serial=0, step=c.pick(("charge", "s")), number=1 + c.below(300), entered_at=0.0)
    call = Call(kind=CallKind.COMMAND, index=c.below(300) - 1)
    command_id = instance.command_id(visit, call) + c.pick(("", "/undo"))
    reply = Envelope(id="r", kind=Kind.YES, type="Done", reply_to=command_id)
    found = addressed(reply).address
    if found != Address(saga, key) and "\0" not in saga + key:
        raise Wrong(f"{command_id} leads to {found}, not to {saga!r}, {key!r}")
    code = HistoryCode(Address(saga, key), run)
    for text in (command_id, c.text(), "~" + command_id, "=", ""):
        if code.long(code.short(text)) != text:
            raise Wrong(f"{text!r} comes back as {code.long(code.short(text))!r}")
    stray = msgspec.structs.replace(reply, reply_to=c.text(TEXTS))
    str(addressed(stray).address)
    return 1, 1


PARSERS = (
    Parser("strict JSON", strict),
    Parser("wire event", wire_event),
    Parser("line of events", line),
    Parser("file of events", file),
    Parser("payload by type", payload),
    Parser("ids and addresses", ids, least=0.9),
)
