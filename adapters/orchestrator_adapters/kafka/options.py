"""What a Kafka URL says, and how the names of our topics are written in Kafka's alphabet."""

from __future__ import annotations

import re
import ssl
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from msgspec import Meta, Struct

from orchestrator.errors import ConfigError

PORT = 9092
MAX_NAME = 249  # characters of a Kafka topic
_TO_ESCAPE = re.compile(r"[^A-Za-z0-9._-]|_(?=x[0-9a-f]{2})|\A_(?=_)|\A\.(?=\.?\Z)")


class Options(
    Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"timeout_s": "timeout", "session_s": "session_timeout"},
):
    """What stands after the question mark of a Kafka URL.

    timeout          seconds until a broker that does not answer is BusUnavailable
    session_timeout  seconds of silence after which the partitions of a member go to others
    partitions       of a topic that the bus makes: at most so many members of a group share it
    replication      of a topic that the bus makes: by default as many as there are brokers, at most 3
    max_bytes        of one message; the topic's max.message.bytes has to allow it
    idempotence      the broker drops what the driver sends twice because an answer was lost
    tls, ca          encrypted; `ca` is a file of certificates to trust in place of the system's
    sasl             how the URL's user and password are shown to the broker
    """

    timeout_s: Annotated[float, Meta(gt=0, le=3_600)] = 10.0
    session_s: Annotated[float, Meta(ge=1, le=1_800)] = 10.0
    partitions: Annotated[int, Meta(ge=1, le=10_000)] = 4
    replication: Annotated[int, Meta(ge=1, le=100)] | None = None
    max_bytes: Annotated[int, Meta(ge=1_024, le=1_000_000_000)] = 1_048_576
    idempotence: bool = False
    tls: bool = False
    ca: str = ""
    sasl: Literal["plain", "scram-sha-256", "scram-sha-512"] = "plain"


def options_of(url: str) -> tuple[Options, dict[str, Any]]:
    """The options of `kafka://user:password@host:9092,host:9092?timeout=10`, and how the driver reaches its brokers.

    Errors: ConfigError.
    """
    parts = urlsplit(url)
    user, _, servers = parts.netloc.rpartition("@")
    shown = f"bus '{parts.scheme}://{servers}'"  # a password has no place in an error
    if parts.scheme != "kafka" or not servers or parts.path not in ("", "/") or parts.fragment:
        raise ConfigError(f"{shown}: a Kafka bus is named kafka://host:9092,host:9092?option=value")
    name, colon, password = user.partition(":")
    if user and not (name and colon):
        raise ConfigError(f"{shown}: a user comes with a password: kafka://user:password@host:9092")
    try:
        options = msgspec.convert(dict(parse_qsl(parts.query, True, True)), Options, strict=False)
    except ValueError as error:  # of msgspec and of urllib
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(Options))
        raise ConfigError(f"{shown}: {error}; the options are {known}") from error
    try:
        security = _security(options, unquote(name), unquote(password))
    except OSError as error:  # of ssl too
        raise ConfigError(f"{shown}: ca={options.ca}: {error}") from error
    return options, {"bootstrap_servers": [_with_port(server) for server in servers.split(",")], **security}


def _with_port(server: str) -> str:
    return server if re.search(r":\d+\Z", server) else f"{server}:{PORT}"


def _security(options: Options, user: str, password: str) -> dict[str, Any]:
    protocol = ("SASL_" if user else "") + ("SSL" if options.tls else "PLAINTEXT")
    return {
        "security_protocol": protocol,
        "ssl_context": ssl.create_default_context(cafile=options.ca or None) if options.tls else None,
        "sasl_mechanism": options.sasl.upper(),
        "sasl_plain_username": user or None,
        "sasl_plain_password": password or None,
    }


@lru_cache(1_000)
def kafka_name(topic: str) -> str:
    """A topic in Kafka's alphabet: what is outside of it as `_x` and two hexadecimal digits for each byte of UTF-8.

    `__` at the start, which is the broker's own, is escaped too; what would be too long ends in a hash.
    """
    name = _TO_ESCAPE.sub(lambda found: "".join(f"_x{byte:02x}" for byte in found[0].encode()), topic)
    if len(name) <= MAX_NAME:
        return name
    digest = sha256(topic.encode()).hexdigest()[:32]
    return f"{name[: MAX_NAME - 33]}_{digest}"
