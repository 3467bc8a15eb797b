"""What is taken: a consumer for each topic, on one channel of a connection of its own."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Self

import anyio
from aiormq import Channel, spec
from aiormq.abc import ArgumentsType, DeliveredMessage
from anyio.lowlevel import checkpoint

from orchestrator.errors import BusUnavailable
from orchestrator.ports import Delivered

from .broker import why
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
        self._came: deque[Delivered] = deque()
        self._unsettled: dict[int, Delivered] = {}  # by delivery tag, which grows
        self._lost = ""  # why, once it is
        self._changed = anyio.Event()
        self._acking = anyio.Lock()

    async def begin(self, queues: Mapping[str, str]) -> None:
        """Let the messages come, from queues by topic. Each has an equal part of the prefetch."""
        self._channel.closing.add_done_callback(self._on_closed)  # pyright: ignore[reportUnknownMemberType]
        self._channel.on_consumer_cancel_callbacks.add(self._on_cancelled)
        share = max(1, self._prefetch // max(1, len(queues)))
        with self._line.broker.within() as scope:
            await self._channel.basic_qos(prefetch_count=min(share, MAX_PREFETCH))  # of each consumer that follows
            for topic, queue in queues.items():
                await self._channel.basic_consume(queue, partial(self._on_message, topic), arguments=PATIENT)
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

    def _batch(self) -> list[Delivered]:
        count = min(len(self._came), self._prefetch - len(self._unsettled))
        batch = [self._came.popleft() for _ in range(count)]
        self._unsettled |= {each.token: each for each in batch}
        return batch

    async def _on_message(self, topic: str, message: DeliveredMessage) -> None:
        headers = _headers(message.header.properties)
        self._came.append(Delivered(topic, message.body, headers, message.delivery_tag))
        self._changed.set()

    def _on_closed(self, closing: asyncio.Future[Any]) -> None:
        reason = why(None if closing.cancelled() else closing.exception())
        self._lose(f"{self._line.broker.name}: {reason}")

    def _on_cancelled(self, cancel: spec.Basic.Cancel) -> None:
        reason = f"consumer {cancel.consumer_tag} was cancelled: its queue was deleted, or has no node now"
        self._lose(f"{self._line.broker.name}: {reason}")

    def _lose(self, reason: str) -> None:
        self._lost = self._lost or reason
        self._changed.set()

    def _check(self) -> None:
        if self._lost:
            raise BusUnavailable(self._lost)


def _headers(properties: spec.Basic.Properties) -> Mapping[str, str]:
    """As text, which is what we send; another's numbers and bytes as well, but no tables."""
    found: dict[str, str] = {}
    for name, value in (properties.headers or {}).items():
        if isinstance(value, bytes | bytearray):
            found[name.lower()] = bytes(value).decode(errors="replace")
        elif not isinstance(value, dict | list | None):
            found[name.lower()] = str(value)
    if properties.content_type:
        found["content-type"] = properties.content_type
    return found
