"""Loads and saves aggregates: the events of a stream folded, and what was recorded appended to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from msgspec import Raw

from . import codec
from .aggregate import Aggregate
from .errors import DuplicateMessage, NotFound, VersionConflict
from .event_log import EventLog
from .messages import Event
from .recorded import EventTypes, Recorded, by_wire_type

A = TypeVar("A", bound=Aggregate)
T = TypeVar("T")

SNAPSHOTS = "/snapshots"  # what the name of the stream that holds them ends with


class Snapshot(Event, type="orchestrator.snapshot"):
    """The state of an aggregate after so many events; `shape`: of the class that wrote it."""

    after: int
    shape: str
    state: Raw


class Repository(Generic[A]):
    """The aggregates of one class on one log.

    accounts = Repository(Account, orchestrator.events)
    account = await accounts.load("42")
    account.withdraw(5)
    await accounts.save(account)
    """

    def __init__(self, cls: type[A], log: EventLog, *, publish: bool = False, snapshot_every: int = 0) -> None:
        """`publish`: what is saved is sent too, as `EventLog.append` does. `snapshot_every`: after so many events of an
        aggregate its state is stored with them, so that loading reads only what came since; 0: never, which is right
        for all but long streams. A snapshot is an event in a stream of its own, `Account-42/snapshots`, in the same
        commit; one that a class of other fields or another `version` wrote is not used.
        """
        self._cls = cls
        self._log = log
        self._publish = publish
        self._snapshot_every = snapshot_every
        self._shape = cls.__kind__.shape(cls)
        self._types = EventTypes(by_wire_type(cls.__kind__.handlers), only=True)

    async def load(self, id: str, at_version: int | None = None) -> A:
        """The aggregate as it is, or as it was after so many events; that one can be looked at, but not saved.

        Errors: NotFound, if nothing has happened to it, or not so much; BadMessage, for an event that the class does
        not apply, or that does not fit its class; StoreError.
        """
        aggregate = await self.load_or_new(id, at_version)
        if aggregate.version < (at_version or 1):
            raise NotFound(f"there is no {self._cls.stream_of(id)}" + (f"@{at_version}" if at_version else ""))
        return aggregate

    async def save(self, aggregate: A, *, key: str = "") -> None:
        """Append what it recorded, all or nothing; nothing recorded is nothing to do. `key` as in `EventLog.append`: no
        other events are ever stored under it, in whatever stream.

        Errors: VersionConflict, if it has changed since it was loaded: load it again and decide again, or use
        `update`; DuplicateMessage, if these events are stored under the key already; as `EventLog.append`. After an
        error the aggregate is of no more use.
        """
        events = aggregate.recorded
        if not events:
            return
        stream = self._cls.stream_of(aggregate.id)
        before = aggregate.version - len(events)
        beside = []
        if self._snapshot_every and before // self._snapshot_every < aggregate.version // self._snapshot_every:
            snapshot = Snapshot(aggregate.version, self._shape, Raw(codec.encode(aggregate)))
            beside = [(stream + SNAPSHOTS, snapshot)]
        appended = await self._log.append(
            stream, events, expected_version=before, publish=self._publish, key=key, beside=beside
        )
        if appended.version != aggregate.version:
            raise DuplicateMessage(f"{stream}: what it recorded is stored since version {appended.version} under {key}")
        aggregate.__dict__["recorded"] = ()

    async def update(
        self, id: str, decide: Callable[[A], T], *, key: str = "", attempts: int = 10, new: bool = False
    ) -> T:
        """Load it, have `decide` change it, save it, and give what `decide` returned; again from the start when
        somebody else was faster. Updates of one aggregate in this process take turns. `new`: one to which nothing has
        happened, if there is none. `key` as in `save`.

        Errors: NotFound; VersionConflict, after so many attempts; what `decide` raises, and nothing is stored then.
        """
        async with self._log.turn(self._cls.stream_of(id)):
            for _ in range(attempts - 1):
                try:
                    return await self._update(id, decide, key, new)
                except VersionConflict:
                    continue
            return await self._update(id, decide, key, new)

    async def _update(self, id: str, decide: Callable[[A], T], key: str, new: bool) -> T:
        aggregate = await (self.load_or_new(id) if new else self.load(id))
        told = decide(aggregate)
        await self.save(aggregate, key=key)
        return told

    async def load_or_new(self, id: str, at_version: int | None = None) -> A:
        """The same, and one to which nothing has happened, if there is none. Errors: BadMessage, StoreError."""
        aggregate = await self._from_snapshot(id, at_version) if self._snapshot_every else self._cls.new(id)
        stream = self._cls.stream_of(id)
        async for recorded in self._log.read_as(self._types, stream, aggregate.version + 1, at_version):
            aggregate._fold(recorded.event)  # pyright: ignore[reportPrivateUsage]
        return aggregate

    async def _from_snapshot(self, id: str, at_version: int | None) -> A:
        """What the last snapshot holds, if it can be used."""
        stream = self._cls.stream_of(id) + SNAPSHOTS
        number = await self._log.stream_version(stream)
        for row in await self._log.stream(stream, number - 1, 1) if number else ():
            snapshot = Recorded(row, _SNAPSHOT).event
            assert isinstance(snapshot, Snapshot)
            if snapshot.shape == self._shape and (at_version is None or snapshot.after <= at_version):
                aggregate = codec.decode(self._cls, snapshot.state)
                aggregate.__dict__.update(id=id, version=snapshot.after, recorded=())
                return aggregate
        return self._cls.new(id)


_SNAPSHOT = EventTypes(by_wire_type([Snapshot]), only=True)
