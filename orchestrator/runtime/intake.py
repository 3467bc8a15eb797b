"""Takes messages from the bus: acknowledged when their effect is on disk, never before (R1)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any
from urllib.parse import unquote

import anyio
from msgspec.structs import replace

from ..app import App
from ..cloudevents import Received, received
from ..config import Limits
from ..errors import BadMessage, BusUnavailable, NotAccepting, StoreUnavailable
from ..machine.transition import Outcome, Transition
from ..messages import Failure, Message, Refusal
from ..ports import Bus, Clock, Delivered, Subscription
from ..topics import Topics
from ..wire import Address, DeadLetter, Envelope, Kind, Outgoing, Route
from .committer import Committer
from .trouble import Trouble
from .waking import Bell, Wakeup
from .work import Asked, Work

BURIED = "dead letters"  # the consumer under which the ids of dead letters are remembered; no listener has such a name
LATER_S = 1.0
MOST_PASSED_OVER = 100  # types that are told of: they come from outside, and may be without end
LOOK_S = 2.0  # between two looks at the broker
ANSWER_S = 5.0  # that it has to answer each of them

Settled = Callable[[object], None]

_log = logging.getLogger(__name__)


class Intake:
    """Reads the bus as far as there is room (R20). What nobody here can use is a dead letter (R16)."""

    def __init__(
        self,
        app: App[Any],
        topics: Topics,
        committer: Committer,
        submit: Callable[[Envelope, Settled], Awaitable[None]],
        work: Work,
        has_room_for_work: Callable[[], bool],
        clock: Clock,
        limits: Limits,
        changed: Bell,
    ) -> None:
        """`submit` waits for room, takes an event or reply, and calls back when it is durable; `work` takes commands,
        when there is room for them, which may be whenever `changed` rings.
        """
        self.trouble = Trouble("the bus cannot be read", clock)
        self.lag: int | None = None  # messages that the broker holds for us, those with us included; None: not known
        self.is_connected = False  # whether it answered the last time that it was asked
        self._app = app
        self._topics = topics
        self._topology = topics.topology()
        self._committer = committer
        self._submit = submit
        self._work = work
        self._has_room_for_work = has_room_for_work
        self._clock = clock
        self._limits = limits
        self._changed = changed
        self._subscription: Subscription | None = None
        self._to_ack: list[_Reading] = []  # where something is durable that was not acknowledged
        self._passed_over: set[str] = set()  # types of commands that a line was written about
        self._acking = Wakeup()

    async def run(self, bus: Bus) -> None:
        """Read, as long as there is a bus."""
        topology = self._topology
        while topology.takes:
            try:
                async with bus.subscribe(topology.takes, topology.group, self._limits.prefetch) as subscription:
                    self._subscription = subscription
                    self.trouble.ends()
                    reading = _Reading(subscription)
                    async for batch in subscription:
                        await self._take_all(reading, batch)
            except BusUnavailable as error:
                self._subscription = None
                self.trouble.begins(error)
                await self.trouble.pause()

    async def ack(self) -> None:
        """Acknowledge what is durable."""
        while True:
            await self._acking.wait()
            to_ack, self._to_ack = self._to_ack, []
            for reading in to_ack:
                durable, reading.durable = reading.durable, []
                try:
                    await reading.subscription.ack(durable)
                except BusUnavailable as error:  # they come again, and the inbox knows them
                    _log.warning("not acknowledged: %s", error)

    async def watch(self, bus: Bus) -> None:
        """Keep `lag` and `is_connected` up to date, also while nothing comes and nothing goes."""
        while True:
            await self.look(bus)
            await self._clock.sleep(LOOK_S)

    async def look(self, bus: Bus) -> None:
        """Ask the broker once, and do not wait long: one that is stopped does not say that it is."""
        subscription = self._subscription
        if subscription is None and self._topology.takes:
            self.lag, self.is_connected = None, False  # `run` is about to connect, and says what is in its way
            return
        wrong, lag = BusUnavailable(f"the broker has not answered within {ANSWER_S:g} s"), None
        with anyio.move_on_after(ANSWER_S):
            try:
                lag = await _held(subscription, bus)
            except BusUnavailable as error:
                wrong = error
        if subscription is not self._subscription:
            return  # another connection has come or gone meanwhile
        self.lag, self.is_connected = lag, lag is not None
        if lag is None:
            self.trouble.begins(wrong)
        else:
            self.trouble.ends()

    async def _take_all(self, reading: _Reading, batch: Sequence[Delivered]) -> None:
        """Take a batch in order; commands that stand together together."""
        commands: list[tuple[Received, Settled]] = []
        for taken, message in [(delivered, self._read(reading, delivered)) for delivered in batch]:
            if message is None:
                continue
            settled = partial(self._settled, reading, taken)
            if message.envelope.kind is Kind.COMMAND:
                commands.append((message, settled))
                continue
            if commands:
                await self._take_commands(commands)
                commands = []
            await self._take(message, taken.topic, settled)
        if commands:
            await self._take_commands(commands)

    def _read(self, reading: _Reading, delivered: Delivered) -> Received | None:
        """The message; None if it is settled already."""
        try:
            plain = self._topics.plain(delivered.topic)
            return received(delivered.body, delivered.headers, plain, self._limits.body_bytes, self._limits.depth)
        except BadMessage as error:
            letter = DeadLetter(at=self._clock.now(), reason=str(error), raw=delivered.body)
            self._bury(letter, partial(self._settled, reading, delivered))
            return None

    async def _take(self, message: Received, topic: str, settled: Settled) -> None:
        """An event, or the reply to a command of a saga here."""
        envelope = addressed(as_reply(message.envelope, self._app))
        if self._is_for_others(message.source, envelope, topic):
            settled(None)
            return
        while True:
            try:
                await self._submit(envelope, settled)
                return
            except BadMessage as error:
                self._bury(DeadLetter(at=self._clock.now(), reason=str(error), envelope=envelope), settled)
                return
            except NotAccepting:  # meanwhile the bus is not read
                await self._clock.sleep(LATER_S)

    def _is_for_others(self, source: str, envelope: Envelope, topic: str) -> bool:
        """Our own event that comes back was brought to all who want it here; a topic of many types has some for others,
        and so has one of many apps.
        """
        if envelope.kind is not Kind.EVENT:
            return envelope.saga not in self._app.sagas
        if source == self._topics.source:
            return True
        is_wanted = envelope.type in self._app.routes or envelope.type in self._app.listening
        return not is_wanted and self._topics.is_shared(topic)

    async def _take_commands(self, batch: Sequence[tuple[Received, Settled]]) -> None:
        asked: list[Asked] = []
        for message, settled in batch:
            if not self._work.carries_out(message.envelope.type):
                self._pass_over(message.envelope.type)
                settled(None)
            elif not message.reply_to:
                reason = "it does not say where its answer is to go (replyto)"
                self._bury(DeadLetter(at=self._clock.now(), reason=reason, envelope=message.envelope), settled)
            else:
                asked.append(Asked(_row(message), settled))
        while asked:
            while not self._has_room_for_work():
                await self._changed.wait()
            try:
                await self._work.take(asked)
                return
            except StoreUnavailable:
                await self._clock.sleep(LATER_S)

    def _pass_over(self, wire_type: str) -> None:
        """Others may share the topic; if nobody does, its saga learns of it by a timeout only, hence the line."""
        if wire_type not in self._passed_over and len(self._passed_over) < MOST_PASSED_OVER:
            self._passed_over.add(wire_type)
            text = "%s comes, and no participant here carries it out: it is left to others who share its topic"
            _log.warning(text, wire_type)

    def _bury(self, letter: DeadLetter, settled: Settled) -> None:
        """A message that comes again is the same dead letter: the inbox is asked first (R1)."""
        seen = ((BURIED, letter.envelope.id),) if letter.envelope is not None else ()
        self._committer.store(Transition(at=letter.at, outcome=Outcome.DEAD, dead=(letter,), seen=seen), settled)

    def _settled(self, reading: _Reading, taken: Delivered, told: object) -> None:
        """An exception means that it is not durable: it is not acknowledged, and comes again."""
        if isinstance(told, Exception):
            return
        if not reading.durable:
            self._to_ack.append(reading)
            self._acking.set()
        reading.durable.append(taken)


async def _held(subscription: Subscription | None, bus: Bus) -> int:
    """What the broker holds for us. Errors: BusUnavailable."""
    if subscription is not None:
        return await subscription.lag()
    if await bus.healthy():
        return 0
    raise BusUnavailable("the broker does not answer")


class _Reading:
    """What came by one subscription, and is durable here but not acknowledged there."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.durable: list[Delivered] = []


def _row(message: Received) -> Outgoing:
    """The command as it stands in the outbox of who carries it out."""
    command = message.envelope
    return Outgoing(
        name=command.id,
        route=Route.COMMAND,
        envelope=command if command.attempt else replace(command, attempt=1),
        deadline=message.deadline,
        undoes=message.undoes,
        sender=Address(command.saga, command.key) if command.saga else None,
        reply_to=message.reply_to,
    )


def as_reply(envelope: Envelope, app: App[Any]) -> Envelope:
    """What answers a command, whether or not its sender knows our word for what it is: its type says that."""
    if envelope.kind is not Kind.EVENT or not envelope.reply_to:
        return envelope
    cls: type[Message] | None = app.types.get(envelope.type)
    if cls is None:
        return envelope
    kind = Kind.FAILURE if cls is Failure else Kind.REFUSAL if issubclass(cls, Refusal) else Kind.YES
    return replace(envelope, kind=kind)


def addressed(reply: Envelope) -> Envelope:
    """A reply with the instance it is for, which the id of the command that it answers names (R3)."""
    if reply.kind is Kind.EVENT or reply.saga or not reply.reply_to:
        return reply
    saga, _, rest = reply.reply_to.partition("/")
    key, _, _ = rest.partition("/")[0].rpartition("~")  # a key may hold a ~ itself: a child's always does
    saga, key = unquote(saga), unquote(key)
    return reply if "\0" in saga + key else replace(reply, saga=saga, key=key)  # no instance is called so
