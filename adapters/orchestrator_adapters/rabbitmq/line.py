"""One connection: what is asked of the broker, and how it ends when the broker is not there to hear of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self, cast

import aiormq
from aiormq import Channel
from aiormq.abc import ArgumentsType
from aiormq.exceptions import AMQPChannelError, ChannelNotFoundEntity, ConnectionClosed

from orchestrator.ports import Place

from .broker import Broker, why
from .names import queue_name, routing_key
from .wire import Taker, Wire

GOODBYE = ConnectionClosed(200, "closed by us")
NEVER = 2**31 - 1

# Unless the queue says otherwise, RabbitMQ 4 drops what was redelivered twenty times, a full queue drops its oldest,
# and who holds a message for half an hour loses the subscription (before 3.12 whatever the queue says).
QUORUM: ArgumentsType = {
    "x-queue-type": "quorum",
    "x-delivery-limit": NEVER,
    "x-consumer-timeout": NEVER,  # milliseconds: 24 days
    "x-overflow": "reject-publish",
}

Declare = Callable[[Channel, bool], Awaitable[Any]]  # the flag: passive, which asks and makes nothing

_log = logging.getLogger("aiormq")
if _log.level == logging.NOTSET:  # it reports a lost connection with tracebacks; the engine tells people once
    _log.setLevel(logging.CRITICAL)


class Line:
    """One connection."""

    def __init__(self, broker: Broker, connection: aiormq.Connection, wire: Wire) -> None:
        """Made by `open`."""
        self.broker = broker
        self._connection = connection
        self._wire = wire

    @classmethod
    async def open(cls, broker: Broker, purpose: str) -> Self:
        """Connect; the purpose is shown to those who administer the broker."""
        wire = Wire(broker)
        properties: ArgumentsType = {"connection_name": f"orchestrator {purpose}"}
        try:
            with broker.within():
                connection = await aiormq.connect(broker.url, client_properties=properties, transport_factory=wire)
        except BaseException:
            wire.cut()
            raise
        return cls(broker, connection, wire)

    @property
    def is_open(self) -> bool:
        """Whether it was not lost yet."""
        return self._connection.is_opened

    async def channel(self) -> Channel:
        """A new channel, with confirms."""
        if not self.is_open:
            raise ConnectionClosed(0, "the connection was lost")
        # No bound on the frames that wait for it, for the prefetch is one: a channel that nobody reads would block all.
        return cast(Channel, await self._connection.channel(on_return_raises=False, frame_buffer_size=0))

    def turn_off(self, channel: Channel, taker: Taker) -> None:
        """From now on the taker gets the messages of this channel, and what is said of those that it sent."""
        self._wire.turn_off(channel.number, taker)

    async def make(self, group: str, topics: Sequence[str]) -> Channel:
        """Make what is missing of the exchange and the group's queues, and bind them. A channel to go on with."""
        exchange = self.broker.options.exchange
        with self.broker.within() as scope:
            channel = await self._ensure(await self.channel(), declare_exchange(exchange))
            for topic in topics:
                queue = queue_name(group, exchange, topic)
                channel = await self._ensure(channel, declare_queue(queue))
                await channel.queue_bind(queue, exchange, routing_key(topic))
                self.broker.extend(scope)
        return channel

    async def _ensure(self, channel: Channel, declare: Declare) -> Channel:
        """Ask first: what people made otherwise is used as it is, also by one who may not make anything."""
        try:
            await declare(channel, True)
        except ChannelNotFoundEntity:  # and the broker has closed the channel
            channel = await self.channel()
            await declare(channel, False)
        return channel

    async def look(self, what: str, name: str, ours: Declare, classic: Declare | None = None) -> Place:
        """Whether it is there, and how it differs from what we would make."""
        with self.broker.within():
            try:
                await ours(await self.channel(), True)
            except ChannelNotFoundEntity:
                return Place(what, name, False)
            try:
                await ours(await self.channel(), False)
            except AMQPChannelError as error:
                note = f"used as it is: {why(error)}"
            else:
                note = ""
            if note and classic is not None:
                with suppress(AMQPChannelError):
                    await classic(await self.channel(), False)
                    note = "a classic queue: what it holds is lost with its node; a quorum queue is kept by several"
            return Place(what, name, True, note)

    async def ready(self, queues: Sequence[str]) -> int:
        """How many messages wait in these queues."""
        ready = 0
        async with self.asking() as channel:
            with self.broker.within() as scope:
                for queue in queues:
                    ready += (await channel.queue_declare(queue, passive=True)).message_count or 0
                    self.broker.extend(scope)
        return ready

    @asynccontextmanager
    async def asking(self) -> AsyncGenerator[Channel]:
        """A channel for a question. A driver whose goodbye is cancelled says it twice, and that ends the connection."""
        with self.broker.within():
            channel = await self.channel()
        try:
            yield channel
        finally:
            with self.broker.parting():
                await channel.close(GOODBYE)

    async def close(self, channel: Channel | None = None) -> None:
        """Say goodbye, on the channel first: when it answers, the broker has read all that was acknowledged there."""
        with self.broker.parting():
            if channel is not None:
                await channel.close(GOODBYE)
            await self._connection.close(GOODBYE)
        await self.cut()

    async def cut(self) -> None:
        """End it without a word, and wait until the driver has put its tasks away."""
        self._wire.cut()
        with self.broker.parting():
            await self._connection.close(GOODBYE)


def declare_exchange(name: str) -> Declare:
    """A durable topic exchange."""

    def declare(channel: Channel, passive: bool) -> Awaitable[Any]:
        return channel.exchange_declare(name, exchange_type="topic", durable=True, passive=passive)

    return declare


def declare_queue(name: str, arguments: ArgumentsType | None = QUORUM) -> Declare:
    """A durable queue."""

    def declare(channel: Channel, passive: bool) -> Awaitable[Any]:
        return channel.queue_declare(name, durable=True, arguments=arguments, passive=passive)

    return declare
