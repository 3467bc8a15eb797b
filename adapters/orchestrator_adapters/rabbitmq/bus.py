"""A topic exchange, and for each group and topic a quorum queue bound to it.

So a member of a group is handed only topics that it asked for, also while another release of the app asks for more, a
slow topic holds up no other, and who looks at the broker sees what is missing. The routing key is the topic.

Spoken through aiormq, the layer of aio-pika that is the protocol itself: its connection says when it is lost, where a
robust one lets its callers wait. It opens, asks and closes; messages and their confirms pass it by (`wire`, `frames`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Self

import anyio

from orchestrator.errors import BusUnavailable
from orchestrator.ports import BusMessage, NotTaken, Place, Subscription, Topic, Topology

from .broker import Broker
from .line import Line, declare_exchange, declare_queue
from .names import queue_name
from .sender import Sender
from .subscription import RabbitSubscription

MOMENT_S = 3.0  # for an answer to `healthy`


class RabbitBus:
    """A bus over one virtual host: `amqp://user:password@host:5672/vhost?exchange=orchestrator`.

    What is published goes over one connection, and each subscription has its own: a broker short of memory or disk does
    not read from those who publish, and must still hear what is acknowledged.
    """

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The bus that a URL names. Errors: ConfigError."""
        return cls(Broker.from_url(url))

    def __init__(self, broker: Broker) -> None:
        """Made by `from_url`."""
        self._broker = broker
        self._is_open = False
        self._sender: Sender | None = None
        self._connecting = anyio.Lock()
        self._failures = 0
        self._last_failure = ""

    async def __aenter__(self) -> Self:
        self._is_open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._is_open = False
        if self._sender is not None:
            await self._sender.line.close()

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        """Send all, then wait for the confirms; after `timeout` without one nothing is known of any of them.

        Not final: nobody has a queue for what is expected, or a queue is full. Final: larger than max_message_size.
        """
        if not messages:
            return []
        sender = await self._connected()
        try:
            return await sender.send(messages)
        except BusUnavailable:
            await sender.line.cut()
            raise

    @asynccontextmanager
    async def subscribe(self, topics: Sequence[Topic], group: str, prefetch: int) -> AsyncGenerator[Subscription]:
        """Batches of these topics; each topic has an equal part of `prefetch`."""
        queues = {topic.name: self._queue(group, topic) for topic in topics}
        async with self._line(group) as line:
            subscription = RabbitSubscription(line, await line.make(group, list(queues)), prefetch)
            try:
                await subscription.begin(queues)
                yield subscription
            finally:
                await subscription.leave()

    async def healthy(self) -> bool:
        """Whether the broker opens a channel within three seconds."""
        with suppress(BusUnavailable), anyio.move_on_after(MOMENT_S):
            sender = await self._connected()
            async with sender.line.asking():
                return True
        return False

    async def survey(self, topology: Topology) -> list[Place]:
        """The exchange, and the group's queue for each topic that it takes. What is bound no client can see."""
        exchange = self._broker.options.exchange
        queues = [self._queue(topology.group, topic) for topic in topology.takes]
        async with self._line(topology.group) as line:
            found = [await line.look("exchange", exchange, declare_exchange(exchange))]
            for name in queues:
                found.append(await line.look("queue", name, declare_queue(name), declare_queue(name, None)))
        return found

    async def set_up(self, topology: Topology) -> None:
        """Make the exchange and the queues that are missing, and bind all of them."""
        async with self._line(topology.group) as line:
            await line.make(topology.group, [topic.name for topic in topology.takes])

    def _queue(self, group: str, topic: Topic) -> str:
        return queue_name(group, self._broker.options.exchange, topic.name)

    @asynccontextmanager
    async def _line(self, purpose: str) -> AsyncGenerator[Line]:
        self._check_open()
        line = await Line.open(self._broker, purpose)
        try:
            yield line
        finally:
            await line.close()

    async def _connected(self) -> Sender:
        """The way to publish. Who waits while another connects shares the outcome: nobody waits for two attempts."""
        self._check_open()
        failures = self._failures
        async with self._connecting:
            if self._sender is not None and self._sender.is_open:
                return self._sender
            if self._failures != failures:
                raise BusUnavailable(self._last_failure)
            if self._sender is not None:
                await self._sender.line.cut()
            try:
                self._sender = await Sender.open(self._broker)
            except BusUnavailable as error:
                self._failures += 1
                self._last_failure = str(error)
                raise
            return self._sender

    def _check_open(self) -> None:
        if not self._is_open:
            raise BusUnavailable(f"{self._broker.name}: this bus is not open")
