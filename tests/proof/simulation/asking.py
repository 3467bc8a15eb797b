"""Who asks a worker over the bus: as a saga's daemon does, again and again until each command and undo is answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import anyio
from msgspec import Raw, Struct

from orchestrator import Call, Command, Participant, participant
from orchestrator.checking.audit import Effect
from orchestrator.cloudevents import cloud_event, to_cloud_event
from orchestrator.machine import Instance
from orchestrator.messages import encode, type_name
from orchestrator.ports import BusMessage, Topic
from orchestrator.testing.simulation import Broker, Outside
from orchestrator.testing.simulation.world import START
from orchestrator.wire import Envelope, Kind
from tests.machine.cast import Refund, Release, Reserve, Reserved, SoldOut

from .services import Services

REPLIES = "replies.asker"
LONGEST_S = 8_000.0  # of waiting for an answer: longer than a clock jumps
AGAIN_S = 1.0  # after a failure


class Story(Struct, frozen=True):
    """What is asked about one key. `script`: what becomes of each call, as in a Script. `every` so many seconds it is
    asked again, less and less often. `undo_after` so many seconds it is undone, answered or not; below zero before it
    was ever asked.
    """

    name: str
    script: tuple[str, ...] = ("yes",)
    every: float = 10.0
    undo_after: float | None = None

    @property
    def key(self) -> str:
        return f"Elsewhere/{self.name.replace(' ', '-')}~1/reserve#1"

    @property
    def undo_key(self) -> str:
        return f"{self.key}/undo"


class Asker(Outside):
    """Sagas somewhere, with what they know of each command; and the database of the participants they ask."""

    def __init__(self, stories: Sequence[Story]) -> None:
        super().__init__()
        self.stories = stories
        self.services = Services({f"Reserve {story.name}": story.script for story in stories})
        self.attempts: dict[str, int] = defaultdict(int)
        self.answers: dict[str, list[Envelope]] = defaultdict(list)
        self.asked_again: set[str] = set()
        self.happened: list[tuple[str, str]] = []  # begin, end or answer, and the key; of participants without the kit
        self._changed = anyio.Event()

    @property
    def is_busy(self) -> bool:
        return any(key not in self.asked_again for story in self.stories for key in _keys(story))

    def last(self, key: str) -> Envelope | None:
        """The answer that counts: a yes or a refusal, or a failure for good of a do that was undone."""
        final = [each for each in self.answers[key] if each.kind is not Kind.FAILURE or b'"fatal"' in bytes(each.data)]
        return final[-1] if final else None

    async def background(self, broker: Broker) -> None:
        self._changed = anyio.Event()  # of this life's loop
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen, broker)
            for story in self.stories:
                tasks.start_soon(self._tell, broker, story)

    async def _listen(self, broker: Broker) -> None:
        member = await broker.member([Topic(REPLIES)], "asker", 100)
        async for batch in member:
            for delivered in batch:
                reply = cloud_event(delivered.body)
                self.answers[reply.reply_to].append(reply)
                self.happened.append(("answer", f"{reply.reply_to} {reply.kind}"))
            self._changed.set()
            self._changed = anyio.Event()
            await member.ack(batch)

    async def _tell(self, broker: Broker, story: Story) -> None:
        await anyio.sleep(0.01)  # until the worker and those who wait for its answers are there
        if story.undo_after is None:
            await self._until_answered(broker, story, story.key)
        elif story.undo_after < 0:
            await self._until_answered(broker, story, story.undo_key)
            await self._until_answered(broker, story, story.key)
        else:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._until_answered, broker, story, story.key)
                await anyio.sleep(story.undo_after)
                await self._until_answered(broker, story, story.undo_key)
        for key in _keys(story):
            before = len(self.answers[key])
            while key not in self.asked_again:
                limit_s = await self._ask(broker, story, key)
                if await self._is_answered(key, before, limit_s):
                    self.asked_again.add(key)

    async def _until_answered(self, broker: Broker, story: Story, key: str) -> None:
        while self.last(key) is None:
            before = len(self.answers[key])
            limit_s = await self._ask(broker, story, key)
            if await self._is_answered(key, before, limit_s) and self.last(key) is None:
                await anyio.sleep(AGAIN_S)

    async def _ask(self, broker: Broker, story: Story, key: str) -> float:
        """How many seconds the attempt has."""
        self.attempts[key] += 1
        attempt = self.attempts[key]
        limit_s = min(LONGEST_S, story.every * 2 ** (attempt - 1))
        is_undo = key == story.undo_key
        command: Command[Any, Any] = Release(story.name) if is_undo else Reserve("1", story.name)
        envelope = Envelope(
            id=key,
            kind=Kind.COMMAND,
            type=type_name(type(command)),
            data=Raw(encode(command)),
            time=START + anyio.current_time(),
            attempt=attempt,
        )
        body = to_cloud_event(
            envelope,
            "/asker",
            undoes=story.key if is_undo else "",
            deadline=START + anyio.current_time() + limit_s,
            reply_to=REPLIES,
        )
        await broker.bus.publish([BusMessage(f"commands.{envelope.type}", body)])
        return limit_s

    async def _is_answered(self, key: str, before: int, seconds: float) -> bool:
        """Whether more answers than `before` come in time."""
        with anyio.move_on_after(seconds):
            while len(self.answers[key]) <= before:
                await self._changed.wait()
        return len(self.answers[key]) > before


def _keys(story: Story) -> tuple[str, ...]:
    return (story.key,) if story.undo_after is None else (story.undo_key, story.key)


def bare(asker: Asker) -> tuple[Participant[Any], ...]:
    """Participants without the kit and without any memory: what is kept of a key is the worker's alone."""

    @participant
    async def reserve(command: Reserve, call: Call[Any]) -> Reserved | SoldOut:
        asker.happened.append(("begin", call.key))
        word = asker.services.word(call)
        if word == "mute":
            await anyio.sleep_forever()
        await anyio.sleep(0.02)
        asker.happened.append(("end", call.key))
        if word in ("fail", "lose"):
            raise ConnectionError("the script says so")
        return SoldOut(f"{len(asker.happened)}") if word == "no" else Reserved(f"r{len(asker.happened)}")

    @participant
    async def release(command: Release | Refund, call: Call[Any]) -> None:
        asker.happened.append(("begin", call.key))
        await anyio.sleep(0.02)
        asker.happened.append(("end", call.key))

    return reserve, release


# What must be true at the end.


def kept(instances: Sequence[Instance], asker: Asker) -> list[str]:
    """With the kit: one effect a key, none after its undo; every command is answered, always the same."""
    wrong = _answers(asker)
    for story in asker.stories:
        done = [each for each in asker.services.effects if each.key == story.key]
        last = asker.last(story.key)
        if story.undo_after is None:
            expected = [Effect(story.key, False)] if last is not None and last.kind is Kind.YES else []
            if done != expected:
                wrong.append(f"I7 {story.key}: its effects are {done}, and should be {expected}")
        elif [each.is_undo for each in done] not in ([False, True], [True], []):
            wrong.append(f"I7 {story.key}: its effects are {done}: more than one, or one after its undo")
        elif any(not each.is_undo for each in done) and not done[-1].is_undo:
            wrong.append(f"I5 {story.key}: its effect was not undone")
    return wrong


def unanswered(instances: Sequence[Instance], asker: Asker) -> list[str]:
    """Without the kit: nothing is carried out again once its answer has left, and no do after its undo has begun."""
    wrong = _answers(asker)
    for number, (what, key) in enumerate(asker.happened):
        later = [each for how, each in asker.happened[number + 1 :] if how == "begin"]
        if what == "answer":
            name, _, kind = key.rpartition(" ")
            if kind != Kind.FAILURE and name in later:
                wrong.append(f"R7 {name} was carried out again after its answer")
        elif what == "begin" and key.endswith("/undo") and key.removesuffix("/undo") in later:
            wrong.append(f"R7 {key.removesuffix('/undo')} was carried out after its undo")
    return list(dict.fromkeys(wrong))


def _answers(asker: Asker) -> list[str]:
    wrong: list[str] = []
    for story in asker.stories:
        for key in _keys(story):
            said = {(each.kind, bytes(each.data)) for each in asker.answers[key] if each.kind is not Kind.FAILURE}
            if len(said) > 1:
                wrong.append(f"R7 {key} was answered in more than one way: {sorted(map(str, said))}")
            if asker.last(key) is None:
                wrong.append(f"R7 {key} was never answered")
            if key == story.undo_key and not said:
                wrong.append(f"R8 {key} failed for good")
    return wrong
