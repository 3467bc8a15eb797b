"""What is published: all of it on one channel, and each message confirmed."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from typing import Self, cast

from aiormq import Channel, spec
from aiormq.abc import ArgumentsType
from aiormq.exceptions import ChannelPreconditionFailed, DeliveryError

from orchestrator.errors import BusUnavailable
from orchestrator.ports import BusMessage, NotTaken

from .broker import Broker
from .line import Line
from .names import fit, routing_key

SMALL_BYTES = 65_536  # a message that no broker refuses for its size
PERSISTENT = 2
_MAX_SIZE = re.compile(r"max size (\d+)")


class Sender:
    """Publishes over a connection of its own.

    How large a message may be a broker tells only when it closes the channel over one that is too large. Hence one that
    is larger than all before it goes alone, when those before it are confirmed.
    """

    def __init__(self, line: Line, channel: Channel) -> None:
        """Made by `open`."""
        self.line = line
        self._channel = channel
        self._fits = SMALL_BYTES  # a size that the broker takes
        self._max_size = math.inf
        self._under_way: set[str] = set()  # ids

    @classmethod
    async def open(cls, broker: Broker) -> Self:
        """Connect, and make the exchange if it is missing."""
        line = await Line.open(broker, "publishing")
        try:
            return cls(line, await line.make("", ()))
        except BaseException:
            await line.cut()
            raise

    @property
    def is_open(self) -> bool:
        """Whether neither connection nor channel was lost yet."""
        return self.line.is_open and not self._channel.is_closed

    async def send(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        """What the broker says of each. One queue without a leader must not hold up what goes elsewhere."""
        told: dict[int, NotTaken | None] = {}
        while rest := self._rest(messages, told):
            max_size = self._max_size
            try:
                await self._send_all(messages, self._next(messages, rest), told)
            except BusUnavailable as error:
                if self._max_size != max_size:  # it was too large, and the channel is closed
                    with self.line.broker.within():
                        self._channel = await self.line.channel()
                elif isinstance(error.__cause__, TimeoutError) and None in told.values():
                    await self.line.cut()
                    told |= {n: self._unconfirmed() for n in rest if n not in told}
                else:
                    raise
        return [told[n] for n in range(len(messages))]

    def _rest(self, messages: Sequence[BusMessage], told: dict[int, NotTaken | None]) -> list[int]:
        """Those that nothing is known of, but for what is too large."""
        unknown = [n for n in range(len(messages)) if n not in told]
        told |= {n: self._too_large(messages[n]) for n in unknown if len(messages[n].body) > self._max_size}
        return [n for n in unknown if n not in told]

    def _next(self, messages: Sequence[BusMessage], rest: list[int]) -> list[int]:
        """As many as surely fit, or one."""
        fitting = next((count for count, n in enumerate(rest) if len(messages[n].body) > self._fits), len(rest))
        return rest[: fitting or 1]

    async def _send_all(
        self, messages: Sequence[BusMessage], numbers: Sequence[int], told: dict[int, NotTaken | None]
    ) -> None:
        """All are on their way before the first confirm is waited for; the time limit is for silence."""
        broker = self.line.broker
        with broker.within() as scope:

            async def send(n: int) -> None:
                told[n] = await self._publish(messages[n])
                broker.extend(scope)

            # A task a message: anyio's cost more, and asyncio's group leaves marks of cancellation on who waits for it.
            tasks = [asyncio.ensure_future(send(n)) for n in numbers]
            try:
                await asyncio.wait(tasks)
            finally:
                for task in tasks:
                    task.cancel()
            for task in tasks:
                task.result()

    async def _publish(self, message: BusMessage) -> NotTaken | None:
        own_id = message.id if message.id not in self._under_way else ""  # aiormq knows what is returned by its id
        self._under_way.add(own_id)
        try:
            answer = await self._channel.basic_publish(
                message.body,
                exchange=self.line.broker.options.exchange,
                routing_key=routing_key(message.topic),
                properties=_properties(message, own_id),
                mandatory=message.expected,
            )
        except DeliveryError:
            return NotTaken(f"a queue for {message.topic} does not take it: it is full, or its node is gone")
        except ChannelPreconditionFailed as closed:
            if told := _MAX_SIZE.search(str(closed)):
                self._max_size = int(told[1])
            raise
        finally:
            self._under_way.discard(own_id)
        if not isinstance(answer, spec.Basic.Ack):
            return NotTaken(f"nobody has ever subscribed to {message.topic}")
        self._fits = max(self._fits, len(message.body))
        return None

    def _unconfirmed(self) -> NotTaken:
        timeout_s = self.line.broker.options.timeout_s
        return NotTaken(f"not confirmed for {timeout_s:g} s while others were: has its queue lost its majority?")

    def _too_large(self, message: BusMessage) -> NotTaken:
        size = f"{len(message.body):,} bytes, and max_message_size of the broker is {self._max_size:,}"
        return NotTaken(f"it has {size}", is_final=True)


def _properties(message: BusMessage, message_id: str) -> spec.Basic.Properties:
    """The type of the content goes where AMQP has a place for it."""
    headers: ArgumentsType = dict(message.headers)
    content_type = next((name for name in headers if name.lower() == "content-type"), "")
    return spec.Basic.Properties(
        content_type=cast("str | None", headers.pop(content_type, None)),
        delivery_mode=PERSISTENT,
        headers=headers or None,
        message_id=fit(message_id) or None,
    )
