"""Where messages from outside wait until there is room for them (R20)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from ..wire import Address
from .waking import Bell


class Door:
    """Lets in one message after the other. Who waits for an instance is not overtaken by who comes later for the same
    one (R2); who comes for another does not wait behind a full mailbox.
    """

    def __init__(
        self,
        is_full: Callable[[], bool],
        has_room: Callable[[Address], bool],
        check_open: Callable[[], None],
        changed: Bell,
    ) -> None:
        """`is_full` is asked for everybody, `has_room` for one instance; `check_open` raises when it is of no use to
        wait any longer. `changed` rings when they may have another answer.
        """
        self._is_full = is_full
        self._has_room = has_room
        self._check_open = check_open
        self._changed = changed
        self._turns: dict[Address, _Turn] = {}
        self._threshold = anyio.Lock(fast_acquire=True)

    async def enter(self, addresses: Collection[Address]) -> None:
        """Return when a message for these instances may come in. Errors: those of `check_open`."""
        if self._is_free_for(addresses):
            self._check_open()
            return
        async with AsyncExitStack() as turns:
            for address in sorted(addresses):  # in one order, so that no two wait for each other
                await turns.enter_async_context(self._turn(address))
            while not all(map(self._has_room, addresses)):
                self._check_open()
                await self._changed.wait()
            async with self._threshold:  # so that a change wakes one of all these
                while self._is_full():
                    self._check_open()
                    await self._changed.wait()
        self._check_open()

    def _is_free_for(self, addresses: Collection[Address]) -> bool:
        if self._threshold.locked() or self._is_full():
            return False
        for address in addresses:
            if address in self._turns or not self._has_room(address):
                return False
        return True

    @asynccontextmanager
    async def _turn(self, address: Address) -> AsyncGenerator[None]:
        turn = self._turns.setdefault(address, _Turn())
        turn.count += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.count -= 1
            if not turn.count:
                del self._turns[address]


class _Turn:
    """Of those who wait for one instance."""

    def __init__(self) -> None:
        self.lock = anyio.Lock(fast_acquire=True)
        self.count = 0
