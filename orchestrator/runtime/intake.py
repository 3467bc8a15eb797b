"""Takes messages from the bus: acknowledged when their effect is on disk, never before (R1)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import unquote

from msgspec.structs import replace

from ..app import App
from ..config import Limits
from ..edge import cloud_event
from ..errors import BadMessage, BusUnavailable, NotAccepting
from ..machine.transition import Outcome, Transition
from ..messages import Done, Failure, replies_of, type_name
from ..ports import Bus, Clock, Delivered
from ..wire import DeadLetter, Envelope, Kind
from .committer import Committer
from .trouble import Trouble
from .waking import Wakeup

BURIED = "dead letters"  # the consumer under which the ids of dead letters are remembered; no listener has such a name
LATER_S = 5.0

Settled = Callable[[object], None]

_log = logging.getLogger(__name__)


class Intake:
    """Reads the bus as far as there is room (R20). What nobody here can use is a dead letter (R16)."""

    def __init__(
        self,
        app: App[Any],
        committer: Committer,
        submit: Callable[[Envelope, Settled], Awaitable[None]],
        clock: Clock,
        limits: Limits,
    ) -> None:
        """`submit` waits for room, takes a message, and calls back when it is durable."""
        self.trouble = Trouble("the bus cannot be read", clock)
        self._app = app
        self._committer = committer
        self._submit = submit
        self._clock = clock
        self._limits = limits
        self._to_ack: deque[Delivered] = deque()
        self._acking = Wakeup()

    async def run(self, bus: Bus) -> None:
        """Read, as long as there is a bus."""
        types = _types(self._app)
        while types:
            try:
                async with bus.subscribe(types, self._app.name, self._limits.prefetch) as batches:
                    async for batch in batches:
                        self.trouble.ends()
                        for delivered in batch:
                            await self._take(delivered)
            except BusUnavailable as error:
                self.trouble.begins(error)
                await self.trouble.pause()

    async def ack(self) -> None:
        """Acknowledge what is durable."""
        while True:
            await self._acking.wait()
            while self._to_ack:
                try:
                    await self._to_ack.popleft().ack()
                except BusUnavailable as error:  # it comes again, and the inbox knows it
                    _log.warning("not acknowledged: %s", error)

    async def _take(self, delivered: Delivered) -> None:
        settled = partial(self._settled, delivered)
        now = self._clock.now()
        try:
            envelope = cloud_event(delivered.body, self._limits.body_bytes, self._limits.depth)
        except BadMessage as error:
            self._bury(DeadLetter(at=now, reason=str(error), raw=delivered.body), settled)
            return
        envelope = addressed(envelope)
        if envelope.kind is not Kind.EVENT and envelope.saga not in self._app.sagas:
            settled(None)  # another app's
            return
        try:
            await self._submit(envelope, settled)
        except BadMessage as error:
            self._bury(DeadLetter(at=now, reason=str(error), envelope=envelope), settled)
        except NotAccepting:
            await delivered.nack(LATER_S)

    def _bury(self, letter: DeadLetter, settled: Settled) -> None:
        """A message that comes again is the same dead letter: the inbox is asked first (R1)."""
        seen = ((BURIED, letter.envelope.id),) if letter.envelope is not None else ()
        self._committer.store(Transition(at=letter.at, outcome=Outcome.DEAD, dead=(letter,), seen=seen), settled)

    def _settled(self, delivered: Delivered, told: object) -> None:
        """An exception means that it is not durable: it is not acknowledged, and comes again."""
        if not isinstance(told, Exception):
            self._to_ack.append(delivered)
            self._acking.set()


def addressed(reply: Envelope) -> Envelope:
    """A reply with the instance it is for, which the id of the command that it answers names (R3)."""
    if reply.kind is Kind.EVENT or reply.saga or not reply.reply_to:
        return reply
    saga, _, rest = reply.reply_to.partition("/")
    key, _, _ = rest.partition("/")[0].rpartition("~")  # a key may hold a ~ itself: a child's always does
    saga, key = unquote(saga), unquote(key)
    return reply if "\0" in saga + key else replace(reply, saga=saga, key=key)  # no instance is called so


def _types(app: App[Any]) -> list[str]:
    """The events somebody here takes, and the replies to the commands that nobody here carries out."""
    types = dict.fromkeys([*app.routes, *app.listening])
    for command in app.missing_participants():
        yes, no = replies_of(command)
        types |= dict.fromkeys(type_name(reply) for reply in (*yes, *no, Done, Failure))
    return list(types)
