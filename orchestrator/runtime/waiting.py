"""Delivers what is left in the waiting room for instances that have started (R11)."""

from __future__ import annotations

from functools import partial

from ..errors import StoreUnavailable
from ..machine.transition import Transition
from ..ports import Clock, Store
from .mailbox import Mail
from .supervisor import Supervisor
from .trouble import Trouble
from .waking import Wakeup


class WaitingRoom:
    """Needed only after a crash between a start and the deliveries that follow it: a start's own commit gives them."""

    def __init__(self, store: Store, supervisor: Supervisor, clock: Clock, page: int) -> None:
        """Deliver a `page` at a time."""
        self._store = store
        self._supervisor = supervisor
        self._trouble = Trouble("the waiting room cannot be read", clock)
        self._page = page
        self._under_way: dict[int, None] = {}
        self._wakeup = Wakeup()

    def look(self) -> None:
        """There may be something."""
        self._wakeup.set()

    async def run(self) -> None:
        """Look when told to."""
        while True:
            await self._wakeup.wait()
            try:
                await self.deliver()
            except StoreUnavailable as error:
                self._trouble.begins(error)
                await self._trouble.pause()
                self._wakeup.set()
            else:
                self._trouble.ends()

    async def deliver(self) -> None:
        """Queue the first page; when it is settled, look for the next."""
        for row in await self._store.waiting_for(self._page):
            if row.id not in self._under_way:
                self._under_way[row.id] = None
                mail = Mail(row.envelope, partial(self._settled, row.id), waiting_remove=(row.id,))
                self._supervisor.deliver(row.envelope.address, mail)

    def _settled(self, id: int, told: Transition | Exception) -> None:
        del self._under_way[id]
        if not self._under_way:
            self._wakeup.set()
