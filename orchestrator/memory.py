"""The ports in plain Python: what every other store and bus must do, readable in one sitting."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count, islice, takewhile
from typing import Self

import anyio
import msgspec
from anyio.lowlevel import checkpoint
from msgspec import Struct

from .errors import BadMessage, BusUnavailable, ConfigError, DuplicateMessage, VersionConflict
from .event_log import EventStore
from .machine.instance import Instance
from .machine.transition import Entry, Transition
from .memory_log import MemoryLog
from .ports import (
    MAX_PAGE,
    BusMessage,
    Committed,
    Counts,
    Delivered,
    Due,
    Find,
    NotTaken,
    Page,
    Place,
    Result,
    Standing,
    Topic,
    Topology,
    Waiting,
)
from .recorded import Logged, Stretch
from .wire import Address, DeadLetter, Envelope

OVERDUE_S = 30.0
MAX_UNDELIVERED = 100_000

_decode = msgspec.json.Decoder(Instance).decode


class MemoryStore(EventStore):
    """A store that lives as long as this object. Leaving and entering it again keeps what it holds."""

    @classmethod
    def from_url(cls, url: str, *, read_only: bool = False) -> Self:
        """A new, empty store for `memory://`. Errors: ConfigError, also for `read_only`, which would see nothing."""
        if url not in ("memory:", "memory://"):
            raise ConfigError(f"store {url!r}: a memory store is named memory:// and nothing more")
        if read_only:
            raise ConfigError(f"store {url!r}: what a memory store holds is seen only by the process that holds it")
        return cls()

    def __init__(self) -> None:
        self._rows: dict[Address, _Row] = {}
        self._numbers = count(1)
        self._timers: list[tuple[float, Address]] = []  # the earliest first
        self._outbox: dict[str, Due] = {}  # in the order of position
        self._positions = count(1)
        self._waiting: dict[int, Waiting] = {}
        self._waiting_ids = count(1)
        self._dead: dict[int, DeadLetter] = {}
        self._dead_ids = count(1)
        self._seen: dict[tuple[str, str], float] = {}
        self._records: dict[str, tuple[float, bytes]] = {}
        self._log = MemoryLog()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def commit(self, transitions: Sequence[Transition]) -> list[Result]:
        """Store each transition whole or not at all; between the first and the last nobody else gets a turn."""
        await checkpoint()
        refused: dict[Address, int] = {}  # versions, where the last transition of an instance was not stored
        return [self._commit(transition, refused) for transition in transitions]

    def _commit(self, transition: Transition, refused: dict[Address, int]) -> Result:
        """Look first, then write: what follows the looks cannot fail."""
        instance = transition.instance
        before = 0 if instance is None else refused.pop(instance.address, 0)
        if problem := self._problem(transition, before):
            if instance is not None:
                refused[instance.address] = instance.version
            return problem
        if transition.instance is not None:
            self._store(transition, transition.instance)
        for waiting_id in transition.waiting_remove:
            self._waiting.pop(waiting_id, None)
        if transition.wait_until is not None and transition.message is not None:
            row = Waiting(next(self._waiting_ids), transition.message, transition.at, transition.wait_until)
            self._waiting[row.id] = row
        for name in transition.remove:
            self._outbox.pop(name, None)
        for outgoing in transition.put:
            self._outbox.pop(outgoing.name, None)  # so that what replaces it stands at the end
            self._outbox[outgoing.name] = Due(next(self._positions), outgoing)
        for dead_id in transition.dead_remove:
            self._dead.pop(dead_id, None)
        self._bury(transition.dead)
        self._seen |= dict.fromkeys(transition.seen, transition.at)
        self._records |= {record.key: (transition.at, record.body) for record in transition.records}
        appended = tuple(map(self._log.store, transition.appends))
        if transition.instance is None or transition.instance.version > 1:
            return Committed(appended=appended)
        return Committed(tuple(self._waiting_at(transition.instance.address)), appended)

    def _problem(self, transition: Transition, refused: int) -> VersionConflict | DuplicateMessage | None:
        """Why this transition must not be stored, or None; `refused` is the version of the one before it that was not
        stored.
        """
        message, instance = transition.message, transition.instance
        if any(pair in self._seen for pair in transition.seen):
            return DuplicateMessage(f"seen already: {transition.seen}")
        if any(id not in self._waiting for id in transition.waiting_remove):
            return DuplicateMessage(f"no more in the waiting room: {transition.waiting_remove}")
        if (
            transition.wait_until is not None
            and message is not None
            and self._waits(message, transition.waiting_remove)
        ):
            return DuplicateMessage(f"{message.id} waits for {message.address} already")
        return self._misfit(transition, instance, refused) or self._log.problem(transition.appends)

    def _misfit(
        self, transition: Transition, instance: Instance | None, refused: int
    ) -> VersionConflict | DuplicateMessage | None:
        """Why the instance cannot follow what is stored."""
        message = transition.message
        if instance is None:
            return None
        assert message is not None, "a transition of an instance is the effect of a message"
        row = self._rows.get(instance.address)
        if row is None or (row.instance.status.is_end and row.instance.run != instance.run):
            return None if instance.version == 1 else VersionConflict(f"{instance.address} has no run {instance.run}")
        if row.instance.run != instance.run:
            return VersionConflict(f"{instance.address} is still in its run {row.instance.run}")
        if message.id in row.inbox:
            return DuplicateMessage(f"{instance.address} has handled {message.id} already")
        if refused == instance.version - 1:
            return VersionConflict(f"{instance.address}: the transition to {refused} was not stored")
        if instance.version != row.instance.version + 1:
            return VersionConflict(f"{instance.address} is at {row.instance.version}, not below {instance.version}")
        return None

    def _store(self, transition: Transition, instance: Instance) -> None:
        message, address = transition.message, instance.address
        assert message is not None
        body = msgspec.json.encode(instance)
        stored = _decode(body)
        row = self._rows.get(address)
        self._set_timer(address, row.instance.wake_at if row else None, stored.wake_at)
        if row is None or instance.version == 1:
            self._rows.pop(address, None)  # so that a new run stands at the end
            row = self._rows[address] = _Row(next(self._numbers), body, stored, [], set())
        row.body, row.instance = body, stored
        row.entries.append(Entry(instance.version, transition.at, message, transition.outcome, transition.notes))
        row.inbox.add(message.id)

    def _set_timer(self, address: Address, old: float | None, new: float | None) -> None:
        if old is not None:
            del self._timers[bisect_left(self._timers, (old, address))]
        if new is not None:
            insort(self._timers, (new, address))

    def _waits(self, message: Envelope, besides: Collection[int]) -> bool:
        here = self._waiting_at(message.address)
        return any(row.envelope.id == message.id and row.id not in besides for row in here)

    def _waiting_at(self, address: Address) -> list[Waiting]:
        return [row for row in self._waiting.values() if row.envelope.address == address]

    def _bury(self, letters: Iterable[DeadLetter]) -> None:
        for letter in letters:
            dead_id = next(self._dead_ids)
            self._dead[dead_id] = msgspec.structs.replace(letter, id=dead_id)

    async def load(self, addresses: Sequence[Address]) -> list[Instance | None]:
        """The instances as last committed, in the order asked; None where there is none."""
        await checkpoint()
        return [self._rows[address].copy() if address in self._rows else None for address in addresses]

    async def records(self, keys: Sequence[str]) -> list[bytes | None]:
        """What was kept last under these keys, in the order asked."""
        await checkpoint()
        return [self._records[key][1] if key in self._records else None for key in keys]

    async def due(self, now: float, limit: int, after: int = 0) -> list[Due]:
        """Outbox rows that may go, by position."""
        await checkpoint()
        ready = (
            row
            for row in self._outbox.values()
            if row.position > after and (row.outgoing.due_at is None or row.outgoing.due_at <= now)
        )
        return list(islice(ready, limit))

    async def next_due(self) -> float | None:
        """The earliest `due_at` in the outbox."""
        await checkpoint()
        return min(
            (row.outgoing.due_at for row in self._outbox.values() if row.outgoing.due_at is not None), default=None
        )

    async def wakes(self, now: float, limit: int) -> list[Address]:
        """Instances whose timer is due, the longest overdue first."""
        await checkpoint()
        return [address for _, address in islice(takewhile(lambda timer: timer[0] <= now, self._timers), limit)]

    async def next_wake(self) -> float | None:
        """The earliest timer of all instances."""
        await checkpoint()
        return self._timers[0][0] if self._timers else None

    async def waiting_for(self, limit: int) -> list[Waiting]:
        """Rows of the waiting room whose instance is open, or ended not before they came, oldest first."""
        await checkpoint()
        return list(islice(filter(self._is_for_its_run, self._waiting.values()), limit))

    def _is_for_its_run(self, row: Waiting) -> bool:
        if row.envelope.address not in self._rows:
            return False
        instance = self._rows[row.envelope.address].instance
        return instance.ended_at is None or row.since <= instance.ended_at

    async def prune(self, now: float, ended_before: float) -> int:
        """Forget what ended before that moment, parents before children (R14), and bury what waited too long (R11)."""
        await checkpoint()
        expired = [row for row in self._waiting.values() if row.until <= now]
        self._bury(row.expired(now) for row in expired)
        for row in expired:
            del self._waiting[row.id]
        self._seen = {pair: at for pair, at in self._seen.items() if at >= ended_before}
        self._records = {key: kept for key, kept in self._records.items() if kept[0] >= ended_before}
        went = 0
        while gone := [address for address, row in self._rows.items() if self._is_prunable(row.instance, ended_before)]:
            for address in gone:
                del self._rows[address]
            went += len(gone)
        return went

    def _is_prunable(self, instance: Instance, ended_before: float) -> bool:
        return (
            instance.ended_at is not None
            and instance.ended_at < ended_before
            and (instance.answer_to is None or instance.answer_to not in self._rows)
        )

    async def standing(self) -> list[Standing]:
        """Where all open instances stand, grouped (R18)."""
        await checkpoint()
        groups: dict[tuple[str, int, tuple[str, ...]], list[str]] = {}
        for one in (row.instance for row in self._rows.values()):
            if not one.status.is_end:
                groups.setdefault((one.saga, one.definition_version, one.stands_in), []).append(one.key)
        return [Standing(*group, len(keys), min(keys)) for group, keys in sorted(groups.items())]

    async def find(self, query: Find) -> Page:
        """Instances by filter, the newest started first."""
        await checkpoint()
        below = _cursor(query.cursor)
        limit = _page(query.limit)
        rows = [row for row in reversed(self._rows.values()) if row.number < below and row.matches(query)]
        more = str(rows[limit - 1].number) if len(rows) > limit else ""
        return Page(tuple(row.copy() for row in rows[:limit]), more)

    async def history(self, address: Address, after: int = 0, limit: int = MAX_PAGE) -> list[Entry]:
        """The transitions of an instance with a version greater than `after`, in order."""
        await checkpoint()
        if address not in self._rows:
            return []
        return [entry for entry in self._rows[address].entries if entry.version > after][: _page(limit)]

    async def dead_letters(self, after: int = 0, limit: int = MAX_PAGE) -> list[DeadLetter]:
        """Dead letters with an id greater than `after`, oldest first."""
        await checkpoint()
        return [letter for letter in self._dead.values() if letter.id > after][: _page(limit)]

    async def waiting(self, after: int = 0, limit: int = MAX_PAGE) -> list[Waiting]:
        """The waiting room, oldest first."""
        await checkpoint()
        return [row for row in self._waiting.values() if row.id > after][: _page(limit)]

    async def counts(self, now: float) -> Counts:
        """How many of everything."""
        await checkpoint()
        instances: dict[str, dict[str, int]] = {}
        for row in self._rows.values():
            of_saga = instances.setdefault(row.instance.saga, {})
            of_saga[row.instance.status] = of_saga.get(row.instance.status, 0) + 1
        everyone = [row.instance for row in self._rows.values()]
        retrying = [row.instance for row in self._rows.values() if row.instance.is_retrying]
        return Counts(
            instances=instances,
            parked=sum(bool(one.parked) for one in everyone),
            paused=sum(one.paused for one in everyone),
            busy=sum(one.is_busy for one in everyone),
            outbox=len(self._outbox),
            waiting=len(self._waiting),
            dead=len(self._dead),
            overdue=bisect_left(self._timers, (now - OVERDUE_S, Address("", ""))),
            next_wake_at=self._timers[0][0] if self._timers else None,
            oldest_retry=min(retrying, key=lambda one: one.updated_at).address if retrying else None,
        )

    async def stream(self, name: str, after: int = 0, limit: int = MAX_PAGE) -> list[Logged]:
        """The events of a stream after a version, in order."""
        await checkpoint()
        return self._log.stream(name, after, limit)

    async def stream_version(self, name: str) -> int:
        """How many events a stream has."""
        await checkpoint()
        return self._log.version(name)

    async def log(self, after: int = 0, limit: int = MAX_PAGE, types: Sequence[str] = ()) -> Stretch:
        """The events after a position, of these types."""
        await checkpoint()
        return self._log.log(after, limit, types)

    async def logged(self, id: str) -> Logged | None:
        """The event of this id."""
        await checkpoint()
        return self._log.logged(id)

    async def last_position(self) -> int:
        """How many events the log has."""
        await checkpoint()
        return self._log.last_position


class _Row(Struct):
    """One instance: as bytes, which are the truth, and decoded, which nobody else gets to touch."""

    number: int  # grows with each start
    body: bytes
    instance: Instance
    entries: list[Entry]
    inbox: set[str]

    def copy(self) -> Instance:
        return _decode(self.body)

    def matches(self, query: Find) -> bool:
        one = self.instance
        return (
            query.saga in ("", one.saga)
            and query.key in ("", one.key)
            and query.status in (None, one.status)
            and query.parked in (None, bool(one.parked))
            and query.is_open in (None, not one.status.is_end)
            and (query.since is None or one.updated_at >= query.since)
        )


def _cursor(text: str) -> float:
    if not text:
        return float("inf")
    if not text.isascii() or not text.isdigit():
        raise BadMessage(f"{text!r} is not a cursor: take `next` of the page before")
    return int(text)


def _page(limit: int) -> int:
    return max(1, min(limit, MAX_PAGE))


class MemoryBus:
    """A bus within one event loop: each group has its queue, a message goes into all that want its type."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        """A new bus for `memory://`. Errors: ConfigError."""
        if url not in ("memory:", "memory://"):
            raise ConfigError(f"bus {url!r}: a memory bus is named memory:// and nothing more")
        return cls()

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._is_open = False

    async def __aenter__(self) -> Self:
        self._is_open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._is_open = False
        for group in self._groups.values():
            group.close()

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        """Queue all the messages or, with BusUnavailable, none: not open, or a group is MAX_UNDELIVERED behind."""
        await checkpoint()
        self._check_open()
        if any(group.undelivered + len(messages) > MAX_UNDELIVERED for group in self._groups.values()):
            raise BusUnavailable(f"a group is {MAX_UNDELIVERED} messages behind: wait until it has taken some")
        for group in self._groups.values():
            group.add([_Held(message) for message in messages if message.topic in group.topics])
        return [self._refused(message) for message in messages]

    def _refused(self, message: BusMessage) -> NotTaken | None:
        if not message.expected or any(message.topic in group.topics for group in self._groups.values()):
            return None
        return NotTaken(f"nobody has ever subscribed to {message.topic}")

    @asynccontextmanager
    async def subscribe(self, topics: Sequence[Topic], group: str, prefetch: int) -> AsyncGenerator[MemorySubscription]:
        """Batches for one member of the group; the group and what it has not settled stay when the member leaves."""
        self._check_open()
        queue = self._group(group, topics)
        queue.open()
        member = MemorySubscription(queue, frozenset(topic.name for topic in topics), prefetch)
        try:
            yield member
        finally:
            member.leave()

    @property
    def undelivered(self) -> int:
        """How many messages wait for a member of their group."""
        return sum(group.undelivered for group in self._groups.values())

    async def healthy(self) -> bool:
        """Whether the bus is open."""
        await checkpoint()
        return self._is_open

    async def survey(self, topology: Topology) -> list[Place]:
        """The group's queue for each topic that it takes; what is sent needs no place of its own."""
        await checkpoint()
        self._check_open()
        there = self._groups[topology.group].topics if topology.group in self._groups else set[str]()
        return [Place("queue", f"{topology.group} {each.name}", each.name in there) for each in topology.takes]

    async def set_up(self, topology: Topology) -> None:
        """Make the group's queue."""
        await checkpoint()
        self._check_open()
        self._group(topology.group, topology.takes)

    def _group(self, name: str, topics: Iterable[Topic]) -> _Group:
        group = self._groups.setdefault(name, _Group())
        group.topics |= {topic.name for topic in topics}
        return group

    def _check_open(self) -> None:
        if not self._is_open:
            raise BusUnavailable("the memory bus is not open")


class _Held(Struct, eq=False):
    """One message as one group has it."""

    message: BusMessage
    ready_at: float = 0.0  # on the clock of the event loop


class _Group:
    """What one group has yet to deliver. Everyone who waits for something here waits for `_changed`."""

    def __init__(self) -> None:
        self.topics: set[str] = set()
        self._is_open = True
        self._ready: deque[_Held] = deque()
        self._delayed: list[_Held] = []  # by ready_at
        self._changed = anyio.Event()

    @property
    def undelivered(self) -> int:
        return len(self._ready) + len(self._delayed)

    def open(self) -> None:
        self._is_open = True

    def close(self) -> None:
        self._is_open = False
        self.change()

    def add(self, held: Collection[_Held]) -> None:
        self._ready.extend(held)
        self.change()

    def give_back(self, held: Sequence[_Held]) -> None:
        self._ready.extendleft(reversed(held))
        self.change()

    def delay(self, held: _Held, seconds: float) -> None:
        held.ready_at = anyio.current_time() + seconds
        insort(self._delayed, held, key=lambda each: each.ready_at)
        self.change()

    def change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def take(self, topics: Collection[str], room: int) -> list[_Held]:
        """At most `room` messages that are ready; none when something else has changed: look again."""
        if not self._is_open:
            raise BusUnavailable("the memory bus was closed")
        now = anyio.current_time()
        while self._delayed and self._delayed[0].ready_at <= now:
            self._ready.append(self._delayed.pop(0))
        taken: list[_Held] = []
        others: list[_Held] = []
        while self._ready and len(taken) < room:
            held = self._ready.popleft()
            (taken if held.message.topic in topics else others).append(held)
        self._ready.extendleft(reversed(others))
        if not taken:
            with anyio.move_on_after(self._delayed[0].ready_at - now if self._delayed else None):
                await self._changed.wait()
        return taken


class MemorySubscription:
    """Hands out batches while fewer than `prefetch` messages are unsettled."""

    def __init__(self, group: _Group, topics: frozenset[str], prefetch: int) -> None:
        """Made by `MemoryBus.subscribe`."""
        self._group = group
        self._topics = topics
        self._prefetch = prefetch
        self._unsettled: dict[_Held, None] = {}

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Delivered]:
        await checkpoint()
        taken: list[_Held] = []
        while not taken:
            taken = await self._group.take(self._topics, self._prefetch - len(self._unsettled))
        self._unsettled |= dict.fromkeys(taken)
        return [Delivered(held.message.topic, held.message.body, _lower(held.message), held) for held in taken]

    async def ack(self, delivered: Sequence[Delivered]) -> None:
        """Forget these."""
        for each in delivered:
            self._settle(each)

    async def lag(self) -> int:
        """What waits for the group, and what is unsettled here."""
        await checkpoint()
        return self._group.undelivered + len(self._unsettled)

    def again(self, delivered: Delivered, seconds: float) -> None:
        """Let it come again after so many seconds, as a broker does that was not told in time that it is settled."""
        if self._settle(delivered):
            self._group.delay(delivered.token, seconds)

    def leave(self) -> None:
        """What is not settled goes to the next member."""
        self._group.give_back(list(self._unsettled))
        self._unsettled.clear()

    def _settle(self, delivered: Delivered) -> bool:
        """Whether it was unsettled until now."""
        if delivered.token not in self._unsettled:
            return False
        del self._unsettled[delivered.token]
        self._group.change()  # there is room for another
        return True


def _lower(message: BusMessage) -> Mapping[str, str]:
    return {name.lower(): value for name, value in message.headers.items()}
