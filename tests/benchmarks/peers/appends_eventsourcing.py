"""One event a commit at the end of a stream, by the eventsourcing package: its event store alone, which is the least it
does for an event: no aggregate is made or loaded.

The library is synchronous: one thread takes what is in flight in turn (threads wait for one another at the writer's
lock). It turns on WAL itself and leaves `synchronous` at SQLite's own default, FULL.
"""

from __future__ import annotations

import time
from uuid import UUID, uuid4

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate
from eventsourcing.persistence import EventStore

from tests.benchmarks.peers.measuring import Load, Options, checkpoint, options

EVENTS = 20  # of a stream


class Events(Application[UUID]):
    pass


class Work(Aggregate):
    class Completed(Aggregate.Event):
        activity: str
        resource: str
        amount: int


class Appending:
    """Each stream grows to EVENTS events, each of which expects the one before."""

    def __init__(self, store: EventStore[UUID]) -> None:
        self._store = store
        self._ready: list[tuple[UUID, int]] = []

    def __call__(self, number: int) -> None:
        stream, version = self._ready.pop() if self._ready else (uuid4(), 0)
        completed = Work.Completed(
            originator_id=stream,
            originator_version=version + 1,
            timestamp=Work.Completed.create_timestamp(),
            activity="W_Completeren aanvraag",
            resource=f"r-{number % 69}",
            amount=number,
        )
        self._store.put([completed])
        if version + 1 < EVENTS:
            self._ready.append((stream, version + 1))


def run(options: Options) -> None:
    path = options.dir / "events.db"
    events = Events(env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)})
    append = Appending(events.events)
    load = Load(options)
    for number in load.warming():
        append(number)
    load.begin()
    for number in load.numbers:
        began = time.perf_counter()
        append(number)
        load.ended(began)
    load.report()
    events.close()
    checkpoint(path)


if __name__ == "__main__":
    run(options())
