"""How the loops of the runtime sleep: one flag a loop, and one bell that all who wait for a change listen to.

Events and futures are asyncio's own, as the database's thread is: one of anyio's events looks for its backend each time
that it is made, which takes six times as long, and one is made for each message from outside.
"""

from __future__ import annotations

from asyncio import Event, Future, get_running_loop

import anyio

from ..ports import Clock


class Wakeup:
    """What one loop sleeps on. Setting it while the loop is awake costs next to nothing and is not forgotten."""

    def __init__(self) -> None:
        self._is_set = False
        self._sleep: Future[None] | None = None
        self._nap: anyio.CancelScope | None = None

    def set(self) -> None:
        """Let the loop look again."""
        if self._is_set:
            return
        self._is_set = True
        if self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)
        if self._nap is not None:
            self._nap.cancel()

    async def wait(self) -> None:
        """Sleep until it is set; it is not set any more then."""
        if not self._is_set:
            self._sleep = get_running_loop().create_future()
            try:
                await self._sleep
            finally:
                self._sleep = None
        self._is_set = False

    async def wait_at_most(self, clock: Clock, seconds: float) -> None:
        """Sleep until it is set or so many seconds are over."""
        if not self._is_set and seconds > 0:
            try:
                with anyio.CancelScope() as self._nap:
                    await clock.sleep(seconds)
            finally:
                self._nap = None
        self._is_set = False


class Bell:
    """Rung after every change that somebody may wait for; free while nobody does."""

    def __init__(self) -> None:
        self._event: Event | None = None

    def ring(self) -> None:
        """Wake all who wait, to look again."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Wait for the next change."""
        if self._event is None:
            self._event = Event()
        await self._event.wait()
