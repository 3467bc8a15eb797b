"""What topics and groups are called at a NATS server, which allows less in a name than we do."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

from orchestrator.errors import ConfigError

MAX_SUBJECT = 2_000  # bytes; the server closes the connection at a protocol line of 4,096, with two subjects in it
MAX_NAME = 200  # of a stream or consumer; the server's own limit is 255

_PLAIN = "!#&'()+,/:;=?@[]"  # may stand in a subject, besides letters, digits and -._~
_EMPTY_TOKENS = re.compile(r"(?<![^.])\.|\.(?![^.])")  # a dot without something on either side of it


def subject_of(topic: str) -> str:
    """The subject of a topic: `OrderPlaced` and `user.registered` as they are, what has a meaning to NATS as %2A.

    No two topics have the same one. Errors: ConfigError, for a topic that no subject can be made of.
    """
    try:
        subject = _EMPTY_TOKENS.sub("%2E", quote(topic, safe=_PLAIN))
    except UnicodeEncodeError:
        raise ConfigError(f"topic {topic[:40]!r}: half a surrogate pair is no character of a subject") from None
    if subject.startswith("_"):  # _INBOX
        subject = "%5F" + subject[1:]
    if not 0 < len(subject) <= MAX_SUBJECT:
        raise ConfigError(f"topic {topic[:40]!r} makes {len(subject)} bytes: a NATS subject has 1 to {MAX_SUBJECT}")
    return subject


def place_name(owner: str, topic: str) -> str:
    """The name of what `owner`, a group or all streams that we make, has for a topic: `shop=OrderPlaced`."""
    name = "=".join(quote(part, safe="").replace(".", "%2E") for part in (owner, topic))
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 33]}={hashlib.sha256(name.encode()).hexdigest()[:32]}"


def message_id(id: str, subject: str) -> str:
    """What the server knows a message by: a stream that somebody made may hold several topics, of which one id may
    come.
    """
    return f"{quote(id)} {subject}"
