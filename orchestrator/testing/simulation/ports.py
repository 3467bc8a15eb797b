"""The ports of a simulated process: the real ones, each call of which may go wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import copy
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import anyio
from msgspec import structs

from ...app import App
from ...errors import BusUnavailable, StoreFull, StoreUnavailable
from ...event_log import EventStore
from ...machine import Entry, Instance, Transition
from ...memory import MemoryBus, MemoryStore, MemorySubscription
from ...messages import encode
from ...participant import Call, Listener, Participant
from ...ports import (
    MAX_PAGE,
    BusMessage,
    Counts,
    Delivered,
    Due,
    Find,
    NotTaken,
    Page,
    Place,
    Result,
    Standing,
    Store,
    Topic,
    Topology,
    Waiting,
)
from ...recorded import Logged, Stretch
from ...wire import Address, DeadLetter
from .faults import ACK_WAIT_S, CRASHES, LATE_S, Fault, Port
from .world import Life

T = TypeVar("T")


class Disk(Protocol):
    """What a store keeps when its process is killed."""

    def store(self) -> Store:
        """The store for the next life of the process, not opened."""
        ...

    def crash(self) -> None:
        """The process that had the store open is gone, without closing it."""
        ...

    def clean(self) -> None:
        """Nobody needs it any more."""
        ...


class MemoryDisk:
    """Keeps a memory store."""

    def __init__(self) -> None:
        """Empty."""
        self._store = MemoryStore()

    def store(self) -> Store:
        """The one it keeps."""
        return self._store

    def crash(self) -> None:
        """Each commit was whole."""

    def clean(self) -> None:
        """The collector does it."""


class SimulatedClock:
    """The Clock port on virtual time."""

    def __init__(self, life: Life) -> None:
        """Of this life's machine."""
        self._life = life

    def now(self) -> float:
        """What the machine's clock shows; it may have jumped."""
        return self._life.wall()

    async def sleep(self, seconds: float) -> None:
        """No jump of the machine's clock makes this shorter or longer."""
        await anyio.sleep(seconds)


class SimulatedStore(EventStore):
    """A store, each call of which may go wrong."""

    @classmethod
    def from_url(cls, url: str, *, read_only: bool = False) -> Self:
        """Never asked for."""
        raise NotImplementedError

    def __init__(self, life: Life, store: Store) -> None:
        """`store` is not opened yet."""
        self.inner = store
        self._life = life

    async def __aenter__(self) -> Self:
        await self._read("open", self.inner.__aenter__)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if not self._life.loop.is_buried:
            await self._life.fence()
        await self.inner.__aexit__(*exc)

    async def commit(self, transitions: Sequence[Transition]) -> list[Result]:
        what = ", ".join(one.message.id if one.message is not None else "-" for one in transitions)
        return await self._life.port(Port.WRITE, f"commit {what}", lambda: self.inner.commit(transitions), _store_error)

    async def prune(self, now: float, ended_before: float) -> int:
        return await self._life.port(Port.PRUNE, "prune", lambda: self.inner.prune(now, ended_before), _store_error)

    async def load(self, addresses: Sequence[Address]) -> list[Instance | None]:
        return await self._read("load", lambda: self.inner.load(addresses))

    async def records(self, keys: Sequence[str]) -> list[bytes | None]:
        return await self._read("records", lambda: self.inner.records(keys))

    async def due(self, now: float, limit: int, after: int = 0) -> list[Due]:
        return await self._read("due", lambda: self.inner.due(now, limit, after))

    async def next_due(self) -> float | None:
        return await self._read("next_due", self.inner.next_due)

    async def wakes(self, now: float, limit: int) -> list[Address]:
        return await self._read("wakes", lambda: self.inner.wakes(now, limit))

    async def next_wake(self) -> float | None:
        return await self._read("next_wake", self.inner.next_wake)

    async def waiting_for(self, limit: int) -> list[Waiting]:
        return await self._read("waiting_for", lambda: self.inner.waiting_for(limit))

    async def standing(self) -> list[Standing]:
        return await self._read("standing", self.inner.standing)

    async def find(self, query: Find) -> Page:
        return await self._read("find", lambda: self.inner.find(query))

    async def history(self, address: Address, after: int = 0, limit: int = MAX_PAGE) -> list[Entry]:
        return await self._read("history", lambda: self.inner.history(address, after, limit))

    async def dead_letters(self, after: int = 0, limit: int = MAX_PAGE) -> list[DeadLetter]:
        return await self._read("dead_letters", lambda: self.inner.dead_letters(after, limit))

    async def waiting(self, after: int = 0, limit: int = MAX_PAGE) -> list[Waiting]:
        return await self._read("waiting", lambda: self.inner.waiting(after, limit))

    async def counts(self, now: float) -> Counts:
        return await self._read("counts", lambda: self.inner.counts(now))

    async def stream(self, name: str, after: int = 0, limit: int = MAX_PAGE) -> list[Logged]:
        return await self._read("stream", lambda: self.inner.stream(name, after, limit))

    async def stream_version(self, name: str) -> int:
        return await self._read("stream_version", lambda: self.inner.stream_version(name))

    async def log(self, after: int = 0, limit: int = MAX_PAGE, types: Sequence[str] = ()) -> Stretch:
        return await self._read("log", lambda: self.inner.log(after, limit, types))

    async def logged(self, id: str) -> Logged | None:
        return await self._read("logged", lambda: self.inner.logged(id))

    async def last_position(self) -> int:
        return await self._read("last_position", self.inner.last_position)

    async def _read(self, what: str, effect: Callable[[], Awaitable[T]]) -> T:
        return await self._life.port(Port.READ, what, effect, _store_error)


def _store_error(fault: str) -> Exception:
    error = StoreFull if fault == Fault.FULL else StoreUnavailable
    return error(f"simulated: {fault}")


class Broker:
    """A memory bus that stands outside of the simulated process."""

    def __init__(self) -> None:
        """Without messages."""
        self.bus = MemoryBus()
        self.unsettled: dict[object, None] = {}
        self._members: list[AbstractAsyncContextManager[MemorySubscription]] = []

    async def member(self, topics: Sequence[Topic], group: str, prefetch: int) -> MemorySubscription:
        """A subscription that lives until its process is gone."""
        context = self.bus.subscribe(topics, group, prefetch)
        self._members.append(context)
        return await context.__aenter__()

    @property
    def is_busy(self) -> bool:
        """Whether a message is on its way."""
        return bool(self.unsettled) or self.bus.undelivered > 0

    async def restart_members(self) -> None:
        """Their process is gone: what they had not settled is delivered again."""
        await self.bus.__aenter__()
        members, self._members = self._members, []
        self.unsettled.clear()
        for context in members:
            await context.__aexit__(None, None, None)


class SimulatedBus:
    """The bus as the simulated process sees it."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Never asked for."""
        raise NotImplementedError

    def __init__(self, life: Life, broker: Broker) -> None:
        """A connection to the broker."""
        self._life = life
        self._broker = broker

    async def __aenter__(self) -> Self:
        await self._life.fence()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._life.fence()

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        what = ", ".join(message.topic for message in messages)
        try:
            return await self._life.port(
                Port.PUBLISH, f"publish {what}", lambda: self._broker.bus.publish(messages), _bus_error
            )
        except _NotNow as refusal:
            return [NotTaken(str(refusal)) for _ in messages]

    @asynccontextmanager
    async def subscribe(
        self, topics: Sequence[Topic], group: str, prefetch: int
    ) -> AsyncGenerator[SimulatedSubscription]:
        yield SimulatedSubscription(self._life, self._broker, await self._broker.member(topics, group, prefetch))

    async def healthy(self) -> bool:
        return True

    async def survey(self, topology: Topology) -> list[Place]:
        return await self._broker.bus.survey(topology)

    async def set_up(self, topology: Topology) -> None:
        await self._broker.bus.set_up(topology)


class SimulatedSubscription:
    """Messages that come late, twice, or again because their acknowledgement was lost."""

    def __init__(self, life: Life, broker: Broker, member: MemorySubscription) -> None:
        """What `member` is handed, as a process sees it that may die of it."""
        self._life = life
        self._broker = broker
        self._member = member
        self._received: deque[Delivered] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Delivered]:
        while True:
            while not self._received:
                self._received.extend(await anext(self._member))
                await self._life.fence()
            copies = await self._received_as(self._received.popleft())
            if copies:
                return copies

    async def ack(self, delivered: Sequence[Delivered]) -> None:
        mine = [each for each in delivered if each in self._broker.unsettled]  # not the copies of what came twice
        try:
            await self._life.port(Port.ACK, "ack", partial(self._member.ack, mine), _bus_error)
        except BusUnavailable:
            for each in mine:
                self._member.again(each, ACK_WAIT_S)  # of a message that is settled this does nothing
            raise
        finally:
            for each in mine:
                self._broker.unsettled.pop(each, None)

    async def lag(self) -> int:
        return await self._member.lag()

    async def _received_as(self, delivered: Delivered) -> list[Delivered]:
        """The message as often as it comes."""
        self._broker.unsettled[delivered] = None
        fault = self._life.world.next_call(Port.RECEIVE, "receive", self._life.loop.now)
        if fault in CRASHES:
            await self._life.die()
        if fault is Fault.LATE:
            await self._life.fence()
            self._broker.unsettled.pop(delivered, None)
            self._member.again(delivered, LATE_S)
            return []
        return [delivered, structs.replace(delivered)] if fault is Fault.TWICE else [delivered]


class _NotNow(BusUnavailable):
    """The broker is there, and takes nothing."""


def _bus_error(fault: str) -> Exception:
    return (_NotNow if fault == Fault.REFUSED else BusUnavailable)(f"simulated: {fault}")


class Seen(Protocol):
    """Who is told of each call of a participant."""

    def __call__(self, call: Call[Any], data: bytes) -> None:
        """It came, with this payload."""
        ...


def simulated(app: App[Any], life: Life, seen: Seen) -> App[Any]:
    """The app with participants and listeners whose calls may go wrong, and without projections."""
    around = copy(app)
    participants = {one: _participant(one, life, seen) for one in dict.fromkeys(app.participants.values())}
    around.participants = {name: participants[one] for name, one in app.participants.items()}
    around.listeners = {name: _listener(one, life) for name, one in app.listeners.items()}
    around.projections = {}  # they only read the log, with threads and files of their own
    return around


def _participant(real: Participant[Any], life: Life, seen: Seen) -> Participant[Any]:
    async def function(command: Any, call: Call[Any]) -> Any:
        async def effect() -> Any:
            seen(call, encode(command))
            answer = real(command, call)
            return await answer if real.is_async else answer

        return await life.port(Port.CALL, f"{call.key} {call.attempt}", effect, _failed)

    function.__name__ = real.name
    return Participant(function, real.commands, real.answers, True, real.resources)


def _listener(real: Listener[Any], life: Life) -> Listener[Any]:
    async def function(event: Any, delivery: Any) -> Any:
        async def effect() -> Any:
            told = real(event, delivery)
            return await told if real.is_async else told

        return await life.port(Port.LISTEN, f"{real.name} {delivery.id}", effect, _failed)

    function.__name__ = real.name
    return Listener(function, real.events, real.publishes, real.retry, True, real.resources)


def _failed(fault: str) -> Exception:
    return ConnectionError(f"simulated: {fault}")
