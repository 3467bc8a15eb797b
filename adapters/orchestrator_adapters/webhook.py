"""Webhooks over HTTP/1.1, with httpcore2: it leaves the choice of the address to us, and knows no cookies or proxies.

The address that was looked at is the one that is connected to: between two lookups of a name nobody can change it. The
certificate is checked against the name, and the name is what the receiver sees.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterable, Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, Self, cast
from urllib.parse import urlsplit

import anyio
import httpcore2
from anyio import CapacityLimiter, to_thread

from orchestrator.errors import NotSent
from orchestrator.ports import Post, Posted

CONNECT_S = 5.0  # to one address
ADDRESSES = 4  # of one host that are tried
IDLE_S = 2.0  # a connection is kept for the next request; many servers close theirs after five seconds
IDLE = 64
LOOKUPS = 32  # at a time: each is a thread, which nobody can stop
ANSWER_BYTES = 4096  # of an answer's body that are read,
ANSWER_S = 1.0  # and for how long: the status is known by then
ERROR_CHARS = 200

Takes = Callable[[str], bool]


class HttpSender:
    """The Sender port."""

    def __init__(self, takes: Takes, context: ssl.SSLContext | None = None) -> None:
        """Connect to addresses that `takes` takes; without a context, servers are to be known to this machine."""
        self._network = _Network(takes)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=context or httpcore2.default_ssl_context(),
            max_connections=None,
            max_keepalive_connections=IDLE,
            keepalive_expiry=IDLE_S,
            network_backend=self._network,
        )

    @classmethod
    def allowing(cls, takes: Takes) -> Self:
        """As the port says."""
        return cls(takes)

    async def post(self, post: Post) -> Posted:
        """As the port says."""
        with _troubles():
            response = await self._pool.handle_async_request(_request(post))
            try:
                await _read_a_little(response)
            finally:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
        headers = {name.lower(): value for name, value in response.headers}
        return Posted(response.status, headers.get(b"retry-after", b"").decode("latin-1")[:ERROR_CHARS])

    async def check(self, url: str) -> None:
        """As the port says."""
        parts = urlsplit(url)
        await self._network.addresses(parts.hostname or "", parts.port or _default_port(parts.scheme))

    async def close(self) -> None:
        """As the port says."""
        await self._pool.aclose()


def _request(post: Post) -> httpcore2.Request:
    parts = urlsplit(post.url)
    host = parts.hostname or ""
    authority = f"[{host}]" if ":" in host else host
    if parts.port is not None and parts.port != _default_port(parts.scheme):
        authority += f":{parts.port}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    url = httpcore2.URL(
        scheme=parts.scheme.encode(), host=host.encode("ascii"), port=parts.port, target=target.encode("ascii")
    )
    headers = {"host": authority, "content-length": str(len(post.body)), "accept-encoding": "identity", **post.headers}
    fields = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
    return httpcore2.Request(b"POST", url, headers=fields, content=post.body)


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


async def _read_a_little(response: httpcore2.Response) -> None:
    """So that a connection whose answer is short can be used again; of any other the rest is not waited for."""
    read = 0
    with anyio.move_on_after(ANSWER_S):
        async for chunk in cast("AsyncIterable[bytes]", response.stream):
            read += len(chunk)
            if read > ANSWER_BYTES:
                return


class _Network(httpcore2.AsyncNetworkBackend):
    """Connects to those addresses of a host that may be connected to."""

    def __init__(self, takes: Takes) -> None:
        self._takes = takes
        plain: Any = httpcore2.AnyIOBackend()  # of no known type where a checker does not see anyio
        self._plain: httpcore2.AsyncNetworkBackend = plain
        self._lookups: CapacityLimiter | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 it is the port's
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """To the first address that answers. Errors: NotSent."""
        error: Exception = NotSent(f"{host} has no address")
        for address in (await self.addresses(host, port))[:ADDRESSES]:
            try:
                return await self._plain.connect_tcp(address, port, CONNECT_S, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as failed:
                error = failed
        raise error

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 it is the port's
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Never. Errors: NotSent."""
        raise NotSent("no socket of this machine is a webhook")

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds."""
        await anyio.sleep(seconds)

    async def addresses(self, host: str, port: int) -> list[str]:
        """Where a host is. Errors: NotSent, if it is not found, or one of them may not be connected to."""
        try:
            found = [str(info[4][0]) for info in await self._looked_up(host, port)]
        except (OSError, UnicodeError) as error:
            raise NotSent(f"{host} was not found: {getattr(error, 'strerror', None) or type(error).__name__}") from None
        if not all(self._takes(address) for address in found):
            raise NotSent(
                f"{host} is at an address that is not public: if it is meant to be, put its network into webhooks.allow"
            )
        return list(dict.fromkeys(found))

    async def _looked_up(self, host: str, port: int) -> list[tuple[Any, ...]]:
        """In threads of their own number, since a lookup that hangs cannot be stopped."""
        if self._lookups is None:
            self._lookups = CapacityLimiter(LOOKUPS)
        found: list[Any] = await to_thread.run_sync(
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
            abandon_on_cancel=True,
            limiter=self._lookups,
        )
        return found


@contextmanager
def _troubles() -> Generator[None]:
    """What goes wrong between here and a receiver, as NotSent."""
    try:
        yield
    except httpcore2.ConnectTimeout:
        raise NotSent("no connection in time") from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
        text = str(error) or type(error).__name__
        raise NotSent(f"{_WHAT.get(type(error), 'the connection failed')}: {text[:ERROR_CHARS]}") from None


_WHAT: dict[type[Exception], str] = {
    httpcore2.ConnectError: "no connection",
    httpcore2.RemoteProtocolError: "this is no HTTP",
    httpcore2.LocalProtocolError: "this cannot be sent",
}
