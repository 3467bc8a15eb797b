"""Carries what is committed to where it goes: commands to participants, events to whoever wants them (R1).

What a commit puts into the outbox is handed over in memory right after it. The stored rows are the recovery: they are
paged through at the start, and whenever more came than memory was to hold (R20).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
from ..ports import Bus, BusMessage, Clock, Due, NotTaken, Store
from ..topics import Topics
from ..wire import DeadLetter, Envelope, Outgoing, Route
from .calls import Calls, failed, failure_instead
from .committer import Committer
from .listeners import Listeners
from .mailbox import Mail
from .routing import NOWHERE, Distributor, Outcomes, targets
from .supervisor import Supervisor
from .trouble import Trouble
from .waking import Bell, Wakeup

PUBLISH_AT_ONCE = 100
REFUSED_AGAIN_S = 1.0


class Lane(Enum):
    """Where rows of the outbox are bound for, so that one that is stopped up leaves room for the others."""

    HERE = auto()  # instances and participants of this process
    LISTENERS = auto()
    BUS = auto()


class Relay:
    """Hands over rows of the outbox, each once as long as it is stored."""

    def __init__(
        self,
        app: App[Any],
        store: Store,
        bus: Bus | None,
        topics: Topics,
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
        self._spills = {
            Lane.HERE: _Spill(self._has_room_here),
            Lane.LISTENERS: _Spill(self._has_room_for_listeners),
            Lane.BUS: _Spill(self._has_room_to_publish),
        }
        self._wakeup = Wakeup()
        self._publishing = Wakeup()
        self._refusing = Wakeup()

    @property
    def is_idle(self) -> bool:
        """Whether no row is left that waits for anything but an answer."""
        return not (self._to_publish or self._refused) and not any(spill.is_open for spill in self._spills.values())

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
        """The transition without the events that nobody here wants, when there is no bus: they need not be stored."""
        if self._bus is not None:
            return transition
        unwanted = [row for row in transition.put if row.route is Route.EVENT and not self._is_wanted(row)]
        if not unwanted:
            return transition
        return replace(transition, put=tuple(row for row in transition.put if row not in unwanted))

    def committed(self, transition: Transition) -> None:
        """Forget what was taken out, hand over what was put in."""
        for name in transition.remove:
            self._settled(name)
        for outgoing in transition.put:
            self._hand_over(outgoing, is_fresh=True)

    def rescan(self) -> None:
        """Look through the whole outbox: at the start, and when nothing is known of the last writes."""
        for spill in self._spills.values():
            spill.open(from_start=True)
        self._wakeup.set()

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
            open_ones = [lane for lane, spill in self._spills.items() if spill.is_open]
            with_room = [lane for lane in open_ones if self._spills[lane].has_room()]
            for lane in with_room:
                await self._read_page(lane)
            if with_room:
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
        return row.envelope.type in self._app.routes or row.envelope.type in self._app.listening

    def _settled(self, name: str) -> None:
        self._under_way.pop(name, None)
        if self._taken_out is not None:
            self._taken_out[name] = None
        self._calls.forget(name)
        self._listeners.forget(name)
        self._is_refused_no_more(name)

    def _hand_over(self, row: Outgoing, *, is_fresh: bool) -> None:
        if self._is_stopped and row.route is not Route.REPLY:
            return
        spill = self._spills[self._lane(row)]
        if is_fresh and row.name not in self._under_way and (spill.is_open or not spill.has_room()):
            spill.open()
            self._wakeup.set()
            if row.route is Route.EVENT and spill is self._spills[Lane.BUS]:
                self._distribute(row)  # who wants it here does not wait for a broker
            return
        if is_fresh and self._under_way.get(row.name) == row:
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

    def _lane(self, row: Outgoing) -> Lane:
        match row.route:
            case Route.LISTENER:
                return Lane.LISTENERS
            case Route.EVENT | Route.REPLY:
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
            wanted = targets(self._app, event)
        except BadMessage as error:
            letter = DeadLetter(at=self._clock.now(), reason=str(error), envelope=event)
            self._committer.store(Transition(at=letter.at, outcome=Outcome.DEAD, dead=(letter,)))
            wanted = NOWHERE

        def settled(told: Outcomes | Exception) -> None:
            if row.name in self._under_way and not isinstance(told, Exception):
                self._committer.take_out(row.name)

        is_published = self._bus is not None
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
            if wanted := targets(self._app, row.envelope):
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

    def _has_room_for_listeners(self) -> bool:
        return self._listeners.held < self._limits.handed

    def _has_room_to_publish(self) -> bool:
        return len(self._to_publish) + len(self._refused) < self._limits.handed

    async def _read_page(self, lane: Lane) -> None:
        """Hand over one page of the store. A row that is taken out while the page is read must not come back."""
        spill = self._spills[lane]
        spill.begin_page()
        self._taken_out = {}
        try:
            rows = await self._store.due(math.inf, self._limits.page, spill.after)
        except StoreUnavailable as error:
            self._reading.begins(error)
            await self._reading.pause()
            return
        finally:
            taken_out, self._taken_out = self._taken_out, None
        self._reading.ends()
        mine = [due for due in rows if self._lane(due.outgoing) is lane]
        if lane is Lane.LISTENERS:
            mine.sort(key=lambda due: (due.outgoing.envelope.time, due.position))  # a retried row stands far behind
        for due in mine:
            if due.outgoing.name not in self._under_way and due.outgoing.name not in taken_out:
                self._hand_over(due.outgoing, is_fresh=False)
        spill.end_page(rows, self._limits.page)


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
    """The rows of some routes that were left in the store because memory was full: from a position to the end.

    Once something is left, all that comes later is left too, until the reading has caught up: so the order is kept.
    """

    def __init__(self, has_room: Callable[[], bool]) -> None:
        self.has_room = has_room
        self.is_open = False
        self.after = 0
        self._grew = False

    def open(self, *, from_start: bool = False) -> None:
        """There is something in the store to be handed over."""
        self.is_open = self._grew = True
        if from_start:
            self.after = 0

    def begin_page(self) -> None:
        self._grew = False

    def end_page(self, rows: Sequence[Due], page: int) -> None:
        """It has caught up when the page was the last, unless more was left while it was read."""
        if rows:
            self.after = rows[-1].position
        if len(rows) < page and not self._grew:
            self.is_open = False
