"""Lines of events from outside, as a person or a file gives them."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import msgspec
from msgspec import Raw, Struct

from .app import App
from .cloudevents import decoded, name_of
from .errors import BadMessage
from .messages import Event, decode, encode, type_version
from .nearest import nearest
from .strictjson import BODY_BYTES, DEPTH, strict_json
from .wire import Envelope, Kind


class _Part(Struct, frozen=True):
    """Where a payload stands in a line: its own bytes, untouched."""

    data: Raw = Raw()


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
        envelope = decoded(line).envelope
        if envelope.kind is not Kind.EVENT:
            raise BadMessage(f"it is a {envelope.kind.value}, not an event")
    elif {"type", "data"} <= content.keys() <= {"type", "data", "id"}:
        wire_type = name_of("type", content["type"])
        id = name_of("id", content["id"]) if "id" in content else _hash(wire_type, line)
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
        near = nearest(wire_type, app.event_types)
        remedy = f"did you mean {near[0]}?" if near else f"it takes {', '.join(sorted(app.event_types)) or 'none'}"
        raise BadMessage(f"{wire_type} is no event that {app.name} takes or publishes; {remedy}")
    return cls


def _hash(wire_type: str, line: bytes) -> str:
    return "line-" + hashlib.sha256(wire_type.encode(errors="surrogatepass") + b"\0" + line).hexdigest()[:40]


_PART = msgspec.json.Decoder(_Part)
_JSON_NAMES = {list: "an array", str: "a text", bool: "true or false", int: "a number", float: "a number"}
