"""Streams of events as users append and read them: over the few methods that a store has for it."""

from __future__ import annotations

import asyncio
import os
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from weakref import WeakValueDictionary

from msgspec import Raw
from msgspec.structs import replace

from .errors import BadMessage, DuplicateMessage, VersionConflict
from .grouping import Grouping
from .machine.transition import Transition
from .messages import Event, encode
from .ports import MAX_PAGE, Committed, Result, Store
from .recorded import (
    NO_CAUSE,
    WEBHOOKS,
    Append,
    Appended,
    Cause,
    EventTypes,
    Logged,
    Recorded,
    Stretch,
    by_wire_type,
)
from .wire import Envelope, Kind, Outgoing, Route

MOST_EVENTS = 10_000  # in one append
_EVENT = Kind.EVENT

_ANY = EventTypes()


class EventLog(ABC):
    """Streams of events, and all of them as one log. Every store is one; `Orchestrator.events`, `call.events` and
    `delivery.events` are, on the store of the program that runs.

        await log.append("order-1", [OrderPlaced(...)], expected_version=0)
        async for recorded in log.read("order-1"):
            print(recorded.version, recorded.position, recorded.event, recorded.metadata.time)

    The abstract methods are those of the Store port.
    """

    classes: EventTypes = _ANY  # of the events that are read without `types`
    _grouping: Grouping | None = None
    _turns: WeakValueDictionary[str, asyncio.Lock] | None = None
    _random = ""  # of this object, in all ids that it gives
    _given = 0

    # What a store gives.

    @abstractmethod
    async def commit(self, transitions: Sequence[Transition]) -> list[Result]:
        """As the Store port says."""

    @abstractmethod
    async def stream(self, name: str, after: int = 0, limit: int = MAX_PAGE) -> list[Logged]:
        """As the Store port says."""

    @abstractmethod
    async def stream_version(self, name: str) -> int:
        """As the Store port says."""

    @abstractmethod
    async def log(self, after: int = 0, limit: int = MAX_PAGE, types: Sequence[str] = ()) -> Stretch:
        """As the Store port says."""

    @abstractmethod
    async def logged(self, id: str) -> Logged | None:
        """As the Store port says."""

    def now(self) -> float:
        """The time that appended events get, in seconds since 1970."""
        return time.time()

    # What users do.

    async def append(
        self,
        stream: str,
        events: Event | Sequence[Event],
        *,
        expected_version: int | None = None,
        publish: bool = False,
        key: str = "",
        cause: Cause = NO_CAUSE,
        beside: Iterable[tuple[str, Event]] = (),
    ) -> Appended:
        """Append events to the end of a stream, all or none; they are on disk when this returns.

        expected_version   what the stream must be at: 0 for a new one; None takes it as it is
        publish            send them too, to the sagas and listeners that want them and to the bus: by the outbox, in
                           the same commit. Of a store that no engine has open, they wait there for the next one
        key                makes a second append under the same key harmless: it changes nothing and is told what the
                           first one was. In a participant `call.key`, in a listener `delivery.id`; a second append
                           within one call needs another key
        cause              who and what led to them
        beside             events for the ends of other streams, in the same commit and never published

        Gives what became of the stream. Errors: VersionConflict, with both versions; BadMessage, for no events, too
        many, what cannot be stored, or a key that was used for other events; StoreError.
        """
        append = Append(stream, expected_version, self._envelopes(events, key, cause))
        appends: tuple[Append, ...] = (append,)
        for name, event in beside:
            appends += (Append(name, None, self._envelopes(event, key and f"{key}>{name}", cause)),)
        for each in appends:
            _check(each)
        put = _published(append) if publish else ()
        result = await self._commit_one(Transition(at=append.events[0].time, put=put, appends=appends))
        match result:
            case Committed():
                return result.appended[0]
            case VersionConflict():
                raise result
            case DuplicateMessage():
                return await self._appended_before(append)

    def _commit_one(self, transition: Transition) -> Awaitable[Result]:
        """Together with what others append meanwhile."""
        if self._grouping is None:
            self._grouping = Grouping(self.commit)
        return self._grouping.commit(transition)

    def _envelopes(self, events: Event | Sequence[Event], key: str, cause: Cause) -> tuple[Envelope, ...]:
        now = self.now()
        if isinstance(events, Event):
            return (_envelope(f"{key}#0" if key else self._own_id(now), events, now, cause),)
        return tuple(
            _envelope(f"{key}#{index}" if key else self._own_id(now), event, now, cause)
            for index, event in enumerate(events)
        )

    def _own_id(self, now: float) -> str:
        """An id of 128 bits that nobody else gives; later ones are greater, and so stand side by side in an index."""
        if not self._random:
            self._random = os.urandom(6).hex()
        number, self._given = self._given, self._given + 1
        return f"{int(now * 1000):012x}{number & 0xFFFF_FFFF:08x}{self._random}"

    async def _appended_before(self, append: Append) -> Appended:
        """What the first append under the same ids was told."""
        before = [await self.logged(event.id) for event in append.events]
        last = before[-1]
        if last is None or [_said(append.stream, event) for event in append.events] != [
            row and _said(row.stream, row.envelope) for row in before
        ]:
            raise BadMessage(
                f"stream {append.stream}: the key of {append.events[0].id} was used for other events: give each append "
                "a key of its own"
            )
        return Appended(last.version, last.position)

    async def read(
        self,
        stream: str,
        from_version: int = 1,
        to_version: int | None = None,
        types: Sequence[type[Event] | str] = (),
    ) -> AsyncIterator[Recorded]:
        """The events of a stream in order, to its end or up to and including `to_version`; none if there is no such.

        `types`: only events of these; classes among them are what they are decoded to. Errors: StoreError.
        """
        wanted, classes = self._wanted(types)
        async for recorded in self.read_as(classes, stream, from_version, to_version):
            if not wanted or recorded.type in wanted:
                yield recorded

    async def read_as(
        self, classes: EventTypes, stream: str, from_version: int = 1, to_version: int | None = None
    ) -> AsyncIterator[Recorded]:
        """`read`, decoding to these classes."""
        after = max(0, from_version - 1)
        while to_version is None or after < to_version:
            limit = MAX_PAGE if to_version is None else min(MAX_PAGE, to_version - after)
            rows = await self.stream(stream, after, limit)
            for row in rows:
                yield Recorded(row, classes)
            if len(rows) < limit:
                return
            after = rows[-1].version

    async def read_all(
        self, from_position: int = 1, types: Sequence[type[Event] | str] = ()
    ) -> AsyncIterator[Recorded]:
        """The events of all streams in the order of their commits, to the present end of the log; `types` as in `read`.

        Whoever goes on after the last position that was seen misses nothing. The orchestrator's own stream, of what
        happens to webhooks, is passed over unless `types` name it.
        Errors: StoreError.
        """
        wanted, classes = self._wanted(types)
        after = max(0, from_position - 1)
        while True:
            stretch = await self.log(after, MAX_PAGE, wanted)
            for row in stretch.rows:
                if wanted or row.stream != WEBHOOKS:
                    yield Recorded(row, classes)
            if stretch.until == after:
                return
            after = stretch.until

    def turn(self, stream: str) -> asyncio.Lock:
        """The lock of those of this process who change a stream one after the other."""
        if self._turns is None:
            self._turns = WeakValueDictionary()
        lock = self._turns.get(stream)
        if lock is None:
            lock = self._turns[stream] = asyncio.Lock()
        return lock

    def caused_by(self, cause: Cause) -> EventLog:
        """The same log for somebody whose appends, unless they say otherwise, come from this cause."""
        return _Caused(self, cause)

    def _wanted(self, types: Sequence[type[Event] | str]) -> tuple[tuple[str, ...], EventTypes]:
        """Wire types, and what to decode them to."""
        classes = by_wire_type(one for one in types if not isinstance(one, str))
        wanted = tuple(dict.fromkeys([*classes, *(one for one in types if isinstance(one, str))]))
        return wanted, EventTypes(classes) if classes else self.classes


class EventStore(EventLog, Store):
    """What a store inherits and `open_store` gives: the Store port, and streams of events over it."""


class _Caused(EventLog):
    """A log with a cause."""

    def __init__(self, log: EventLog, cause: Cause) -> None:
        self._log = log
        self._cause = cause
        self.classes = log.classes

    async def commit(self, transitions: Sequence[Transition]) -> list[Result]:
        return await self._log.commit(transitions)

    async def stream(self, name: str, after: int = 0, limit: int = MAX_PAGE) -> list[Logged]:
        return await self._log.stream(name, after, limit)

    async def log(self, after: int = 0, limit: int = MAX_PAGE, types: Sequence[str] = ()) -> Stretch:
        return await self._log.log(after, limit, types)

    async def logged(self, id: str) -> Logged | None:
        return await self._log.logged(id)

    def now(self) -> float:
        return self._log.now()

    async def stream_version(self, name: str) -> int:
        return await self._log.stream_version(name)

    def turn(self, stream: str) -> asyncio.Lock:
        return self._log.turn(stream)

    def _own_id(self, now: float) -> str:
        return self._log._own_id(now)

    def _commit_one(self, transition: Transition) -> Awaitable[Result]:
        return self._log._commit_one(transition)

    def _envelopes(self, events: Event | Sequence[Event], key: str, cause: Cause) -> tuple[Envelope, ...]:
        return super()._envelopes(events, key, self._cause if cause is NO_CAUSE else cause)


def _published(append: Append) -> tuple[Outgoing, ...]:
    """Rows for the outbox, under the stream's name as key: listeners get the events of one stream in order."""
    return tuple(Outgoing(each.id, Route.EVENT, replace(each, key=append.stream)) for each in append.events)


def _check(append: Append) -> None:
    """Errors: BadMessage."""
    if not append.stream or not append.stream.isprintable():
        raise BadMessage(f"{append.stream!r} does not name a stream: give it printable characters")
    if not 1 <= len(append.events) <= MOST_EVENTS:
        raise BadMessage(
            f"stream {append.stream}: {len(append.events)} events cannot be appended at once, 1 to {MOST_EVENTS} can"
        )


def _envelope(id: str, event: Event, now: float, cause: Cause) -> Envelope:
    if not isinstance(event, Event):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise BadMessage(f"{type(event).__name__} is no Event: a stream has Events only")
    wire = type(event).__wire__
    if cause is NO_CAUSE:
        return Envelope(id, _EVENT, wire.type, Raw(encode(event)), now, version=wire.version)
    return Envelope(
        id=id,
        kind=_EVENT,
        type=wire.type,
        data=Raw(encode(event)),
        time=now,
        version=wire.version,
        user=cause.user,
        correlation_id=cause.correlation_id,
        causation_id=cause.causation_id,
        traceparent=cause.traceparent,
    )


def _said(stream: str, event: Envelope) -> tuple[str, str, int, bytes]:
    return stream, event.type, event.version, bytes(event.data)
