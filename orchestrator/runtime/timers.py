"""Wakes instances whose time has come: one loop for all timers of all instances (R10, R19)."""

from __future__ import annotations

import math
from functools import partial

from ..errors import StoreUnavailable
from ..machine.instance import Instance
from ..machine.transition import Transition
from ..ports import Clock, Store
from ..wire import Address
from .listeners import Listeners
from .mailbox import Mail
from .supervisor import Supervisor
from .trouble import Trouble
from .waking import Bell, Wakeup

LONGEST_NAP_S = 3600.0  # whatever the clock does meanwhile, the wall clock is looked at then
USELESS_PAUSE_S = 1.0


class Timers:
    """At most `batch` woken instances are under way, so that a storm after a long stop does not hold up new ones."""

    def __init__(
        self, store: Store, supervisor: Supervisor, listeners: Listeners, clock: Clock, batch: int, changed: Bell
    ) -> None:
        """Wake the instances of `store` and the delayed deliveries of `listeners`."""
        self._changed = changed
        self._trouble = Trouble("timers cannot be read", clock)
        self._store = store
        self._supervisor = supervisor
        self._listeners = listeners
        self._clock = clock
        self._batch = batch
        self._next_at = math.inf  # the earliest timer known that is not fired yet
        self._must_look = True  # whether the store may know an earlier one
        self._firing: dict[Address, None] = {}
        self._moved = True  # whether any of those fired last had something to do
        self._wakeup = Wakeup()
        listeners.on_delayed = self._wakeup.set

    @property
    def is_idle(self) -> bool:
        """Whether nothing is due at this moment."""
        return not (self._firing or self._must_look) and self._next_at > self._clock.now()

    def committed(self, instance: Instance) -> None:
        """An instance may have a new timer."""
        wake_at = instance.wake_at
        if wake_at is not None and wake_at < self._next_at:
            self._next_at = wake_at
            self._wakeup.set()

    def look_again(self) -> None:
        """Nothing is known any more about what is stored."""
        self._must_look = True
        self._wakeup.set()

    async def run(self) -> None:
        """Sleep until the next timer, wake whom it is for, again and again."""
        while True:
            try:
                await self._step()
            except StoreUnavailable as error:
                self._trouble.begins(error)
                self._must_look = True
                await self._trouble.pause()
            else:
                self._trouble.ends()

    async def _step(self) -> None:
        if self._must_look and not self._firing:  # what is fired counts as due until its commit
            self._must_look = False
            next_wake = await self._store.next_wake()
            if next_wake is not None:
                self._next_at = min(self._next_at, next_wake)
            self._changed.ring()
        now = self._clock.now()
        self._listeners.let_out(now)
        if self._next_at <= now and self._has_room:
            await self._fire(now)
        else:
            await self._wakeup.wait_at_most(self._clock, self._nap(now))

    @property
    def _has_room(self) -> bool:
        return len(self._firing) <= self._batch // 2

    def _nap(self, now: float) -> float:
        moments = [now + LONGEST_NAP_S]
        if self._has_room:
            moments.append(self._next_at)
        if self._listeners.next_at is not None:
            moments.append(self._listeners.next_at)
        return min(moments) - now

    async def _fire(self, now: float) -> None:
        if not self._moved:  # the store says that somebody is due who has nothing to do: not in a tight loop
            await self._clock.sleep(USELESS_PAUSE_S)
        self._next_at = math.inf  # what is committed from here on lowers it again
        overdue = await self._store.wakes(now, self._batch)
        self._moved = False
        for address in overdue:
            if address not in self._firing:
                self._firing[address] = None
                self._supervisor.deliver(address, Mail(None, partial(self._fired, address)))
        if len(overdue) >= self._batch:
            self._next_at = now
        else:
            self._must_look = True

    def _fired(self, address: Address, told: Transition | Exception) -> None:
        del self._firing[address]
        self._moved = self._moved or (isinstance(told, Transition) and told.message is not None)
        if not self._firing or len(self._firing) == self._batch // 2:
            self._wakeup.set()
