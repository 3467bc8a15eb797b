"""Delivers events to listeners and sinks: each on its own, in a sender's order, with persisted backoff."""

from __future__ import annotations

import heapq
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from itertools import count
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from ..app import App
from ..errors import BadMessage, Fatal, RetryAfter
from ..event_log import EventLog
from ..machine.transition import Outcome, Transition
from ..messages import Event, decode, encode, type_name, type_version
from ..participant import Delivery, Listener
from ..ports import Clock
from ..wire import DeadLetter, Envelope, Kind, Outgoing, Route
from .functions import Functions, OutOfTime
from .pool import Pool, Share, Worker
from .sinks import Delivered, GivenUp, Kept, Later, Sink, Sinks
from .texts import of_error, plain

SINK_SHARE = 8  # deliveries to one sink at a time; one that fails is tried with one at a time
SINK_HELD = 100  # deliveries for one sink in memory, beside those of one page; more stay in the store

_log = logging.getLogger(__name__)

Order = tuple[str, str]  # listener, and whose events are in order


def delivery(event: Envelope, listener: str, sender: Outgoing | None = None) -> Outgoing:
    """The outbox row that brings one event to one listener."""
    return Outgoing(
        name=f"{event.id}>{listener}",
        route=Route.LISTENER,
        envelope=replace(event, attempt=1),
        listener=listener,
        sender=None if sender is None else sender.sender,
    )


class Listeners:
    """Lanes of deliveries. The head of a lane is delivered, and what came of it committed, before the next one is.

    A delivery that fails stays at the head until its next attempt; other lanes and listeners go on. `commit` stores a
    transition; the outbox rows that are stored and taken out come back by `add` and `forget`. Each listener has room
    for its part of `handed` deliveries in memory, so that one that fails takes none from the others.
    """

    def __init__(
        self,
        app: App[Any],
        resources: object,
        functions: Functions,
        pool: Pool,
        share: int,
        clock: Clock,
        commit: Callable[[Transition], None],
        events: EventLog,
        sinks: Sinks,
        sink_pool: Pool,
        handed: int,
    ) -> None:
        """Give each listener at most `share` workers of `pool`, each sink some of `sink_pool`. `events` is the log that
        listeners append to.
        """
        self._sinks = sinks
        self._sink_pool = sink_pool
        self._room = max(1, handed // max(1, len(app.listeners)))
        self._held: Counter[str] = Counter()
        self._events = events
        self._resources = resources
        self._functions = functions
        self._clock = clock
        self._commit = commit
        self._types = app.event_types
        self._listeners = tuple(app.listeners)
        self._queues = {
            name: _Queue(pool, share, partial(self._deliver, listener)) for name, listener in app.listeners.items()
        }
        self._lanes: dict[Order, deque[Outgoing]] = {}
        self._lane_of: dict[str, Order] = {}
        self._delayed: list[tuple[float, int, Outgoing]] = []
        self._numbers = count()
        self.on_delayed: Callable[[], None] = _nothing

    def held_but(self, resting: Collection[str]) -> int:
        """How many deliveries are in memory, without those to these sinks."""
        return len(self._lane_of) - sum(self._held[sink] for sink in resting)

    def resting(self) -> frozenset[str]:
        """The sinks of which all that is in memory waits for its next attempt."""
        now, waiting, moving = self._clock.now(), set[str](), set[str]()
        for (name, _), (head, *_) in self._lanes.items():
            if name not in self._listeners:
                (moving if head.due_at is None or head.due_at <= now else waiting).add(name)
        return frozenset(waiting - moving)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all listeners and sinks that there are."""
        return (*self._listeners, *self._sinks.names())

    def knows(self, name: str) -> bool:
        """Whether there is a listener or sink of this name."""
        return name in self._listeners or self._sinks.find(name) is not None

    def is_open(self, name: str) -> bool:
        """Whether deliveries to it are to be begun: it is no sink that is paused."""
        sink = self._sinks.find(name)
        return sink is None or sink.is_open

    def has_room(self, name: str) -> bool:
        """Whether it takes another delivery into memory."""
        return self._held[name] < (self._room if name in self._listeners else SINK_HELD)

    @property
    def next_at(self) -> float | None:
        """When the next delayed delivery is due, in seconds since 1970."""
        while self._delayed and not self._is_head(self._delayed[0][2]):
            heapq.heappop(self._delayed)
        return self._delayed[0][0] if self._delayed else None

    def add(self, outgoing: Outgoing) -> None:
        """Deliver this after what is in its lane; the next attempt of the head takes the head's place."""
        if not self.knows(outgoing.listener):
            if self._sinks.is_one(outgoing.listener):  # somebody removed it, with what it had not delivered
                self._commit(Transition(at=self._clock.now(), remove=(outgoing.name,)))
            else:
                self._bury(outgoing, f"there is no listener {outgoing.listener} here", "")
            return
        if outgoing.name not in self._lane_of:
            self._lane_of[outgoing.name] = (outgoing.listener, _lane(outgoing))
            self._held[outgoing.listener] += 1
        order = self._lane_of[outgoing.name]
        lane = self._lanes.setdefault(order, deque())
        if lane and lane[0].name == outgoing.name:
            lane[0] = outgoing
        else:
            lane.append(outgoing)
        if lane[0] is outgoing:
            self._begin(outgoing)

    def forget(self, name: str) -> None:
        """Its row was taken out: go on with the next of its lane."""
        order = self._lane_of.pop(name, None)
        if order is None:
            return
        self._held[order[0]] -= 1
        lane = self._lanes[order]
        assert lane[0].name == name, "only the head of a lane is settled"
        lane.popleft()
        if lane:
            self._begin(lane[0])
        else:
            del self._lanes[order]

    def let_go(self, listener: str) -> list[str]:
        """Forget all deliveries to one, whose rows stay in the store; their names. What runs goes on."""
        names = [name for name, order in self._lane_of.items() if order[0] == listener]
        for name in names:
            self._lanes.pop(self._lane_of.pop(name), None)
        self._held.pop(listener, None)
        self._delayed = [delayed for delayed in self._delayed if delayed[2].listener != listener]
        heapq.heapify(self._delayed)
        if listener not in self._listeners:
            self._queues.pop(listener, None)
        return names

    def let_out(self, now: float) -> None:
        """Deliver what was delayed until `now`."""
        while self._delayed and self._delayed[0][0] <= now:
            _, _, outgoing = heapq.heappop(self._delayed)
            if self._is_head(outgoing):
                self._queue(outgoing.listener).add(outgoing)

    def _is_head(self, outgoing: Outgoing) -> bool:
        order = self._lane_of.get(outgoing.name)
        return order is not None and self._lanes[order][0] is outgoing

    def _begin(self, outgoing: Outgoing) -> None:
        if outgoing.due_at is not None and outgoing.due_at > self._clock.now():
            heapq.heappush(self._delayed, (outgoing.due_at, next(self._numbers), outgoing))
            self.on_delayed()
        else:
            self._queue(outgoing.listener).add(outgoing)

    def _queue(self, name: str) -> _Queue:
        queue = self._queues.get(name)
        if queue is None:
            sink = self._sinks.find(name)
            assert sink is not None, "what is in a lane is for somebody who is there"
            queue = self._queues[name] = _Queue(self._sink_pool, SINK_SHARE, partial(self._carry, sink))
        return queue

    # One delivery.

    async def _carry(self, sink: Sink, worker: Worker, outgoing: Outgoing) -> None:
        """To a sink. While it runs the delivery may be let go, and then read from the store again."""
        if not self._is_head(outgoing):
            return
        verdict = await sink.deliver(worker, outgoing)
        if queue := self._queues.get(sink.name):
            queue.share.resize(SINK_SHARE if isinstance(verdict, Delivered) else 1)
        now = self._clock.now()
        match verdict:
            case Delivered():
                self._commit(Transition(at=now, remove=(outgoing.name,)))
            case Later() if self._is_head(outgoing):
                self._commit(Transition(at=now, put=(_again(outgoing, now + verdict.seconds),)))
            case GivenUp() if self._is_head(outgoing):
                self._bury(outgoing, verdict.reason, verdict.error)
            case Later() | GivenUp() | Kept():
                pass

    async def _deliver(self, listener: Listener[Any], worker: Worker, outgoing: Outgoing) -> None:
        if not self._is_head(outgoing):
            return
        event = outgoing.envelope
        where = {"listener": listener.name, "event": event.id, "attempt": event.attempt}
        try:
            value = decode(self._types[event.type], event.data, event.version)
        except BadMessage as error:
            self._bury(outgoing, "cannot be decoded", str(error))
            return
        try:
            handed: Delivery[Any] = Delivery.of(event, self._resources, event.attempt, self._events)
            told = await self._functions.run(
                worker, listener, (value, handed), listener.is_async, listener.retry.timeout
            )
            published = [self._published(outgoing, index, each) for index, each in enumerate(listener.told(told))]
        except OutOfTime:
            _log.warning("%s did not return in time", listener.name, extra=where)
            self._failed(listener, outgoing, f"no answer within {listener.retry.timeout:g} s", None)
        except RetryAfter as error:
            _log.warning("%s asks for patience: %s", listener.name, error, extra=where)
            self._failed(listener, outgoing, of_error(error), error.seconds)
        except Fatal as error:
            _log.error("%s failed for good", listener.name, exc_info=error, extra=where)
            self._bury(outgoing, f"listener {listener.name} failed for good", of_error(error))
        except Exception as error:  # noqa: BLE001 whatever a listener raises is a failure of its attempt
            _log.warning("%s failed", listener.name, exc_info=error, extra=where)
            self._failed(listener, outgoing, of_error(error), None)
        else:
            now = self._clock.now()
            self._commit(Transition(at=now, put=tuple(published), remove=(outgoing.name,)))

    def _published(self, outgoing: Outgoing, index: int, event: Event) -> Outgoing:
        cause = outgoing.envelope
        envelope = Envelope(
            id=f"{outgoing.name}#{index}",
            kind=Kind.EVENT,
            type=type_name(type(event)),
            data=Raw(encode(event)),
            time=self._clock.now(),
            version=type_version(type(event)),
            correlation_id=cause.correlation_id or cause.id,
            causation_id=cause.id,
            traceparent=cause.traceparent,
            key=cause.key,  # so that what follows from events in order stays in order
        )
        return Outgoing(name=envelope.id, route=Route.EVENT, envelope=envelope, sender=outgoing.sender)

    def _failed(self, listener: Listener[Any], outgoing: Outgoing, error: str, asked_s: float | None) -> None:
        now, attempt = self._clock.now(), outgoing.envelope.attempt
        delay = listener.retry.delay(outgoing.name, attempt, now - outgoing.envelope.time, error, asked_s)
        if delay is None:
            self._bury(outgoing, f"listener {listener.name} failed {attempt} times", error)
            return
        self._commit(Transition(at=now, put=(_again(outgoing, now + delay),)))

    def _bury(self, outgoing: Outgoing, reason: str, error: str) -> None:
        now = self._clock.now()
        event = replace(outgoing.envelope, attempt=0)
        letter = DeadLetter(at=now, reason=reason, envelope=event, listener=outgoing.listener, error=plain(error))
        self._commit(Transition(at=now, outcome=Outcome.DEAD, dead=(letter,), remove=(outgoing.name,)))


class _Queue:
    """What one listener or sink has to do: heads of its lanes."""

    def __init__(self, pool: Pool, share: int, deliver: Callable[[Worker, Outgoing], Awaitable[None]]) -> None:
        self._deliver = deliver
        self._heads: deque[Outgoing] = deque()
        self.share = Share(pool, share, self._take, self._heads)

    def add(self, outgoing: Outgoing) -> None:
        self._heads.append(outgoing)
        self.share.more()

    async def _take(self, worker: Worker) -> None:
        if self._heads:
            await self._deliver(worker, self._heads.popleft())


def _again(outgoing: Outgoing, due_at: float) -> Outgoing:
    """The row of the next attempt, in the place of this one."""
    return replace(outgoing, envelope=replace(outgoing.envelope, attempt=outgoing.envelope.attempt + 1), due_at=due_at)


def _lane(outgoing: Outgoing) -> str:
    """Whose events are in order: those of one instance, of one key; an event of nobody's is on its own."""
    if outgoing.sender is not None:
        return str(outgoing.sender)
    return outgoing.envelope.key or outgoing.name


def _nothing() -> None: ...
