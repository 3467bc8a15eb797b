# pyright: reportUnknownMemberType=false
"""One connection to the servers, made when it is first needed and made anew for ever after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from math import ceil
from typing import Any, Protocol, Self

import anyio
import msgspec
import nats.errors
from anyio.abc import TaskGroup
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import APIError

from orchestrator.errors import BusUnavailable
from orchestrator.ports import NotTaken

from .settings import Settings, connect_options, tls_check

RETRY_S = 0.25  # between two attempts to connect
ATTEMPT_S = 5.0  # for one of them
PING_S = 5.0  # a connection that is half open says nothing by itself
CLOSE_S = 1.0
NO_STREAM = NotTaken("no stream of the NATS server takes this topic")
_HUNG_UP = (ConnectionResetError, BrokenPipeError, nats.errors.UnexpectedEOF)
_TOO_LARGE = 10_054  # the server's code for a message that is larger than its stream allows


class Follower(Protocol):
    """Somebody whom each new connection concerns."""

    async def attach(self, client: Client) -> None:
        """Begin, or go on, over this one."""
        ...

    def detach(self) -> None:
        """It is lost."""
        ...

    async def keep(self) -> None:
        """Do what has to be done from time to time, for ever."""
        ...

    async def leave(self) -> None:
        """End, within bounded time, however its caller ends."""
        ...


class Sent(Struct, frozen=True):
    """A message as NATS has it."""

    subject: str
    body: bytes
    headers: dict[str, str] | None


class Connection:
    """Keeps one connected client while it is open; the driver's errors leave it as BusUnavailable.

    A client that lost its connection is replaced: the driver's own reconnecting waits for a peer that is gone to take
    what it was sent, ends at the first error that the server names, and tells no publisher that its receipt is lost.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.current: Client | None = None
        self._tasks: TaskGroup | None = None
        self._is_kept = False
        self._up = anyio.Event()
        self._wrong: Exception | None = None  # why there is no connection
        self._followers: list[Follower] = []
        self._inbox = ""
        self._batches: dict[str, _Batch] = {}
        self._numbers = count(1)

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        tasks, self._tasks, self._is_kept = self._tasks, None, False
        assert tasks is not None
        tasks.cancel_scope.cancel()
        await tasks.__aexit__(None, None, None)  # what the body raised goes on as it is, not in a group

    @contextmanager
    def bounded(self) -> Generator[None]:
        """Raise BusUnavailable for whatever the driver raises, and when the time is over."""
        try:
            with anyio.fail_after(self.settings.timeout_s):
                yield
        except (nats.errors.Error, OSError) as error:  # the time limits are OSErrors
            raise BusUnavailable(f"nats at {self.settings.place}: {self._reason(error)}") from error

    def _reason(self, error: Exception) -> str:
        if not isinstance(error, TimeoutError):
            return _text(error)
        what = "no answer" if self.current is not None else "not reached"
        return f"{what} within {self.settings.timeout_s:g} s" + (f": {_text(self._wrong)}" if self._wrong else "")

    async def client(self) -> Client:
        """The connected client, when there is one: call it `bounded`."""
        if self._tasks is None:
            raise ConnectionError("the bus is not open")
        if not self._is_kept:
            self._is_kept = True
            self._tasks.start_soon(self._keep)
        while self.current is None:
            await self._up.wait()
        return self.current

    async def jetstream(self) -> JetStreamContext:
        """What manages streams and consumers: call it `bounded`."""
        return (await self.client()).jetstream(timeout=self.settings.timeout_s)

    @asynccontextmanager
    async def following(self, follower: Follower) -> AsyncGenerator[None]:
        """Attach it to this connection and to all later ones, until the end, when it may give back what it has."""
        assert self._tasks is not None
        keeping = anyio.CancelScope()

        async def keep() -> None:
            with keeping:
                await follower.keep()

        try:
            with self.bounded():
                client = await self.client()
                self._followers.append(follower)
                await follower.attach(client)
            self._tasks.start_soon(keep)
            yield
        finally:
            keeping.cancel()
            if follower in self._followers:
                self._followers.remove(follower)
                await follower.leave()

    async def send(self, client: Client, batch: Sequence[Sent | NotTaken]) -> list[NotTaken | None]:
        """Publish all in one go and wait for the receipts, or what stands for one: call it `bounded`."""
        number = str(next(self._numbers))
        waiting = self._batches[number] = _Batch(batch)
        try:
            for place, each in enumerate(batch):
                if isinstance(each, Sent):
                    try:
                        await client.publish(each.subject, each.body, f"{self._inbox}.{number}.{place}", each.headers)
                    except nats.errors.BadHeaderError as error:
                        waiting.tell(place, NotTaken(_text(error), is_final=True))
            await waiting.all_told()
        finally:
            del self._batches[number]
        return waiting.told

    async def _receipt(self, message: Msg) -> None:
        number, place = message.subject.rsplit(".", 2)[1:]
        batch = self._batches.get(number)
        if batch is None:
            return  # its publisher has given up
        if message.headers and message.headers.get("Status") == "503":
            batch.tell(int(place), NO_STREAM)
            return
        with suppress(msgspec.DecodeError):  # another service that listens there answers, too
            receipt = _decode(message.data)
            if receipt.stream or receipt.error:
                batch.tell(int(place), receipt.error.refusal() if receipt.error else None)

    async def _keep(self) -> None:
        while True:
            client = Client()
            try:
                await self._live(client)
            except Exception as error:  # noqa: BLE001 whatever it is: people are told, and it is tried again
                self._learn(error)
            finally:
                self._lose()
                await _close(client)
            await anyio.sleep(RETRY_S)

    async def _live(self, client: Client) -> None:
        """Connect, and return or raise when that connection is of no more use."""
        lost = anyio.Event()

        async def note(error: Exception) -> None:
            self._learn(error)

        async def lose() -> None:
            lost.set()

        check = tls_check(self.settings.tls)
        options: dict[str, Any] = connect_options(self.settings, check) | {
            "name": "orchestrator",
            "allow_reconnect": False,  # of a client that was never connected: each attempt is a new one's
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": RETRY_S,
            "connect_timeout": min(ATTEMPT_S, self.settings.timeout_s),
            "error_cb": note,
            "disconnected_cb": lose,
            "closed_cb": lose,
        }
        await client.connect(**options)
        client.options["allow_reconnect"] = True  # it fails over what it still has to send when it may not
        check()
        self._inbox = client.new_inbox()
        await client.subscribe(f"{self._inbox}.*.*", cb=self._receipt)
        for follower in list(self._followers):
            await follower.attach(client)
        self.current, self._wrong = client, None
        self._up.set()
        while not lost.is_set():
            with anyio.move_on_after(PING_S):
                await lost.wait()
            if not lost.is_set():
                await client.rtt(ceil(self.settings.timeout_s))

    def _learn(self, error: Exception) -> None:
        """What the server said of the attempt before weighs more than that it hung up, which may overtake its words."""
        has_spoken = isinstance(self._wrong, nats.errors.Error) and not isinstance(self._wrong, _HUNG_UP)
        if not (has_spoken and isinstance(error, _HUNG_UP)):
            self._wrong = error

    def _lose(self) -> None:
        self.current = None
        if self._up.is_set():
            self._up = anyio.Event()
        for batch in self._batches.values():
            batch.lose()
        for follower in self._followers:
            follower.detach()


class _Error(Struct, frozen=True):
    description: str = ""
    err_code: int = 0

    def refusal(self) -> NotTaken:
        return NotTaken(f"NATS: {self.description}", is_final=self.err_code == _TOO_LARGE)


class _Receipt(Struct, frozen=True):
    """What JetStream answers to a message. That it had it before (`duplicate`) is as good as having it now."""

    stream: str = ""
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Receipt).decode


class _Batch:
    """What the server has told of the messages of one batch, by their place in it."""

    def __init__(self, batch: Sequence[Sent | NotTaken]) -> None:
        self.told = [each if isinstance(each, NotTaken) else None for each in batch]
        self._open = {place for place, each in enumerate(batch) if isinstance(each, Sent)}
        self._news = anyio.Event()

    def tell(self, place: int, answer: NotTaken | None) -> None:
        if place in self._open:
            self._open.remove(place)
            self.told[place] = answer
            if not self._open:
                self._news.set()

    def lose(self) -> None:
        self._news.set()

    async def all_told(self) -> None:
        if self._open:
            await self._news.wait()
        if self._open:
            raise ConnectionError("the connection was lost")


def _text(error: Exception) -> str:
    """What an error of the driver says, for people."""
    if isinstance(error, APIError):
        return error.description or "JetStream does not answer: nats-server -js turns it on"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).removeprefix("nats: ") or type(error).__name__


async def _close(client: Client) -> None:
    """Send what is still to go, if that takes no time, and leave nothing behind."""
    with anyio.CancelScope(shield=True), suppress(nats.errors.Error, OSError):
        if client.is_connected:
            with anyio.move_on_after(CLOSE_S), suppress(nats.errors.Error, OSError):
                await client.rtt(ceil(CLOSE_S))
        _drop(client)
        with anyio.move_on_after(CLOSE_S):  # after a handshake that failed it never ends
            await client.close()


def _drop(client: Client) -> None:
    """Close its socket, whatever is still to go: the driver would wait for a peer that may be gone, or fail over it."""
    client._pending, client._pending_data_size = [], 0  # pyright: ignore[reportPrivateUsage]
    writer: asyncio.StreamWriter | None = getattr(client._transport, "_io_writer", None)  # pyright: ignore[reportPrivateUsage]
    if writer is not None:
        writer.transport.abort()
