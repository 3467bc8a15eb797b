"""What is published: all of it on one channel, and each message confirmed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Self

from aiormq import Channel
from aiormq.exceptions import ChannelPreconditionFailed

from orchestrator.errors import BusUnavailable
from orchestrator.ports import BusMessage, NotTaken

from .broker import Broker
from .confirms import Confirms
from .line import Line

SMALL_BYTES = 65_536  # a message that no broker refuses for its size
_MAX_SIZE = re.compile(r"max size (\d+)")


class Sender:
    """Publishes over a connection of its own.

    How large a message may be a broker tells only when it closes the channel over one that is too large. Hence one that
    is larger than all before it goes alone, when those before it are confirmed.
    """

    def __init__(self, line: Line, channel: Channel) -> None:
        """Made by `open`."""
        self.line = line
        self._confirms = Confirms(line, channel)
        self._fits = SMALL_BYTES  # a size that the broker takes
        self._max_size = math.inf

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
        return self.line.is_open and self._confirms.is_open

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
                        self._confirms = Confirms(self.line, await self.line.channel())
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

            def tell(number: int, refusal: NotTaken | None) -> None:
                told[number] = refusal
                if refusal is None:
                    self._fits = max(self._fits, len(messages[number].body))
                broker.extend(scope)

            try:
                await self._confirms.publish(messages, numbers, tell)
            except ChannelPreconditionFailed as closed:
                if size := _MAX_SIZE.search(str(closed)):
                    self._max_size = int(size[1])
                raise

    def _unconfirmed(self) -> NotTaken:
        timeout_s = self.line.broker.options.timeout_s
        return NotTaken(f"not confirmed for {timeout_s:g} s while others were: has its queue lost its majority?")

    def _too_large(self, message: BusMessage) -> NotTaken:
        size = f"{len(message.body):,} bytes, and max_message_size of the broker is {self._max_size:,}"
        return NotTaken(f"it has {size}", is_final=True)
