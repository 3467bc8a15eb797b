"""Commits of many callers in one: what has gathered while the last one ran is the next group."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from .errors import DuplicateMessage, StoreError, VersionConflict
from .machine.transition import Transition
from .ports import Committed, Result

GROUP = 256  # transitions in one commit, at most

Commit = Callable[[Sequence[Transition]], Awaitable[list[Result]]]


class Grouping:
    """The callers of a store that has no engine: one of those who wait commits for all, then the next one does.

    So there is no task that somebody must start and stop, and who comes alone does not wait.
    """

    def __init__(self, commit: Commit) -> None:
        """`commit` stores a group, each transition whole or not at all."""
        self._commit = commit
        self._gathered: deque[_Waiting] = deque()
        self._is_led = False

    async def commit(self, transition: Transition) -> Result:
        """Store it with those that came meanwhile. A caller that is cancelled leaves all of it or nothing.

        Errors: what the store raises about the group, or about this one alone.
        """
        mine = _Waiting(transition)
        if self._is_led:
            self._gathered.append(mine)
            try:
                result = await mine.told
            except asyncio.CancelledError:
                self._leave(mine)
                raise
            if result is not None:
                return result_of(result)
        self._is_led = True
        return result_of(await self._lead(mine))

    async def _lead(self, mine: _Waiting) -> Result | Exception:
        others = [self._gathered.popleft() for _ in range(min(len(self._gathered), GROUP - 1))]
        try:
            results = await self._results([mine.transition, *(one.transition for one in others)])
        except BaseException:  # cancelled: the others go on without it, and what is stored already is a duplicate then
            self._gathered.extendleft(one for one in reversed(others) if not one.told.done())
            raise
        finally:
            self._next_leads()
        for one, result in zip(others, results[1:], strict=True):
            one.tell(result)
        return results[0]

    async def _results(self, transitions: Sequence[Transition]) -> Sequence[Result | Exception]:
        try:
            return await self._commit(transitions)
        except StoreError as error:
            return [error] * len(transitions)
        except Exception as error:  # noqa: BLE001 one that cannot be stored must not take the others with it
            if len(transitions) == 1:
                return [error]
            return [(await self._results([one]))[0] for one in transitions]

    def _leave(self, mine: _Waiting) -> None:
        if mine.told.done() and not mine.told.cancelled() and mine.told.result() is None:
            self._next_leads()  # it was its turn
        elif mine in self._gathered:
            self._gathered.remove(mine)

    def _next_leads(self) -> None:
        while self._gathered:
            one = self._gathered.popleft()
            if not one.told.done():  # it is, when its caller was cancelled and has not run since
                one.tell(None)
                return
        self._is_led = False


class _Waiting:
    """A caller. It is told what became of its transition, or None: it is to commit for those who wait."""

    __slots__ = ("told", "transition")

    def __init__(self, transition: Transition) -> None:
        self.transition = transition
        self.told: asyncio.Future[Result | Exception | None] = asyncio.get_running_loop().create_future()

    def tell(self, what: Result | Exception | None) -> None:
        if not self.told.done():
            self.told.set_result(what)


def result_of(told: Result | Exception) -> Result:
    """What a store said of a transition. Errors: the one because of which it said nothing."""
    if isinstance(told, _RESULTS):
        return told
    raise told


_RESULTS = (Committed, VersionConflict, DuplicateMessage)
