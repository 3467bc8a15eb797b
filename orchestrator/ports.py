"""The ports: what a store, a bus and a clock must do. Their docstrings are what the conformance suites test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, Self

from msgspec import Struct

from .errors import DuplicateMessage, VersionConflict
from .machine.instance import Instance, Status
from .machine.transition import Entry, Transition
from .recorded import Appended, Logged, Stretch
from .wire import Address, DeadLetter, Envelope, Outgoing

MAX_ROW_ID = 2**63 - 1  # of a dead letter, a row of the waiting room or of the outbox
MAX_PAGE = 500


class Waiting(Struct, frozen=True):
    """A row of the waiting room (R11)."""

    id: int
    envelope: Envelope
    since: float
    until: float

    def expired(self, now: float) -> DeadLetter:
        """What is left of it when its time is over (R11)."""
        return DeadLetter(now, f"{self.envelope.address} did not start before its time was over", self.envelope)


class Committed(Struct, frozen=True, gc=False):
    """A transition is on disk. `waiting`: for a new instance, the waiting room's messages for it, oldest first.
    `appended`: what became of each of its appends.
    """

    waiting: tuple[Waiting, ...] = ()
    appended: tuple[Appended, ...] = ()


Result = Committed | VersionConflict | DuplicateMessage


class Due(Struct, frozen=True):
    """An outbox row that is to go. `position` grows with each row put."""

    position: int
    outgoing: Outgoing


class Standing(Struct, frozen=True):
    """Open instances of one saga and definition version that stand in the same steps: how many, and the key of one, or
    nothing where none was at hand among very many.
    """

    saga: str
    definition_version: int
    steps: tuple[str, ...]
    count: int
    key: str


class Find(Struct, frozen=True):
    """Which instances; a filter left at its default does not filter. `since`: updated at or after, seconds since 1970.
    `is_open`: neither completed, compensated nor killed. `cursor`: from the page before. `limit` at most 500.
    """

    saga: str = ""
    key: str = ""
    status: Status | None = None
    parked: bool | None = None
    is_open: bool | None = None
    since: float | None = None
    limit: int = 20
    cursor: str = ""


class Page(Struct, frozen=True):
    """Instances, the newest started first; `next` is the cursor of the following page, empty at the end."""

    items: tuple[Instance, ...]
    next: str = ""


class Counts(Struct, frozen=True, kw_only=True):
    """What a store holds, at one moment."""

    instances: dict[str, dict[str, int]]  # saga -> status -> how many
    parked: int = 0
    paused: int = 0
    busy: int = 0  # instances with an answer or retry to come
    outbox: int = 0
    waiting: int = 0
    dead: int = 0
    overdue: int = 0  # timers due for more than 30 s
    next_wake_at: float | None = None
    oldest_retry: Address | None = None  # the instance whose retried call is the longest without an update
    size_bytes: int = 0
    schema: int = 0


class Store(Protocol):
    """Where instances live. Opened with `async with`. One process writes; `read_only` opens for people beside it.

    Raises StoreUnavailable, StoreFull, StoreCorrupt from every method; StoreLocked and NoStore from opening.
    """

    @classmethod
    def from_url(cls, url: str, *, read_only: bool = False) -> Self:
        """The store that a URL names, not opened yet. Errors: ConfigError."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc: object) -> None: ...

    async def commit(self, transitions: Sequence[Transition]) -> list[Result]:
        """Store each transition whole or not at all, all of them in one durable write, in order; one result each.

        A VersionConflict or DuplicateMessage is *returned* in a transition's place and leaves its neighbours alone:
        a duplicate, if the instance (same run) has a history row with the message's id; else a conflict, if the stored
        version is not one less than the instance's, or what the instance was built on, the transition to that version
        right before it in this commit, was refused. `seen`: a pair known already makes the whole transition a
        duplicate; so does a message that is in the waiting room of that instance already, unless this very transition
        takes it out, and a row to be taken out of the waiting room that is no more there. A new run of a key (version 1
        over an ended instance) replaces the instance and its history. Outbox rows are removed before others are put.

        `appends`: the id of an event that is in the log already, whatever its stream, makes the transition a duplicate;
        else a stream that is not at the expected version makes it a conflict, which says stream, expected and actual
        version. Positions are given in the order of the transitions, without a gap: whoever sees one sees all before.

        When this raises, nothing is stored (StoreFull) or nothing is known (StoreUnavailable). When it returns, a power
        cut loses nothing of it. A caller that is cancelled leaves all of it or nothing.
        """
        ...

    async def load(self, addresses: Sequence[Address]) -> list[Instance | None]:
        """The instances as last committed, in the order asked; None where there is none."""
        ...

    async def records(self, keys: Sequence[str]) -> list[bytes | None]:
        """What was kept last under these keys, in the order asked (R7)."""
        ...

    async def due(self, now: float, limit: int, after: int = 0) -> list[Due]:
        """Outbox rows with no due time or one at or before `now`, of a position above `after`, by position."""
        ...

    async def next_due(self) -> float | None:
        """The earliest `due_at` among outbox rows that have one."""
        ...

    async def wakes(self, now: float, limit: int) -> list[Address]:
        """Instances whose `wake_at` is at or before `now`, the longest overdue first."""
        ...

    async def next_wake(self) -> float | None:
        """The earliest `wake_at` of all instances."""
        ...

    async def waiting_for(self, limit: int) -> list[Waiting]:
        """Rows of the waiting room whose instance is open, or ended not before they came, oldest first: a crash came
        before their delivery.
        """
        ...

    async def prune(self, now: float, ended_before: float) -> int:
        """Remove instances that ended before that moment, with history, a child not before its parent (R14); inbox
        entries and records of that age; and turn waiting-room rows past their time into dead letters (R11). Returns
        how many instances went.
        """
        ...

    async def standing(self) -> list[Standing]:
        """Where all open instances stand (`stands_in`), grouped and sorted: 100,000 of them in a second (R18)."""
        ...

    async def find(self, query: Find) -> Page:
        """Instances by filter. Errors: BadMessage, for a cursor that no page gave."""
        ...

    async def history(self, address: Address, after: int = 0, limit: int = MAX_PAGE) -> list[Entry]:
        """The transitions of an instance with a version greater than `after`, in order."""
        ...

    async def dead_letters(self, after: int = 0, limit: int = MAX_PAGE) -> list[DeadLetter]:
        """Dead letters with an id greater than `after`, oldest first."""
        ...

    async def waiting(self, after: int = 0, limit: int = MAX_PAGE) -> list[Waiting]:
        """The waiting room, oldest first."""
        ...

    async def counts(self, now: float) -> Counts:
        """How many of everything; answered from indexes."""
        ...

    async def stream(self, name: str, after: int = 0, limit: int = MAX_PAGE) -> list[Logged]:
        """The events of a stream with a version greater than `after`, in order; none of a stream that is not there."""
        ...

    async def stream_version(self, name: str) -> int:
        """How many events a stream has; 0: there is no such stream."""
        ...

    async def log(self, after: int = 0, limit: int = MAX_PAGE, types: Sequence[str] = ()) -> Stretch:
        """The events with a position greater than `after`, in order, of these wire types (none given: of all). It may
        look at so many that it ends before the log does, even without a row: go on after its `until`.
        """
        ...

    async def logged(self, id: str) -> Logged | None:
        """The event of this id, or None."""
        ...

    async def last_position(self) -> int:
        """How many events the log has: the position of the last one."""
        ...


class BusMessage(Struct, frozen=True):
    """One message on its way to a bus.

    topic     where it goes: `OrderPlaced`, `commands.warehouse`, `replies.shop`; any text that a wire type may be
    body      CloudEvents 1.0 JSON
    key       messages of one key and topic stay in order where the broker can keep one: the saga's key, or empty
    id        the same whenever this message is sent again, or empty
    headers   what a reader may look at without decoding the body; carried as they are
    expected  somebody is to be there for it (a command, a reply): a broker where nobody is says so by NotTaken
    """

    topic: str
    body: bytes
    key: str = ""
    id: str = ""
    headers: Mapping[str, str] = {}
    expected: bool = False


class NotTaken(Struct, frozen=True):
    """The broker did not take this message; `is_final` if it never will, as one that is too large for it."""

    reason: str
    is_final: bool = False


class Delivered(Struct, frozen=True, eq=False):
    """One message that a subscription handed over; `token` is the adapter's own. Unsettled until it is acknowledged.

    The names of the headers are in lower case.
    """

    topic: str
    body: bytes
    headers: Mapping[str, str] = {}
    token: Any = None


class Subscription(Protocol):
    """Batches of messages for one member of a group, as an async iterator. Raises BusUnavailable from every method."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Sequence[Delivered]:
        """Messages in the order in which the broker hands them over, at least one; never ends by itself.

        As long as the subscription lives, none of them is sent again because it takes long: the adapter extends the
        broker's own time limit.
        """
        ...

    async def ack(self, delivered: Sequence[Delivered]) -> None:
        """These are safe with us: never send them again. In any order (a broker that acknowledges by position may send
        one again while an earlier one is unsettled); what was settled before, or came by an earlier connection, is
        passed over.
        """
        ...

    async def lag(self) -> int:
        """How many messages the broker holds for the group that it was not told to forget; those with us count."""
        ...


class Topic(Struct, frozen=True):
    """A topic that a group takes. `from_start`: a new group begins with the oldest message that a broker which keeps a
    log has there (a command may have been sent before its participant first ran); else with what comes from now on.
    """

    name: str
    from_start: bool = False


class Topology(Struct, frozen=True):
    """What an app needs of a broker: topics that its group takes, topics that it sends to."""

    group: str
    takes: tuple[Topic, ...] = ()
    sends: tuple[str, ...] = ()


class Place(Struct, frozen=True):
    """A stream, topic, exchange, queue or consumer of the broker, by its own name; `what` says which it is, `note` what
    a person should know of it, such as a setting that loses messages.
    """

    what: str
    name: str
    exists: bool
    note: str = ""


class Bus(Protocol):
    """What carries messages between processes, at least once, in any order. Opened with `async with`.

    Opening needs no broker: each method connects where there is no connection, reconnects for ever, and raises
    BusUnavailable when it has not reached the broker within a bounded time. Cancelling any of them leaves the bus fit
    for use. Deduplication, delays, dead letters and the order of an instance's messages are the engine's.
    """

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The bus that a URL names, not opened yet. Errors: ConfigError."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc: object) -> None: ...

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        """Send all of them, in order; returns when the broker has them durably, with None for each that it has.

        Topics that the broker has not got are made. BusUnavailable: nothing is known of any of them, send all again.
        """
        ...

    def subscribe(
        self, topics: Sequence[Topic], group: str, prefetch: int
    ) -> AbstractAsyncContextManager[Subscription]:
        """Messages of these topics; each goes to one member of the group; at most `prefetch` unsettled.

        A group exists for a topic from its first subscription to it on. Topics, queues and consumers that are missing
        are made. What is not settled when the subscriber leaves, or dies, is sent again.
        """
        ...

    async def healthy(self) -> bool:
        """Whether the broker answers within a moment; raises nothing."""
        ...

    async def survey(self, topology: Topology) -> list[Place]:
        """Everything at the broker that this app needs, there or not; makes nothing."""
        ...

    async def set_up(self, topology: Topology) -> None:
        """Make what is missing. The group then exists for all it takes."""
        ...


class Post(Struct, frozen=True):
    """One HTTP request to a webhook: POST `body` to `url` under these headers. Never shown: it holds an event."""

    url: str
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"Post of {len(self.body)} bytes"


class Posted(Struct, frozen=True):
    """What a receiver answered; `retry_after` is the header of this name, or empty."""

    status: int
    retry_after: str = ""


class Sender(Protocol):
    """What carries webhooks. Of an answer only a few KiB are read, for a moment; redirects are not followed; no proxy,
    cookie or credential of this machine is used. Cancelling a call leaves the sender fit for use.
    """

    @classmethod
    def allowing(cls, takes: Callable[[str], bool]) -> Self:
        """One that connects only to IP addresses that `takes` takes: the very address that it looked at."""
        ...

    async def post(self, post: Post) -> Posted:
        """The answer to a request, whatever its status. Errors: NotSent, with a reason that shows nothing secret."""
        ...

    async def check(self, url: str) -> None:
        """Whether all addresses of the URL's host may be connected to; sends nothing. Errors: NotSent."""
        ...

    async def close(self) -> None:
        """Let go of its connections."""
        ...


class Clock(Protocol):
    """Time, as the shell sees it."""

    def now(self) -> float:
        """Seconds since 1970, UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds."""
        ...
