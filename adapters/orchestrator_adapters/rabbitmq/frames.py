"""The frames that messages travel in, as bytes: what is published, what is delivered, what is confirmed.

All other frames are the driver's. Through it a message costs 0.4 ms of processor time, sent, taken and confirmed on
both sides; past it 0.06.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache

from msgspec import Struct
from pamqp.decode import field_table
from pamqp.header import ContentHeader

from orchestrator.ports import BusMessage

from .names import routing_key

METHOD, HEADER, BODY = 1, 2, 3
HEAD = struct.Struct(">BHI")  # of a frame: its kind, its channel, the size of what follows
END = 0xCE
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"

RETURN, DELIVER, ACK, NACK = (60 << 16 | method for method in (50, 60, 80, 120))
PERSISTENT = b"\x02"
MANY_TOPICS = 1_024

_METHOD = struct.Struct(">I")
_CONFIRM = struct.Struct(">IQB")
_TAG = struct.Struct(">Q")
_SIZE = struct.Struct(">I")
_CONTENT = struct.Struct(">HHQH")
_BASIC, _PUBLISH = 60, 40
_CONTENT_TYPE, _ENCODING, _HEADERS, _DELIVERY_MODE, _MESSAGE_ID = (1 << bit for bit in (15, 14, 13, 12, 7))
_MORE_FLAGS = 1


class Confirm(Struct, frozen=True, gc=False):
    """What the broker says of one message or, if `multiple`, of all up to it."""

    tag: int
    multiple: bool
    taken: bool


def to_frames(message: BusMessage, message_id: str, channel: int, exchange: str, max_body: int) -> bytes:
    """A message as it is published. Errors: ValueError, for headers that AMQP cannot hold."""
    body = message.body
    parts = [
        _publish(channel, exchange, message.topic, message.expected),
        _frame(HEADER, channel, _header(len(body), message.headers, message_id)),
    ]
    parts += (_frame(BODY, channel, body[at : at + max_body]) for at in range(0, len(body), max_body))
    return b"".join(parts)


@lru_cache(MANY_TOPICS)
def _publish(channel: int, exchange: str, topic: str, mandatory: bool) -> bytes:
    names = _short(exchange) + _short(routing_key(topic))
    return _frame(METHOD, channel, struct.pack(">HHH", _BASIC, _PUBLISH, 0) + names + bytes((mandatory,)))


def _header(size: int, headers: Mapping[str, str], message_id: str) -> bytes:
    """The type of the content goes where AMQP has a place for it."""
    flags = _DELIVERY_MODE | _MESSAGE_ID
    content_type, table = b"", b""
    for name, value in headers.items():
        if not content_type and name.lower() == "content-type":
            flags |= _CONTENT_TYPE
            content_type = _short(value)
        else:
            text = value.encode()
            table += _short(name) + b"S" + _SIZE.pack(len(text)) + text
    if table:
        flags |= _HEADERS
        table = _SIZE.pack(len(table)) + table
    return _CONTENT.pack(_BASIC, 0, size, flags) + content_type + table + PERSISTENT + _short(message_id)


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return HEAD.pack(kind, channel, len(payload)) + payload + b"\xce"


def _short(text: str) -> bytes:
    raw = text.encode()
    return bytes((len(raw),)) + raw


def method_of(payload: bytes) -> int:
    """Which one a frame of the kind METHOD is."""
    (method,) = _METHOD.unpack_from(payload)
    return int(method)


def to_confirm(payload: bytes) -> Confirm:
    """Of an ACK or NACK."""
    method, tag, bits = _CONFIRM.unpack_from(payload)
    return Confirm(tag, bool(bits & 1), method == ACK)


def to_delivery(payload: bytes) -> tuple[str, int]:
    """Of a DELIVER: the tag of the consumer, and that by which the message is acknowledged."""
    end = 5 + payload[4]
    (tag,) = _TAG.unpack_from(payload, end)
    return payload[5:end].decode(), tag


def size_of(header: bytes) -> int:
    """How many bytes the bodies after a HEADER have."""
    (size,) = _TAG.unpack_from(header, 4)
    return int(size)


def message_id_of(header: bytes) -> str:
    """Empty if it has none."""
    return _by_the_driver(header).properties.message_id or ""


def headers_of(header: bytes) -> Mapping[str, str]:
    """As text, which is what we send; another's numbers and bytes as well, but no tables. None at all where they cannot
    be read: the message comes, and is a dead letter if they were needed.
    """
    try:
        return _headers(header)
    except (ValueError, IndexError, struct.error):
        return {}


def _headers(header: bytes) -> dict[str, str]:
    _, _, _, flags = _CONTENT.unpack_from(header)
    at, content_type = _CONTENT.size, ""
    if flags & _MORE_FLAGS:  # which no broker is known to send
        properties = _by_the_driver(header).properties
        return _texts(properties.headers or {}, properties.content_type or "")
    if flags & _CONTENT_TYPE:
        end = at + 1 + header[at]
        content_type, at = header[at + 1 : end].decode(errors="replace"), end
    if flags & _ENCODING:
        at += 1 + header[at]
    if not flags & _HEADERS:
        return _texts({}, content_type)
    (size,) = _SIZE.unpack_from(header, at)
    table = header[at : at + 4 + size]
    found = _plain(table)
    if found is None:
        return _texts(field_table(table)[1], content_type)
    if content_type:
        found["content-type"] = content_type
    return found


def _plain(table: bytes) -> dict[str, str] | None:
    """A table of nothing but texts, as ours are; None if it is another."""
    found: dict[str, str] = {}
    at, size = 4, len(table)
    while at < size:
        start = at + 1 + table[at]
        if table[start] != 0x53:  # S
            return None
        (length,) = _SIZE.unpack_from(table, start + 1)
        end = start + 5 + length
        found[table[at + 1 : start].decode().lower()] = table[start + 5 : end].decode(errors="replace")
        at = end
    return found


def _texts(headers: Mapping[str, object], content_type: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers.items():
        if isinstance(value, bytes | bytearray):
            found[name.lower()] = bytes(value).decode(errors="replace")
        elif not isinstance(value, dict | list | None):
            found[name.lower()] = str(value)
    if content_type:
        found["content-type"] = content_type
    return found


def _by_the_driver(header: bytes) -> ContentHeader:
    read = ContentHeader()
    read.unmarshal(header)
    return read
