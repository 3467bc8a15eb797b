"""Carries what is committed to where it goes: commands to participants, events to whoever wants them (R1).

What a commit puts into the outbox is handed over in memory right after it. The stored rows are the recovery: they are
paged through at the start, and whenever more came than memory was to hold (R20).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from msgspec.structs import replace

from ..app import App
from ..config import Limits
from ..edge import to_cloud_event
from ..errors import BadMessage, BusUnavailable, StoreUnavailable
from ..machine.transition import Outcome, Transition
from ..ports import Bus, Clock, Due, Store
from ..wire import DeadLetter, Outgoing, Route
from .calls import Calls, failed
from .committer import Committer
from .listeners import Listeners
from .mailbox import Mail
from .routing import NOWHERE, Distributor, Outcomes, targets
from .supervisor import Supervisor
from .trouble import Trouble
from .waking import Bell, Wakeup

PUBLISH_AT_ONCE = 100


class Relay:
    """Hands over rows of the outbox, each once as long as it is stored."""

    def __init__(
        self,
        app: App[Any],
        store: Store,
        bus: Bus | None,
        supervisor: Supervisor,
        committer: Committer,
        distributor: Distributor,
        calls: Calls,
        listeners: Listeners,
        clock: Clock,
        limits: Limits,
        changed: Bell,
    ) -> None:
        """Hand over what `committer` puts into the outbox of `store`."""
        self.trouble = Trouble("nothing can be published", clock)
        self._reading = Trouble("the outbox cannot be read", clock)
        self._app = app
        self._store = store
        self._bus = bus
        self._supervisor = supervisor
        self._committer = committer
        self._calls = calls
        self._listeners = listeners
        self._clock = clock
        self._limits = limits
        self._distributor = distributor
        self._changed = changed
        self._is_stopped = False
        self._under_way: dict[str, None] = {}  # names of rows that are handed over and stored
        self._taken_out: dict[str, None] | None = None  # names taken out while a page is read
        self._to_publish: deque[tuple[Outgoing, Callable[[], None]]] = deque()
        self._spills = (_Spill(self._has_room_for_calls, False), _Spill(self._has_room_for_listeners, True))
        self._wakeup = Wakeup()
        self._publishing = Wakeup()

    @property
    def is_idle(self) -> bool:
        """Whether no row is left that waits for anything but an answer."""
        return not self._to_publish and not any(spill.is_open for spill in self._spills)

    @property
    def under_way(self) -> int:
        """How many rows are handed over and not settled yet."""
        return len(self._under_way)

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
        for spill in self._spills:
            spill.open(from_start=True)
        self._wakeup.set()

    def stop(self) -> None:
        """Hand over nothing more: it stays in the store."""
        self._is_stopped = True

    async def run(self) -> None:
        """Hand over what was left in the store, when there is room."""
        while True:
            open_ones = [spill for spill in self._spills if spill.is_open]
            with_room = [spill for spill in open_ones if spill.has_room()]
            for spill in with_room:
                await self._read_page(spill)
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
                batch = list(islice(self._to_publish, PUBLISH_AT_ONCE))
                try:
                    await bus.publish([(row.envelope.type, self._as_cloud_event(row)) for row, _ in batch])
                except BusUnavailable as error:
                    self.trouble.begins(error)
                    await self.trouble.pause()
                    continue
                self.trouble.ends()
                for _, published in batch:
                    self._to_publish.popleft()
                    published()

    def _as_cloud_event(self, row: Outgoing) -> bytes:
        return to_cloud_event(row.envelope, f"/orchestrator/{self._app.name}", undoes=row.undoes, deadline=row.deadline)

    # One row.

    def _is_wanted(self, row: Outgoing) -> bool:
        return row.envelope.type in self._app.routes or row.envelope.type in self._app.listening

    def _settled(self, name: str) -> None:
        self._under_way.pop(name, None)
        if self._taken_out is not None:
            self._taken_out[name] = None
        self._calls.forget(name)
        self._listeners.forget(name)

    def _hand_over(self, row: Outgoing, *, is_fresh: bool) -> None:
        if self._is_stopped:
            return
        spill = self._spills[row.route is Route.LISTENER]
        if is_fresh and row.name not in self._under_way and (spill.is_open or not spill.has_room()):
            spill.open()
            self._wakeup.set()
            return
        self._under_way[row.name] = None
        match row.route:
            case Route.COMMAND:
                self._hand_command(row, is_fresh)
            case Route.EVENT:
                self._hand_event(row)
            case Route.INSTANCE:
                self._supervisor.deliver(row.envelope.address, Mail(row.envelope, remove=(row.name,)))
            case Route.LISTENER:
                self._listeners.add(row)

    def _hand_command(self, row: Outgoing, is_fresh: bool) -> None:
        if self._calls.takes(row.envelope.type):
            self._calls.add(row, is_fresh)
        elif self._bus is not None:
            self._publish(row, lambda: self._committer.take_out(row.name))
        else:
            error = f"no participant here carries out {row.envelope.type}, and there is no bus"
            reply = failed(row, error, self._clock.now())
            self._supervisor.deliver(reply.address, Mail(reply))

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

    def _publish(self, row: Outgoing, published: Callable[[], None]) -> None:
        self._to_publish.append((row, published))
        self._publishing.set()

    # What was left in the store.

    def _has_room_for_calls(self) -> bool:
        in_memory = self._calls.waiting + len(self._to_publish) + self._supervisor.pending
        return in_memory < self._limits.handed

    def _has_room_for_listeners(self) -> bool:
        return self._listeners.held < self._limits.handed

    async def _read_page(self, spill: _Spill) -> None:
        """Hand over one page of the store. A row that is taken out while the page is read must not come back."""
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
        mine = [due for due in rows if (due.outgoing.route is Route.LISTENER) == spill.is_for_listeners]
        if spill.is_for_listeners:
            mine.sort(key=lambda due: (due.outgoing.envelope.time, due.position))  # a retried row stands far behind
        for due in mine:
            if due.outgoing.name not in self._under_way and due.outgoing.name not in taken_out:
                self._hand_over(due.outgoing, is_fresh=False)
        spill.end_page(rows, self._limits.page)


class _Spill:
    """The rows of some routes that were left in the store because memory was full: from a position to the end.

    Once something is left, all that comes later is left too, until the reading has caught up: so the order is kept.
    """

    def __init__(self, has_room: Callable[[], bool], is_for_listeners: bool) -> None:
        self.has_room = has_room
        self.is_for_listeners = is_for_listeners
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
