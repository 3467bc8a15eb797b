"""How a message and its names look at SNS and SQS. Nothing here talks to anybody."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any
from uuid import uuid4

import msgspec
from msgspec import Struct

from orchestrator.ports import BusMessage, NotTaken

from .connection import BATCH

FIFO = ".fifo"
TOPIC_NAME = 256  # the longest of SNS
QUEUE_NAME = 80  # the longest of SQS
NAME_HEADER = "orchestrator.topic"
REST_HEADER = "orchestrator.headers"
OWN_ATTRIBUTES = 8  # of ten that a message may have; two are ours
LANES = 16

# An underscore that could be read as the beginning of an escape is escaped itself.
_ESCAPED = re.compile(r"[^A-Za-z0-9_-]|_(?=[^A-Za-z0-9-]|[0-9A-F]{2})")
_GROUP_ID = re.compile(r"[!-~]{1,128}")
_ATTRIBUTE_NAME = re.compile(r"(?!aws\.|amazon\.|orchestrator\.)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.IGNORECASE)
_NO_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def fifo_name(text: str, longest: int) -> str:
    """The name of the FIFO topic or queue for this topic or group: `OrderPlaced.fifo`, `commands__warehouse.fifo`.

    Two names for one text, or one for two, there are not. A dot is `__`, what else AWS has not got in a name is `_` and
    the hexadecimal of each UTF-8 byte; what gets too long ends in a hash.
    """
    name = _ESCAPED.sub(_escape, text)
    if len(name) + len(FIFO) > longest:
        digest = sha256(text.encode()).hexdigest()[:32]
        name = f"{name[: longest - len(FIFO) - len(digest) - 1]}_{digest}"
    return name + FIFO


def _escape(found: re.Match[str]) -> str:
    return "__" if found[0] == "." else "".join(f"_{byte:02X}" for byte in found[0].encode())


class Entry(Struct, frozen=True):
    """One message as SNS takes it. `index`: its place among those that are published together."""

    index: int
    topic: str
    name: str  # of the SNS topic
    group: str
    expected: bool
    size: int
    request: dict[str, Any]


def entry(index: int, message: BusMessage, most_bytes: int) -> Entry | NotTaken:
    """The message as SNS takes it, or why it never will."""
    name = fifo_name(message.topic, TOPIC_NAME)
    attributes = _attributes(name, message.headers)
    size = len(message.body) + sum(len(key) + len("String") + len(value.encode()) for key, value in attributes.items())
    if size > most_bytes:
        return NotTaken(
            f"{message.topic}: {size:,} bytes with its headers, and SNS takes {most_bytes:,}", is_final=True
        )
    text = _text(message.body)
    if not text:
        return NotTaken(f"{message.topic}: its body is empty, or not text that SNS carries", is_final=True)
    unique = _deduplication(message)
    group = _group(message.key) if message.key else unique  # without a key it holds up no other
    request = {
        "Id": str(index),
        "Message": text,
        "MessageGroupId": group,
        "MessageDeduplicationId": unique,
        "MessageAttributes": {key: {"DataType": "String", "StringValue": value} for key, value in attributes.items()},
    }
    return Entry(index, message.topic, name, group, message.expected, size, request)


def _group(key: str) -> str:
    return key if _GROUP_ID.fullmatch(key) else sha256(key.encode()).hexdigest()


def _text(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return ""
    return "" if _NO_TEXT.search(text) else text


def _deduplication(message: BusMessage) -> str:
    """The same for the same message only: a queue takes several topics, and swallows what it has seen."""
    return sha256(f"{message.topic}\0{message.id}".encode()).hexdigest() if message.id else uuid4().hex


def _attributes(name: str, headers: Mapping[str, str]) -> dict[str, str]:
    """An attribute a header, as far as AWS can carry it so; the others in one together."""
    attributes = {NAME_HEADER: name}
    rest: dict[str, str] = {}
    for key, value in headers.items():
        is_plain = value and not _NO_TEXT.search(value) and len(key) < 256 and _ATTRIBUTE_NAME.fullmatch(key)
        (attributes if is_plain and len(attributes) <= OWN_ATTRIBUTES else rest)[key] = value
    return attributes | ({REST_HEADER: json.dumps(rest)} if rest else {})


def lanes(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Those of one key in one lane, in order; a lane's calls go one after the other, the lanes side by side."""
    made: list[list[Entry]] = [[] for _ in range(min(LANES, -(-len(entries) // BATCH)))]
    lane_of: dict[str, list[Entry]] = {}
    for each in entries:
        if each.group not in lane_of:
            lane_of[each.group] = min(made, key=len)
        lane_of[each.group].append(each)
    return [lane for lane in made if lane]


def calls(lane: Sequence[Entry], most_bytes: int) -> Iterator[list[Entry]]:
    """As many at once as a call may carry."""
    call: list[Entry] = []
    for each in lane:
        if len(call) == BATCH or sum(other.size for other in call) + each.size > most_bytes:
            yield call
            call = []
        call.append(each)
    if call:
        yield call


class _Attribute(Struct, rename="pascal"):
    value: str


class _Notification(Struct, rename="pascal", tag_field="Type", tag="Notification"):
    """What SNS puts around a message for a queue."""

    topic_arn: str
    message: str
    message_attributes: dict[str, _Attribute] = {}


class Received(Struct, frozen=True):
    """A message of a queue. `name`: of the SNS topic; empty for what was put into the queue itself."""

    name: str
    body: bytes
    headers: dict[str, str]
    handle: str


_notification = msgspec.json.Decoder(_Notification)


def received(message: Mapping[str, Any]) -> Received:
    """What a message of the queue holds: in SNS's envelope, as our subscriptions get it, or raw."""
    body: str = message["Body"]
    attributes = {
        name: each["StringValue"]
        for name, each in message.get("MessageAttributes", {}).items()
        if "StringValue" in each
    }
    name = ""
    if NAME_HEADER not in attributes:
        try:
            envelope = _notification.decode(body)
        except msgspec.DecodeError:
            pass
        else:
            name, body = envelope.topic_arn.rpartition(":")[2], envelope.message
            attributes = {key: each.value for key, each in envelope.message_attributes.items()}
    name = attributes.pop(NAME_HEADER, name)
    return Received(name, body.encode(errors="replace"), _headers(attributes), message["ReceiptHandle"])


def _headers(attributes: dict[str, str]) -> dict[str, str]:
    rest = attributes.pop(REST_HEADER, "")
    try:
        found = msgspec.json.decode(rest, type=dict[str, str]) if rest else {}
    except msgspec.DecodeError:
        found = {REST_HEADER: rest}
    return {name.lower(): value for name, value in (attributes | found).items()}
