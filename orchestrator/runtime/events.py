"""The log of events within a running engine: what is appended goes through its committer, and is sent at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from ..app import App
from ..event_log import EventLog
from ..machine.transition import Transition
from ..ports import MAX_PAGE, Clock, Result, Store
from ..recorded import EventTypes, Logged, Stretch


class EngineEvents(EventLog):
    """The log of the engine's store. It decodes to the app's classes first, then to whatever else is defined."""

    def __init__(
        self, app: App[object], store: Store, clock: Clock, commit: Callable[[Transition], Awaitable[Result]]
    ) -> None:
        """`commit` stores one transition with the engine's next group."""
        self.classes = EventTypes(app.event_types)
        self._store = store
        self._clock = clock
        self._next_group = commit

    async def commit(self, transitions: Sequence[Transition]) -> list[Result]:
        """Each with the engine's next group."""
        return [await self._commit_one(transition) for transition in transitions]

    def _commit_one(self, transition: Transition) -> Awaitable[Result]:
        return self._next_group(transition)

    async def stream(self, name: str, after: int = 0, limit: int = MAX_PAGE) -> list[Logged]:
        """As the store has it."""
        return await self._store.stream(name, after, limit)

    async def stream_version(self, name: str) -> int:
        """As the store has it."""
        return await self._store.stream_version(name)

    async def log(self, after: int = 0, limit: int = MAX_PAGE, types: Sequence[str] = ()) -> Stretch:
        """As the store has it."""
        return await self._store.log(after, limit, types)

    async def logged(self, id: str) -> Logged | None:
        """As the store has it."""
        return await self._store.logged(id)

    def now(self) -> float:
        """What the engine's clock shows."""
        return self._clock.now()
