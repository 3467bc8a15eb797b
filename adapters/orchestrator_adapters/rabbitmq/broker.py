"""Which broker a URL names, how long it may take to answer, and what its errors are in the words of the port."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Annotated, Any, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import anyio
import msgspec
from aiormq.exceptions import AMQPError, ChannelInvalidStateError, InvalidFrameError
from msgspec import Meta, Struct

from orchestrator.errors import BusUnavailable, ConfigError

from .names import EXCHANGE, MAX_BYTES

PORTS = {"amqp": 5672, "amqps": 5671}
GOODBYE_S = 3.0
FORM = "amqp[s]://[USER:PASSWORD@]HOST[:PORT][/VHOST][?OPTION=VALUE], with %2F for / and %23 for # in its parts"

# StopAsyncIteration is what aiormq makes of a peer that hangs up while the two greet each other.
DRIVER_ERRORS = (AMQPError, ChannelInvalidStateError, OSError, StopAsyncIteration)


class Options(
    Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"timeout_s": "timeout", "heartbeat_s": "heartbeat"},
):
    """What stands after the question mark.

    exchange   through which everything goes; its name is part of the queues' names
    timeout    seconds until a broker that does not answer is BusUnavailable
    heartbeat  seconds between signs of life; a silent broker counts as lost after somewhat more than three of them
    ca         a file of certificates to trust in place of the system's
    cert, key  files with our own certificate and its key
    """

    exchange: Annotated[str, Meta(min_length=1, max_length=MAX_BYTES // 3)] = "orchestrator"
    timeout_s: Annotated[float, Meta(gt=0, le=3_600)] = 10.0
    heartbeat_s: Annotated[int, Meta(ge=1, le=3_600)] = 10
    ca: str = ""
    cert: str = ""
    key: str = ""


class Broker(Struct, frozen=True):
    """`name` is for people, `url` for the driver: the password is in it."""

    name: str
    url: str
    host: str
    port: int
    options: Options
    tls: ssl.SSLContext | None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Errors: ConfigError, which never shows the password."""
        try:
            parts = urlsplit(url)
            port = parts.port or PORTS[parts.scheme]
        except (ValueError, KeyError):
            raise ConfigError(f"a RabbitMQ bus is named {FORM}") from None
        vhost = parts.path[1:]
        if not parts.hostname or parts.fragment or "/" in vhost:
            raise ConfigError(f"a RabbitMQ bus is named {FORM}")
        address = f"[{parts.hostname}]:{port}" if ":" in parts.hostname else f"{parts.hostname}:{port}"
        try:
            options = _options(parts.query)
            tls = _tls(options) if parts.scheme == "amqps" else None
        except (ValueError, OSError) as error:  # of msgspec and urllib, of ssl
            known = ", ".join(field.encode_name for field in msgspec.structs.fields(Options))
            raise ConfigError(f"bus {parts.scheme}://{address}: {error}; the options are {known}") from error
        who = f"{_quoted(parts.username or 'guest')}:{_quoted(parts.password or 'guest')}"
        place = f"{who}@{address}/{_quoted(vhost or '/')}"
        return cls(
            name=f"RabbitMQ at {address}",
            url=f"{parts.scheme}://{place}?heartbeat={options.heartbeat_s}",
            host=parts.hostname,
            port=port,
            options=options,
            tls=tls,
        )

    @contextmanager
    def within(self, *, shield: bool = False) -> Generator[anyio.CancelScope]:
        """Bound what is asked of the broker, and raise what the port promises: the one place that knows both."""
        cancels = _cancels()
        try:
            with anyio.fail_after(self.options.timeout_s, shield=shield) as scope:
                yield scope
        except DRIVER_ERRORS as error:
            raise self._unavailable(error) from error
        except asyncio.CancelledError as error:
            if _cancels() > cancels:
                raise
            raise self._unavailable(error) from error  # it is aiormq's word for a silent peer

    @contextmanager
    def parting(self) -> Generator[None]:
        """Bound what is said at the end, when nothing depends on the answer any more; cut short by nobody."""
        cancels = _cancels()
        try:
            with anyio.move_on_after(GOODBYE_S, shield=True), suppress(*DRIVER_ERRORS):
                yield
        except asyncio.CancelledError:
            if _cancels() > cancels:
                raise

    def extend(self, scope: anyio.CancelScope) -> None:
        """The broker has answered: its time begins anew. It may be a twentieth less: each change is another timer."""
        deadline = asyncio.get_running_loop().time() + self.options.timeout_s
        if deadline > scope.deadline + self.options.timeout_s / 20:
            scope.deadline = deadline

    def _unavailable(self, error: BaseException) -> BusUnavailable:
        if isinstance(error, TimeoutError):
            return BusUnavailable(f"{self.name}: no answer for {self.options.timeout_s:g} s")
        return BusUnavailable(f"{self.name}: {why(error)}")


def _cancels() -> int:
    """How often somebody cancelled this task; aiormq cancels only what it waits for."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def why(error: BaseException | None) -> str:
    """What is wrong, in the broker's words or the system's."""
    if isinstance(error, asyncio.CancelledError):
        return "it has fallen silent"
    if isinstance(error, InvalidFrameError) and "Connection.OpenOk" in str(error):
        return "it refused the virtual host: is there one of this name, and may this user use it?"
    words = [each for each in (error.args if error is not None else ()) if isinstance(each, str)]
    return words[-1] if words else "the connection was lost"


def _options(query: str) -> Options:
    values: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    options = msgspec.convert(values, Options, strict=False)
    if not EXCHANGE.fullmatch(options.exchange):
        raise ValueError(f"exchange {options.exchange!r}: letters, digits, space and -_.:@#,/+ make the name of one")
    return options


def _tls(options: Options) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.ca or None)
    if options.cert:
        context.load_cert_chain(options.cert, options.key or None)
    return context


def _quoted(part: str) -> str:
    return quote(unquote(part), safe="")
