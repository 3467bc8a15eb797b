"""Participants that do what a script says and keep what they did: their database outlives the simulated process."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from msgspec import Raw

from orchestrator import Call, Fatal, Participant, Refusal, participant
from orchestrator.checking.audit import Delivered, Effect
from orchestrator.cloudevents import cloud_event, received, to_cloud_event
from orchestrator.memory import MemorySubscription
from orchestrator.messages import decode, encode, type_name
from orchestrator.ports import BusMessage, Topic
from orchestrator.ports import Delivered as Message
from orchestrator.testing.simulation import Broker, Outside
from orchestrator.wire import Envelope, Kind
from tests.machine.cast import (
    Announced,
    Charge,
    Charged,
    Declined,
    Look,
    Refund,
    Release,
    Reserve,
    Reserved,
    Rush,
    Ship,
    Shipped,
    SoldOut,
)

Script = Mapping[str, tuple[str, ...]]
"""Command type -> what becomes of the first, second, ... time that a key comes; the last word holds for all later ones.

yes, no   the answer
fail      an exception instead of the effect
lose      the effect, and an exception instead of the answer
mute      no answer ever
late      (on a bus) its first three deliveries come again ten minutes later
`Reserve a` is for the line a only, `Charge #2` for the second visit of its step.
"""


class Services(Outside):
    """All participants, with one database."""

    complete = ("Reserve", "Release", "Charge", "Refund", "Ship", "Rush")

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.script = script
        self.records: dict[str, bytes] = {}
        self.came: Counter[str] = Counter()

    def word(self, call: Call[Any]) -> str:
        """What becomes of this call."""
        name = type(call.command).__name__
        return self.word_for(name, getattr(call.command, "line", ""), call.key)

    def word_for(self, name: str, line: str, key: str) -> str:
        of_line, of_visit = f"{name} {line}", f"{name} #{key.rpartition('#')[2]}"
        words = next((self.script[each] for each in (of_line, of_visit, name) if each in self.script), ("yes",))
        self.came[key] += 1
        return words[min(self.came[key], len(words)) - 1]


class _Transaction:
    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.effects: list[Effect] = []


class Desk:
    """The connection of one life of the process to that database: a Ledger."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._locks: dict[str, anyio.Lock] = {}
        self._open: dict[str, _Transaction] = {}

    @asynccontextmanager
    async def transaction(self, key: str) -> AsyncGenerator[None]:
        async with self._locks.setdefault(key, anyio.Lock()):
            here = self._open[key] = _Transaction()
            yield
            self.services.records |= here.records
            self.services.effects += here.effects

    async def find(self, key: str) -> bytes | None:
        return self._open[key].records.get(key) or self.services.records.get(key)

    async def put(self, key: str, record: bytes) -> None:
        self._open[key].records[key] = record

    def take_effect(self, call: Call[Any]) -> None:
        key = call.undoes or call.key
        self._open[key].effects.append(Effect(key, call.undoes is not None))


@asynccontextmanager
async def desk(services: Services) -> AsyncGenerator[Desk]:
    yield Desk(services)


async def carry_out(call: Call[Desk], yes: Any, no: Any = None) -> Any:
    word = call.resources.services.word(call)
    if word == "fail":
        raise ConnectionError("the script says so")
    if word == "mute":
        await anyio.sleep_forever()
    async with call.once(call.resources) as first:
        if not first:
            return first.answer
        if word == "no":
            return first.answers(no)
        call.resources.take_effect(call)
        first.answers(yes)
    if word == "lose":
        raise ConnectionError("the answer is lost")
    return yes


@participant
async def reserve(command: Reserve, call: Call[Desk]) -> Reserved | SoldOut:
    reply: Reserved | SoldOut = await carry_out(call, Reserved(f"r-{command.line}"), SoldOut(command.line))
    return reply


@participant
async def charge(command: Charge, call: Call[Desk]) -> Charged | Declined:
    reply: Charged | Declined = await carry_out(call, Charged(), Declined())
    return reply


@participant
async def ship(command: Ship, call: Call[Desk]) -> Shipped:
    reply: Shipped = await carry_out(call, Shipped())
    return reply


@participant
async def rush(command: Rush, call: Call[Desk]) -> Shipped | Declined:
    reply: Shipped | Declined = await carry_out(call, Shipped(), Declined())
    return reply


@participant
async def undo(command: Release | Refund, call: Call[Desk]) -> None:
    word = call.resources.services.word(call)
    if word == "fail":
        raise ConnectionError("the script says so")
    async with call.once(call.resources) as first:
        if first:
            call.resources.take_effect(call)


@participant
async def look(command: Look, call: Call[Desk]) -> Reserved | SoldOut:
    word = call.resources.services.word(call)
    if word == "fail":
        raise ConnectionError("the script says so")
    return SoldOut() if word == "no" else Reserved()


PARTICIPANTS = (reserve, charge, ship, rush, undo, look)


class RemoteServices(Services):
    """The same participants in a process of their own, behind the bus."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self._busy = 0

    @property
    def is_busy(self) -> bool:
        return self._busy > 0

    async def background(self, broker: Broker) -> None:
        self._busy = 0
        here = Desk(self)
        by_type = {type_name(command): each for each in PARTICIPANTS for command in each.commands}
        topics = [Topic(f"commands.{wire_type}", from_start=True) for wire_type in by_type]
        member = await broker.member(topics, "services", 4)
        async for batch in member:
            self._busy = len(batch)
            for delivered in batch:
                await self._carry_out(broker, member, by_type, here, delivered)
                self._busy -= 1

    async def _carry_out(
        self,
        broker: Broker,
        member: MemorySubscription,
        by_type: Mapping[str, Participant[Any]],
        here: Desk,
        delivered: Message,
    ) -> None:
        await anyio.sleep(0.01)
        asked = received(delivered.body, delivered.headers, None)
        envelope = asked.envelope
        participant = by_type[envelope.type]
        cls = next(each for each in participant.commands if type_name(each) == envelope.type)
        command = decode(cls, envelope.data, envelope.version)
        undoes = asked.undoes or None
        call = Call(command, key=envelope.id, resources=here, undoes=undoes, attempt=envelope.attempt)
        if self.script.get(envelope.type) == ("late",) and self.came[f"late {call.key}"] < 3:
            self.came[f"late {call.key}"] += 1
            member.again(delivered, 600)
            return
        self.delivered.append(Delivered(call.key, undoes, call.attempt, bytes(envelope.data)))
        with anyio.move_on_after(1), suppress(ConnectionError, Fatal):
            answer = participant.answered(call, await participant(command, call))
            kind = Kind.REFUSAL if isinstance(answer, Refusal) else Kind.YES
            reply = Envelope(
                id=f"{call.key}:{kind}:{call.attempt}",
                kind=kind,
                type=type_name(type(answer)),
                data=Raw(encode(answer)),
                reply_to=call.key,
                attempt=call.attempt,
            )
            await broker.bus.publish([BusMessage(asked.reply_to, to_cloud_event(reply, "/services"))])
        await member.ack([delivered])


class LateServices(RemoteServices):
    """Nobody has ever been there, when the first command is sent."""

    async def background(self, broker: Broker) -> None:
        await anyio.sleep(7)
        await super().background(broker)


class Audience(RemoteServices):
    """With somebody on the bus besides who hears what the saga announces."""

    def __init__(self, script: Script, topic: str = type_name(Announced)) -> None:
        super().__init__(script)
        self.topic = topic
        self.heard: Counter[str] = Counter()

    async def background(self, broker: Broker) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(super().background, broker)
            member = await broker.member([Topic(self.topic)], "audience", 4)
            async for batch in member:
                for delivered in batch:
                    self.heard[cloud_event(delivered.body).id] += 1
                await member.ack(batch)
