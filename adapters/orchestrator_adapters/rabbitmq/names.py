"""How our topics are written in RabbitMQ's alphabets."""

from __future__ import annotations

import re
from hashlib import sha256

MAX_BYTES = 255  # of a routing key, the name of a queue, a message's id
EXCHANGE = re.compile(r"[a-zA-Z0-9-_.:@#,/+ ]+")  # what the driver lets pass
_WILD = re.compile(r"(?<![^.])([*#](?![^.])|%)")
_NOT_IN_TOPIC = re.compile(r"[^a-zA-Z0-9-_.:@#,/ ]")
_NOT_IN_GROUP = re.compile(r"[^a-zA-Z0-9-_.:#, ]")


def routing_key(topic: str) -> str:
    """The topic as it is, but for words between dots that are `*` or `#`, or begin with `%`: `a.*` goes by `a.%2A`."""
    return fit(_WILD.sub(lambda found: f"%{ord(found[0]):02X}", topic))


def queue_name(group: str, exchange: str, topic: str) -> str:
    """`shop@orchestrator/OrderPlaced`: no two groups, exchanges or topics share one. Other characters as `+2A`."""
    owner, source = _NOT_IN_GROUP.sub(_plus, group), _NOT_IN_GROUP.sub(_plus, exchange)
    return fit(f"{owner}@{source}/{_NOT_IN_TOPIC.sub(_plus, topic)}")


def fit(name: str) -> str:
    """The name, or what fits of it and a hash of the whole."""
    raw = name.encode()
    if len(raw) <= MAX_BYTES:
        return name
    return f"{raw[: MAX_BYTES - 33].decode(errors='ignore')}_{sha256(raw).hexdigest()[:32]}"


def _plus(found: re.Match[str]) -> str:
    return "".join(f"+{byte:02X}" for byte in found[0].encode())
