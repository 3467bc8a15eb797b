"""The way to the socket, which the driver shares: the frames of messages turn off before it."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter
from typing import Any, Protocol

from aiormq import TransportFactory

from . import frames
from .broker import Broker
from .frames import HEAD, HEARTBEAT, Confirm

SIGN_OF_LIFE_S = 0.5  # far less than any heartbeat


class Taker(Protocol):
    """Who gets the messages of a channel, and what is said of those that it sent. Raises nothing."""

    def came(self, method: bytes, header: bytes, body: bytes) -> None:
        """A message that was delivered, or that was returned."""
        ...

    def confirmed(self, confirm: Confirm) -> None:
        """The broker took what was sent, or did not."""
        ...


class Wire(TransportFactory):
    """Kept so that it can be cut: the driver would wait for a peer that may never answer."""

    def __init__(self, broker: Broker) -> None:
        """For one connection."""
        self._broker = broker
        self._writer: StreamWriter | None = None
        self._turnout = Turnout()

    async def create(self, url: Any, **kwargs: Any) -> tuple[StreamReader, StreamWriter]:
        """Called by the driver."""
        loop = asyncio.get_running_loop()
        reader = self._turnout
        protocol = StreamReaderProtocol(reader, loop=loop)
        broker = self._broker
        transport, _ = await loop.create_connection(lambda: protocol, broker.host, broker.port, ssl=broker.tls)
        self._writer = StreamWriter(transport, protocol, reader, loop)
        return reader, self._writer

    def turn_off(self, channel: int, taker: Taker) -> None:
        """From now on the taker gets the messages of this channel, instead of the driver."""
        self._turnout.turn_off(channel, taker)

    def cut(self) -> None:
        """Whatever is not sent yet is dropped."""
        if self._writer is not None:
            self._writer.transport.abort()


class Turnout(StreamReader):
    """What the driver reads from. A message is three frames, for each of which it makes half a dozen objects and turns
    of its queues: more than all that we do with the message.
    """

    def __init__(self) -> None:
        super().__init__()
        self._contents: dict[int, _Content] = {}  # by channel
        self._rest = b""  # of a frame that is not here yet
        self._is_understood = True
        self._driver_heard_at = 0.0

    def turn_off(self, channel: int, taker: Taker) -> None:
        """From now on the taker gets the messages of this channel."""
        self._contents[channel] = _Content(taker)

    def feed_data(self, data: Any) -> None:
        """Called by the protocol with whatever bytes came."""
        if not self._is_understood:
            super().feed_data(data)
            return
        came = b"".join((self._rest, data))
        at = passed_on = 0
        while len(came) - at >= HEAD.size:
            kind, channel, size = HEAD.unpack_from(came, at)
            end = at + HEAD.size + size + 1
            if kind > HEARTBEAT[0]:  # it speaks no AMQP: the driver says so
                self._is_understood, at = False, len(came)
                break
            if end > len(came):
                break
            content = self._contents.get(channel)
            is_whole = came[end - 1] == frames.END
            if content is not None and is_whole and content.takes(kind, came[at + HEAD.size : end - 1]):
                self._pass_on(came[passed_on:at])
                passed_on = end
            at = end
        self._pass_on(came[passed_on:at])
        self._rest = came[at:]
        if passed_on:
            self._show_life()

    def feed_eof(self) -> None:
        """Called by the protocol when the peer has hung up."""
        rest, self._rest = self._rest, b""
        self._pass_on(rest)
        super().feed_eof()

    def _pass_on(self, data: bytes) -> None:
        if data:
            super().feed_data(data)

    def _show_life(self) -> None:
        """A broker that sends messages sends no heartbeats, and the driver must not take it for dead."""
        now = asyncio.get_running_loop().time()
        if now - self._driver_heard_at > SIGN_OF_LIFE_S:
            self._driver_heard_at = now
            self._pass_on(HEARTBEAT)


class _Content:
    """Puts together what comes on one channel: a method, a header, and bodies until they have the header's size."""

    def __init__(self, taker: Taker) -> None:
        self._taker = taker
        self._method = b""
        self._header = b""
        self._bodies: list[bytes] = []
        self._missing = 0

    def takes(self, kind: int, payload: bytes) -> bool:
        """Whether this is part of a message or says something of one; else it is the driver's."""
        if kind == frames.METHOD:
            return self._takes_method(payload)
        if not self._method:
            return False
        if kind == frames.HEADER:
            self._header, self._missing = payload, frames.size_of(payload)
        elif kind == frames.BODY:
            self._bodies.append(payload)
            self._missing -= len(payload)
        if self._missing <= 0:
            method, self._method = self._method, b""
            bodies, self._bodies = self._bodies, []
            self._taker.came(method, self._header, bodies[0] if len(bodies) == 1 else b"".join(bodies))
        return True

    def _takes_method(self, payload: bytes) -> bool:
        method = frames.method_of(payload)
        if method in (frames.DELIVER, frames.RETURN):
            self._method = payload
        elif method in (frames.ACK, frames.NACK):
            self._taker.confirmed(frames.to_confirm(payload))
        else:
            return False
        return True
