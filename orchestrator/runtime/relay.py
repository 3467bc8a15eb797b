"""Carries what is committed to where it goes: commands to participants, events to whoever wants them (R1).

What a commit puts into the outbox is handed over in memory right after it. The stored rows are the recovery: they are
paged through at the start, and whenever more came than memory was to hold (R20).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from itertools import islice
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ..app import App
from ..cloudevents import text_headers, to_cloud_event
from ..config import Limits
from ..errors import BadMessage, BusUnavailable, StoreUnavailable
from ..machine.transition import Outcome, Transition
from ..ports import MAX_ROW_ID, Bus, BusMessage, Clock, Due, NotTaken, Store
from ..topics import Topics
from ..wire import DeadLetter, Envelope, Outgoing, Route
from .calls import Calls, failed, failure_instead
from .committer import Committer
from .listeners import Listeners
from .mailbox import Mail
from .routing import NOWHERE, Audience, Distributor, Outcomes
from .supervisor import Supervisor
from .trouble import Trouble
from .waking import Bell, Wakeup

PUBLISH_AT_ONCE = 100
REFUSED_AGAIN_S = 1.0


class Lane(Enum):
    """Where rows of the outbox are bound for, so that one that is stopped up leaves room for the others. Each listener
    and each sink has a lane of its own, which is its name.
    """

    HERE = auto()  # instances and participants of this process
    NOBODY = auto()  # listeners and sinks that are gone
    BUS = auto()


Bound = Lane | str


class Relay:
    """Hands over rows of the outbox, each once as long as it is stored."""

    def __init__(
        self,
        app: App[Any],
        store: Store,
        bus: Bus | None,
        topics: Topics,
        audience: Audience,
        supervisor: Supervisor,
        committer: Committer,
        distributor: Distributor,
        calls: Calls,
        listeners: Listeners,
        answer: Callable[[Outgoing, Envelope], None],
        clock: Clock,
        limits: Limits,
        changed: Bell,
    ) -> None:
        """Hand over what `committer` puts into the outbox of `store`. `answer` gets the reply to a command that is
        handed to nobody.
        """
        self.trouble = Trouble("nothing can be published", clock)
        self.refusals = Trouble("the broker does not take a message", clock)
        self._reading = Trouble("the outbox cannot be read", clock)
        self._app = app
        self._store = store
        self._bus = bus
        self._topics = topics
        self._supervisor = supervisor
        self._committer = committer
        self._calls = calls
        self._listeners = listeners
        self._answer = answer
        self._clock = clock
        self._limits = limits
        self._distributor = distributor
        self._changed = changed
        self._is_stopped = False
        self._under_way: dict[str, Outgoing] = {}  # name -> row that is handed over and stored
        self._taken_out: dict[str, None] | None = None  # names taken out while a page is read
        self._to_publish: dict[str, _Parcel] = {}  # by the row's name
        self._refused: dict[str, _Parcel] = {}  # by the broker, for now
        self._refused_names: dict[str, None] = {}  # of these, and of those that are offered again
        self._audience = audience
        self._here = _Spill(self._has_room_here)
        self._spills: dict[Bound, _Spill] = {
            Lane.HERE: self._here,
            Lane.NOBODY: _Spill(lambda: True),
            Lane.BUS: _Spill(self._has_room_to_publish),
        }
        self._wakeup = Wakeup()
        self._publishing = Wakeup()
        self._refusing = Wakeup()

    def is_idle_but(self, resting: Collection[str]) -> bool:
        """Whether no row is left that waits for anything but an answer, or for room at these sinks."""
        waiting = [self._spills[sink] for sink in resting if sink in self._spills and not self._spills[sink].has_room()]
        is_reading = any(spill not in waiting for spill in self._open_spills())
        return not (self._to_publish or self._refused or is_reading)

    @property
    def under_way(self) -> int:
        """How many rows are handed over and not settled yet."""
        return len(self._under_way)

    @property
    def unpublished(self) -> int:
        """How many messages wait for the broker in memory."""
        return len(self._to_publish) + len(self._refused)

    @property
    def has_left_some(self) -> bool:
        """Whether more messages for the broker, later ones, stand in the store alone."""
        return self._spills[Lane.BUS].is_open

    @property
    def oldest_unpublished(self) -> float | None:
        """When the message was made that waits longest for the broker, in seconds since 1970."""
        first = (*islice(self._to_publish.values(), 1), *islice(self._refused.values(), 1))
        return min((parcel.row.envelope.time for parcel in first), default=None)

    def is_held_up(self, name: str, wire_type: str) -> bool:
        """Whether a command waits for a broker that is away, or that does not take it."""
        if self._bus is None or self._calls.takes(wire_type):
            return False
        return self.trouble.since is not None or name in self._refused_names

    def without_unwanted(self, transition: Transition) -> Transition:
        """The transition without the events that go to no bus and that nobody here wants: they need not be stored."""
        for row in transition.put:
            if row.route is Route.EVENT and not self._is_wanted(row):
                break
        else:
            return transition
        wanted = (row for row in transition.put if row.route is not Route.EVENT or self._is_wanted(row))
        return replace(transition, put=tuple(wanted))

    def committed(self, transition: Transition) -> None:
        """Forget what was taken out, hand over what was put in."""
        for name in transition.remove:
            self._settled(name)
        for outgoing in transition.put:
            self._hand_over(outgoing, is_fresh=True)

    def rescan(self) -> None:
        """Look through the whole outbox: at the start, and when nothing is known of the last writes."""
        for bound in (*Lane, *self._listeners.names):
            self._spill(bound).open(from_start=True)
        self._wakeup.set()

    def hold(self, sink: str) -> None:
        """Leave what a sink is to have in the store: it is paused."""
        for name in self._listeners.let_go(sink):
            self._under_way.pop(name, None)
        self._spill(sink).open(from_start=True)

    def go_on(self, sink: str) -> None:
        """Hand over what was left for a sink that was paused."""
        self._spill(sink).open(from_start=True)
        self._wakeup.set()
        self._changed.ring()

    def drop(self, sink: str) -> None:
        """Take out what a sink had not got: it was removed."""
        for name in self._listeners.let_go(sink):
            self._under_way.pop(name, None)
        self._spills.pop(sink, None)
        self._spills[Lane.NOBODY].open(from_start=True)
        self._wakeup.set()
        self._changed.ring()

    def stop(self) -> None:
        """Hand over nothing more but answers to others, who wait for them: the rest stays in the store."""
        self._is_stopped = True

    @property
    def is_publishing(self) -> bool:
        """Whether the broker takes what is to go, and has not taken all that is in memory."""
        return bool(self._to_publish) and self.trouble.since is None

    async def run(self) -> None:
        """Hand over what was left in the store, when there is room."""
        while True:
            open_ones = self._open_spills()
            with_room = [spill for spill in open_ones if spill.has_room()]
            if with_room:
                await self._read_pages(with_room)
                self._changed.ring()
            elif open_ones:
                await self._changed.wait()
            else:
                await self._wakeup.wait()

    async def run_bus(self, bus: Bus) -> None:
        """Publish what is to go out, in order."""
        while True:
            await self._publishing.wait()
            while self._to_publish:
                passed = list(islice(self._to_publish.values(), PUBLISH_AT_ONCE))
                batch = [parcel for parcel in passed if self._is_to_go(parcel)]
                try:
                    told = await bus.publish([self._message(parcel.row) for parcel in batch]) if batch else []
                except BusUnavailable as error:
                    self.trouble.begins(error)
                    self._changed.ring()
                    await self.trouble.pause()
                    continue
                self.trouble.ends()
                for parcel in passed:
                    if self._to_publish.get(parcel.row.name) is parcel:  # no later one has taken its place
                        del self._to_publish[parcel.row.name]
                for parcel, refusal in zip(batch, told, strict=True):
                    self._published(parcel, refusal)
                self._changed.ring()

    async def offer_again(self) -> None:
        """Give the broker another chance with what it did not take."""
        while True:
            await self._refusing.wait()
            await self._clock.sleep(REFUSED_AGAIN_S)
            again, self._refused = self._refused, {}
            self._to_publish = again | self._to_publish
            self._publishing.set()

    def _message(self, row: Outgoing) -> BusMessage:
        envelope = row.envelope
        is_command = row.route is Route.COMMAND
        return BusMessage(
            topic=self._topics.of(row),
            body=to_cloud_event(
                envelope,
                self._topics.source,
                undoes=row.undoes,
                deadline=row.deadline,
                reply_to=self._topics.replies if is_command else "",
            ),
            key=self._topics.key(row),
            id=f"{envelope.id}:{envelope.attempt}" if is_command else envelope.id,  # each attempt is to arrive
            headers=text_headers(envelope),
            expected=row.route is not Route.EVENT,
        )

    def _is_to_go(self, parcel: _Parcel) -> bool:
        """Whether its row was not taken out meanwhile, as that of a command whose time is over, nor replaced, as by the
        next attempt.
        """
        return self._under_way.get(parcel.row.name) is parcel.row

    def _published(self, parcel: _Parcel, refusal: NotTaken | None) -> None:
        if refusal is None:
            self._is_refused_no_more(parcel.row.name)
            parcel.gone()
        elif refusal.is_final:
            self._give_up(parcel, refusal.reason)
        else:
            self.refusals.begins(BusUnavailable(refusal.reason))
            self._refused[parcel.row.name] = parcel
            self._refused_names[parcel.row.name] = None
            self._refusing.set()

    def _is_refused_no_more(self, name: str) -> None:
        if name in self._refused_names:
            del self._refused_names[name]
            if not self._refused_names:
                self.refusals.ends()

    def _give_up(self, parcel: _Parcel, reason: str) -> None:
        """A message that no broker like this takes: whoever waits for it is told, and a person."""
        row, now = parcel.row, self._clock.now()
        if row.route is Route.COMMAND:
            self._answer(row, failed(row, reason, now, is_final=True))
            return
        letter = DeadLetter(at=now, reason=f"not published: {reason}", envelope=row.envelope)
        transition = Transition(at=now, outcome=Outcome.DEAD, dead=(letter,))
        if row.route is Route.REPLY:
            transition = replace(transition, remove=(row.name,), put=_shorter(row, reason))
            self._committer.store(transition)
        else:
            self._committer.store(transition, lambda _: parcel.gone())

    # One row.

    def _is_wanted(self, row: Outgoing) -> bool:
        return self._is_published(row) or self._audience.wants(row.envelope)

    def _is_published(self, row: Outgoing) -> bool:
        return self._bus is not None and self._topics.is_published(row.envelope.type)

    def _settled(self, name: str) -> None:
        row = self._under_way.pop(name, None)
        if self._taken_out is not None:
            self._taken_out[name] = None
        if self._refused_names:
            self._is_refused_no_more(name)
        if row is None:
            return
        if row.route is Route.COMMAND:
            self._calls.forget(name)
        elif row.route is Route.LISTENER:
            self._listeners.forget(name)

    def _hand_over(self, row: Outgoing, *, is_fresh: bool) -> None:
        if self._is_stopped and row.route is not Route.REPLY:
            return
        if is_fresh:
            known = self._under_way.get(row.name)
            if known is None and not self._is_taken_up(row):
                return
            if known == row:
                return  # a page of the store was quicker, or it was put a second time
        self._under_way[row.name] = row
        match row.route:
            case Route.COMMAND:
                self._hand_command(row, is_fresh)
            case Route.EVENT:
                self._hand_event(row)
            case Route.INSTANCE:
                self._supervisor.deliver(row.envelope.address, Mail(row.envelope, remove=(row.name,)))
            case Route.LISTENER:
                self._listeners.add(row)
            case Route.REPLY:
                self._publish(row, partial(self._has_gone, row))

    def _is_taken_up(self, row: Outgoing) -> bool:
        """Whether there is room for it in memory; else it stays in the store, to be read when there is."""
        spill = self._spill_of(row)
        if not spill.is_open and spill.has_room():
            return True
        spill.open()
        self._wakeup.set()
        if row.route is Route.EVENT and spill is self._spills[Lane.BUS]:
            self._distribute(row)  # who wants it here does not wait for a broker
        return False

    def _spill_of(self, row: Outgoing) -> _Spill:
        if row.route is Route.COMMAND and self._calls.takes(row.envelope.type):  # as most are
            return self._here
        return self._spill(self._bound(row))

    def _bound(self, row: Outgoing) -> Bound:
        match row.route:
            case Route.LISTENER:
                return row.listener if self._listeners.knows(row.listener) else Lane.NOBODY
            case Route.EVENT:
                return Lane.BUS if self._is_published(row) else Lane.HERE
            case Route.REPLY:
                return Lane.BUS if self._bus is not None else Lane.HERE
            case Route.COMMAND if not (row.reply_to or self._calls.takes(row.envelope.type)):
                return Lane.BUS if self._bus is not None else Lane.HERE
            case _:
                return Lane.HERE

    def _hand_command(self, row: Outgoing, is_fresh: bool) -> None:
        if self._calls.takes(row.envelope.type):
            self._calls.add(row, is_fresh)
        elif self._bus is not None and not row.reply_to:
            self._publish(row, partial(self._has_gone, row))
        else:
            why = ", and there is no bus" if self._bus is None else ""
            error = f"no participant here carries out {row.envelope.type}{why}"
            self._answer(row, failed(row, error, self._clock.now()))

    def _hand_event(self, row: Outgoing) -> None:
        """Its row is taken out by the commit of the only one who wants it, or else when all who want it have it."""
        event = row.envelope
        try:
            wanted = self._audience.of(event)
        except BadMessage as error:
            letter = DeadLetter(at=self._clock.now(), reason=str(error), envelope=event)
            self._committer.store(Transition(at=letter.at, outcome=Outcome.DEAD, dead=(letter,)))
            wanted = NOWHERE

        def settled(told: Outcomes | Exception) -> None:
            if row.name in self._under_way and not isinstance(told, Exception):
                self._committer.take_out(row.name)

        is_published = self._is_published(row)
        if not wanted and not is_published:
            self._committer.take_out(row.name)
            return
        distribution = self._distributor.distribute(event, wanted, settled, row=row, others=is_published)
        if is_published:
            report = distribution.part()
            self._publish(row, lambda: report(Transition(at=self._clock.now())))

    def _distribute(self, row: Outgoing) -> None:
        """Bring an event to who wants it here; its row stays, and with it what is to be said of a bad one."""
        with suppress(BadMessage):
            if wanted := self._audience.of(row.envelope):
                self._distributor.distribute(row.envelope, wanted, _nothing, row=row, others=1)

    def _has_gone(self, row: Outgoing) -> None:
        if self._under_way.get(row.name) is row:  # else it is a later attempt that is stored under its name
            self._committer.take_out(row.name)

    def _publish(self, row: Outgoing, gone: Callable[[], None]) -> None:
        self._refused.pop(row.name, None)
        self._to_publish[row.name] = _Parcel(row, gone)
        self._publishing.set()

    # What was left in the store.

    def _has_room_here(self) -> bool:
        return self._calls.waiting + self._supervisor.pending < self._limits.handed

    def _has_room_to_publish(self) -> bool:
        return len(self._to_publish) + len(self._refused) < self._limits.handed

    def _spill(self, bound: Bound) -> _Spill:
        spill = self._spills.get(bound)
        if spill is None:
            assert isinstance(bound, str)
            is_open, has_room = self._listeners.is_open, self._listeners.has_room
            spill = _Spill(lambda: has_room(bound), lambda: is_open(bound), retried_first=True)
            self._spills[bound] = spill
        return spill

    def _open_spills(self) -> list[_Spill]:
        """Those of which something is to be handed over, now or when there is room."""
        return [spill for spill in self._spills.values() if spill.is_open and spill.is_moving()]

    async def _read_pages(self, spills: Sequence[_Spill]) -> None:
        """Read one page for each of them. Those that stand near each other, as all do at the start, share it."""
        left = sorted(spills, key=lambda spill: spill.after)
        while left:
            until = await self._read_page(left)
            if until is None:
                return
            left = [spill for spill in left if spill.after > until]

    async def _read_page(self, spills: Sequence[_Spill]) -> int | None:
        """Hand over one page of the store, the one after the first of these spills. Returns its last position, or None
        if it cannot be read. A row that is taken out while the page is read must not come back.
        """
        after = spills[0].after
        for spill in spills:
            spill.begin_page()
        self._taken_out = {}
        try:
            rows = await self._store.due(math.inf, self._limits.page, after)
        except StoreUnavailable as error:
            self._reading.begins(error)
            await self._reading.pause()
            return None
        finally:
            taken_out, self._taken_out = self._taken_out, None
        self._reading.ends()
        until = rows[-1].position if rows else after
        is_last = len(rows) < self._limits.page
        reading = [spill for spill in spills if is_last or spill.after < until]
        for due in rows:
            row = due.outgoing
            spill = self._spill(self._bound(row))
            is_out = row.name in self._under_way or row.name in taken_out
            if spill in reading and spill.takes(due) and not is_out:
                self._hand_over(row, is_fresh=False)
        for spill in reading:
            spill.end_page(until, is_last)
        return until if not is_last else MAX_ROW_ID


class _Parcel(Struct, frozen=True, eq=False):
    """A row on its way to the broker; `gone` is called when it is there."""

    row: Outgoing
    gone: Callable[[], None]


def _shorter(reply: Outgoing, reason: str) -> tuple[Outgoing, ...]:
    """The failure that goes out instead of a reply; nothing, if that is no smaller: it would not be taken either."""
    instead = failure_instead(reply.envelope, reason)
    if len(bytes(instead.data)) >= len(bytes(reply.envelope.data)):
        return ()
    return (replace(reply, name=instead.id, envelope=instead),)


def _nothing(told: object) -> None: ...


class _Spill:
    """The rows of one lane that were left in the store because memory was full: from a position to the end.

    Once something is left, all that comes later is left too, until the reading has caught up: so the order is kept.
    With `retried_first` a reading from the start goes through the store twice, first for what was tried before: such a
    row is the head of its sender's lane, and by its position it stands far behind. While it is not `is_moving`, nothing
    is read.
    """

    def __init__(
        self, has_room: Callable[[], bool], is_moving: Callable[[], bool] = lambda: True, *, retried_first: bool = False
    ) -> None:
        self.has_room = has_room
        self.is_moving = is_moving
        self.is_open = False
        self.after = 0
        self._retried_first = retried_first
        self._only_retried = False
        self._grew = False

    def open(self, *, from_start: bool = False) -> None:
        """There is something in the store to be handed over."""
        self.is_open = self._grew = True
        if from_start:
            self.after = 0
            self._only_retried = self._retried_first

    def begin_page(self) -> None:
        self._grew = False

    def takes(self, due: Due) -> bool:
        """Whether this row of its lane is to be handed over now."""
        return due.position > self.after and (due.outgoing.envelope.attempt > 1 or not self._only_retried)

    def end_page(self, until: int, is_last: bool) -> None:
        """It has caught up when the page was the last, unless more was left while it was read."""
        self.after = max(self.after, until)
        if is_last and self._only_retried:
            self._only_retried, self.after = False, 0
        elif is_last and not self._grew:
            self.is_open = False
