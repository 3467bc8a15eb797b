"""What is taken: a consumer for each topic, on one channel of a connection of its own."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Self

import anyio
from aiormq import Channel, spec
from aiormq.abc import ArgumentsType
from anyio.lowlevel import checkpoint

from orchestrator.errors import BusUnavailable
from orchestrator.ports import Delivered

from .broker import why
from .frames import Confirm, headers_of, to_delivery
from .line import NEVER, Line

MAX_PREFETCH = 65_535  # of a consumer
PATIENT: ArgumentsType = {"x-consumer-timeout": NEVER}  # for queues that others made


class RabbitSubscription:
    """One member of a group."""

    def __init__(self, line: Line, channel: Channel, prefetch: int) -> None:
        """Made by `RabbitBus.subscribe`."""
        self._line = line
        self._channel = channel
        self._prefetch = prefetch
        self._queues: list[str] = []
        self._topics: dict[str, str] = {}  # by consumer tag
        self._came: deque[Delivered] = deque()
        self._unsettled: dict[int, Delivered] = {}  # by delivery tag, which grows
        self._lost = ""  # why, once it is
        self._changed = anyio.Event()
        self._acking = anyio.Lock()

    async def begin(self, queues: Mapping[str, str]) -> None:
        """Let the messages come, from queues by topic. Each has an equal part of the prefetch."""
        self._channel.closing.add_done_callback(self._on_closed)  # pyright: ignore[reportUnknownMemberType]
        self._channel.on_consumer_cancel_callbacks.add(self._on_cancelled)
        self._line.turn_off(self._channel, self)
        share = max(1, self._prefetch // max(1, len(queues)))
        with self._line.broker.within() as scope:
            await self._channel.basic_qos(prefetch_count=min(share, MAX_PREFETCH))  # of each consumer that follows
            for topic, queue in queues.items():
                tag = str(len(self._topics))  # short: it comes with each message
                self._topics[tag] = topic
                await self._channel.basic_consume(queue, _left_to_us, arguments=PATIENT, consumer_tag=tag)
                self._queues.append(queue)
                self._line.broker.extend(scope)

    async def leave(self) -> None:
        """What is not settled goes to the next member."""
        await self._line.close(self._channel)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Delivered]:
        await checkpoint()
        while True:
            self._check()
            if batch := self._batch():
                return batch
            self._changed = anyio.Event()
            await self._changed.wait()

    async def ack(self, delivered: Sequence[Delivered]) -> None:
        """Settle these; with one word all that have nothing unsettled before them."""
        async with self._acking:
            tags = sorted({each.token for each in delivered if self._unsettled.get(each.token) is each})
            if not tags:
                return
            self._check()
            settled = set(tags)
            first_left = next((tag for tag in self._unsettled if tag not in settled), math.inf)
            prefix = [tag for tag in tags if tag < first_left]
            try:
                with self._line.broker.within(shield=True):  # the broker ends a channel that acknowledges twice
                    if prefix:
                        await self._channel.basic_ack(prefix[-1], multiple=True)
                    for tag in tags[len(prefix) :]:
                        await self._channel.basic_ack(tag)
            except BusUnavailable as error:
                self._lose(str(error))
                raise
            for tag in tags:
                del self._unsettled[tag]
            self._changed.set()

    async def lag(self) -> int:
        """What waits in the queues and what is here; what other members hold no client can see."""
        self._check()
        ready = await self._line.ready(self._queues)
        return ready + len(self._came) + len(self._unsettled)

    def came(self, method: bytes, header: bytes, body: bytes) -> None:
        """Called for each message."""
        consumer, tag = to_delivery(method)
        self._came.append(Delivered(self._topics[consumer], body, headers_of(header), tag))
        self._changed.set()

    def confirmed(self, confirm: Confirm) -> None:
        """Called never: nothing is sent here."""

    def _batch(self) -> list[Delivered]:
        count = min(len(self._came), self._prefetch - len(self._unsettled))
        batch = [self._came.popleft() for _ in range(count)]
        self._unsettled |= {each.token: each for each in batch}
        return batch

    def _on_closed(self, closing: asyncio.Future[Any]) -> None:
        reason = why(None if closing.cancelled() else closing.exception())
        self._lose(f"{self._line.broker.name}: {reason}")

    def _on_cancelled(self, cancel: spec.Basic.Cancel) -> None:
        topic = self._topics.get(cancel.consumer_tag or "", "")
        reason = f"the consumer of {topic} was cancelled: its queue was deleted, or has no node now"
        self._lose(f"{self._line.broker.name}: {reason}")

    def _lose(self, reason: str) -> None:
        self._lost = self._lost or reason
        self._changed.set()

    def _check(self) -> None:
        if self._lost:
            raise BusUnavailable(self._lost)


async def _left_to_us(_message: object) -> None:
    """What the driver would call, if messages came as far as to it."""
