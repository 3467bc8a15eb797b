# pyright: reportUnknownMemberType=false
"""A channel that publishes: many messages at once, and what the broker says of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any, cast
from uuid import uuid4

from aiormq import Channel
from aiormq.abc import ChannelFrame
from aiormq.exceptions import AMQPError, ChannelInvalidStateError, ConnectionClosed
from msgspec import Struct

from orchestrator.ports import BusMessage, NotTaken

from .broker import why
from .frames import Confirm, message_id_of, to_frames
from .line import Line
from .names import fit

AT_ONCE_BYTES = 262_144  # written before the socket is waited for

Told = Callable[[int, NotTaken | None], None]


class Batch(Struct, eq=False):
    """Messages that somebody waits for together."""

    told: Told
    left: int
    all_told: asyncio.Future[None]


class Sent(Struct, eq=False):
    """A message under way: which one of its batch."""

    batch: Batch
    number: int
    topic: str
    id: str
    is_returned: bool = False


class Confirms:
    """Numbers what is published, as the broker does: its confirms name the number."""

    def __init__(self, line: Line, channel: Channel) -> None:
        """Of a channel that nobody else publishes on."""
        self._exchange = line.broker.options.exchange
        self._channel = channel
        self._writing = asyncio.Lock()  # numbers are in the order of the bytes
        self._count = 0
        self._under_way: dict[int, Sent] = {}  # by number, which grows
        self._by_id: dict[str, Sent] = {}
        line.turn_off(channel, self)
        channel.closing.add_done_callback(self._on_closed)

    @property
    def is_open(self) -> bool:
        """Whether the channel was not closed yet."""
        return not self._channel.is_closed

    async def publish(self, messages: Sequence[BusMessage], numbers: Sequence[int], told: Told) -> None:
        """Send those of these numbers; returns when `told` was called for each. Errors: the driver's."""
        batch = Batch(told, len(numbers), asyncio.get_running_loop().create_future())
        try:
            async with self._writing:
                for some in _portions(messages, numbers):
                    await self._write(batch, messages, some)
            await batch.all_told
        finally:
            batch.all_told.cancel()

    async def _write(self, batch: Batch, messages: Sequence[BusMessage], numbers: Sequence[int]) -> None:
        """All of it at once, and wait until the socket has taken it: a slow broker holds up who publishes."""
        if self._channel.is_closed:
            raise ChannelInvalidStateError("the channel is closed")
        channel = self._channel
        drained = cast("asyncio.Future[None]", channel.create_future())
        sent: list[Sent] = []
        try:
            for number in numbers:
                sent.append(self._sent(batch, number, messages[number]))
            payload = b"".join(
                to_frames(messages[each.number], each.id, channel.number, self._exchange, channel.max_content_size)
                for each in sent
            )
            await channel.write_queue.put(ChannelFrame(payload, should_close=False, drain_future=drained))
        except BaseException:
            for each in sent:
                del self._by_id[each.id]
            drained.cancel()
            raise
        for each in sent:  # before anything is awaited: the broker counts what it gets
            self._count += 1
            self._under_way[self._count] = each
        await drained

    def _sent(self, batch: Batch, number: int, message: BusMessage) -> Sent:
        """What comes back is known by its id, hence no two under way have the same."""
        name = fit(message.id)
        if not name or name in self._by_id:
            name = uuid4().hex
        self._by_id[name] = sent = Sent(batch, number, message.topic, name)
        return sent

    def came(self, method: bytes, header: bytes, body: bytes) -> None:
        """A message that no queue is there for; it is confirmed as well."""
        if sent := self._by_id.get(message_id_of(header)):
            sent.is_returned = True

    def confirmed(self, confirm: Confirm) -> None:
        """Called for each confirm."""
        last = confirm.tag
        numbers = list(takewhile(lambda number: number <= last, self._under_way)) if confirm.multiple else [last]
        for number in numbers:
            if sent := self._under_way.pop(number, None):
                del self._by_id[sent.id]
                _tell(sent, confirm.taken)

    def _on_closed(self, closing: asyncio.Future[Any]) -> None:
        error = asyncio.CancelledError() if closing.cancelled() else closing.exception()
        if not isinstance(error, AMQPError):
            error = ConnectionClosed(0, why(error))
        for sent in self._under_way.values():
            all_told = sent.batch.all_told
            if not all_told.done():
                all_told.set_exception(error)
                all_told.exception()  # who publishes may have learned of it from the socket: asyncio is not to complain
        self._under_way.clear()


def _portions(messages: Sequence[BusMessage], numbers: Sequence[int]) -> Iterator[list[int]]:
    portion: list[int] = []
    size = 0
    for number in numbers:
        portion.append(number)
        size += len(messages[number].body)
        if size >= AT_ONCE_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _tell(sent: Sent, taken: bool) -> None:
    batch = sent.batch
    if batch.all_told.done():
        return  # nobody waits for it any more
    refusal: NotTaken | None = None
    if not taken:
        refusal = NotTaken(f"a queue for {sent.topic} does not take it: it is full, or its node is gone")
    elif sent.is_returned:
        refusal = NotTaken(f"nobody has ever subscribed to {sent.topic}")
    batch.told(sent.number, refusal)
    batch.left -= 1
    if not batch.left:
        batch.all_told.set_result(None)
