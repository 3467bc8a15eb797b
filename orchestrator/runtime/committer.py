"""Puts transitions on disk, many in one commit: what has gathered while the last one ran is the next group (R1)."""

from __future__ import annotations

import logging
from asyncio import sleep
from collections import deque
from collections.abc import Callable, Sequence

import anyio

from ..errors import DuplicateMessage, StoreError, StoreFull, StoreUnavailable
from ..machine.transition import Outcome, Transition
from ..ports import Clock, Committed, Result, Store
from .trouble import Trouble
from .waking import Bell, Wakeup

COMPANY_S = 0.05  # how long what is only taken out waits for more
WORTH_A_TURN = 4  # transitions that a turn of the event loop must bring to be waited for
WORTH_A_COMMIT = 64  # transitions, among which what a commit costs by itself is divided well enough

_log = logging.getLogger(__name__)

Answer = Callable[[Transition, Result | Exception], None]


class Committer:
    """One loop over one store. `on_committed` is called with each stored transition before its answer, `on_failed` each
    time that nothing could be stored, `on_back` when the store answers again after writes of which nothing is known.

    Every transition is answered exactly once: with the store's result; with StoreUnavailable when nothing is known
    of it; or with what else the store raised about it alone. A full store is tried again until there is room.
    """

    def __init__(self, store: Store, clock: Clock, group: int, changed: Bell) -> None:
        """Commit at most `group` transitions at a time; ring `changed` after each."""
        self.trouble = Trouble("nothing can be stored", clock)
        self.commits = 0
        self.transitions = 0
        self.on_committed: Callable[[Transition], None] = _nothing
        self.on_back: Callable[[], None] = _nothing_more
        self.on_failed: Callable[[], None] = _nothing_more
        self._store = store
        self._clock = clock
        self._group = group
        self._changed = changed
        self._gathered: deque[tuple[Transition, Answer]] = deque()
        self._to_repeat: list[tuple[Transition, Answer]] = []  # of this group, when nothing is known of it
        self._names: list[str] = []
        self._wakeup = Wakeup()
        self._company: Wakeup | None = None  # what only waits for company sleeps on it
        self._is_committing = False
        self._is_unknown = False  # whether the last writes are stored

    @property
    def is_idle(self) -> bool:
        """Whether everything given is stored."""
        return not (self._gathered or self._names or self._is_committing)

    def add(self, transition: Transition, answer: Answer) -> None:
        """Store this with the next group, then call `answer`."""
        self._gathered.append((transition, answer))
        if len(self._gathered) == 1:  # the others find the loop awake
            self._wakeup.set()
            if self._company is not None:
                self._company.set()

    def store(self, transition: Transition, settled: Callable[[Transition], None] | None = None) -> None:
        """Store what belongs to no instance, again until something is known of it, and before what was given later;
        `settled` gets it, or the same as a DUPLICATE if its `seen` was known already.
        """
        self.add(transition, _UntilKnown(self._to_repeat, settled))

    def take_out(self, name: str) -> None:
        """Take an outbox row that is carried out of the store, with the next group or soon: what it was is done, and a
        crash before that only does it again.
        """
        self._names.append(name)
        self._wakeup.set()

    async def run(self) -> None:
        """Commit group after group. Errors: StoreCorrupt and whatever else nobody can mend."""
        with anyio.CancelScope() as self._scope:
            while True:
                await self._wakeup.wait()
                await self._commit_all()

    async def _commit_all(self) -> None:
        while self._gathered or self._names or self._is_unknown:  # an empty group asks whether the store is back
            if not self._gathered and not self._is_unknown:
                await self._wait_for_company()
            await self._gather()
            self._is_committing = True
            await self._commit(self._next_group())
            self._is_committing = False
            self._changed.ring()
            if not self._gathered:
                await sleep(0)  # what follows at once from this group is stored without another wake-up

    async def _gather(self) -> None:
        """Let what is about to come share the commit, as long as each turn of the event loop brings some. Few do not
        wait; nor do many, for while they are written the others are decided.
        """
        seen, enough = 0, min(WORTH_A_COMMIT, self._group)
        while seen + WORTH_A_TURN <= len(self._gathered) < enough:
            seen = len(self._gathered)
            await sleep(0)

    async def _wait_for_company(self) -> None:
        """A group of its own would cost a sync, and hold up what comes meanwhile."""
        self._company = Wakeup()
        await self._company.wait_at_most(self._clock, COMPANY_S)
        self._company = None

    def _next_group(self) -> list[tuple[Transition, Answer]]:
        """A name to be taken out is that of a row that is stored: what is put under it now is another one."""
        gathered = self._gathered
        group: list[tuple[Transition, Answer]] = []
        if self._names:
            names, self._names = tuple(self._names), []
            group.append((Transition(at=self._clock.now(), remove=names), self._again))
        if len(gathered) <= self._group:
            group += gathered
            gathered.clear()
            return group
        group += [gathered.popleft() for _ in range(self._group)]
        while gathered and _is_built_on(group[-1][0], gathered[0][0]):  # it is refused with that, not tried after it
            group.append(gathered.popleft())
        return group

    def _again(self, transition: Transition, result: Result | Exception) -> None:
        if not isinstance(result, Committed):
            self._names += transition.remove

    async def _commit(self, group: list[tuple[Transition, Answer]]) -> None:
        results = await self._results([transition for transition, _ in group])
        self.commits += 1
        self.transitions += len(group)
        for (transition, answer), result in zip(group, results, strict=True):
            if isinstance(result, Committed):
                self.on_committed(transition)
            answer(transition, result)
        self._gathered.extendleft(reversed(self._to_repeat))
        self._to_repeat.clear()

    async def _results(self, transitions: list[Transition]) -> Sequence[Result | Exception]:
        while True:
            try:
                results = await self._stored(transitions)
            except StoreFull as error:
                await self._failed(error)
            except StoreUnavailable as error:
                self._is_unknown = True
                await self._failed(error)
                return [error] * len(transitions)
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001 one that cannot be stored must not take the others with it
                _log.exception("a group of %d transitions cannot be stored", len(transitions))
                return await self._one_by_one(transitions, error)
            else:
                self._succeeded()
                return results

    async def _stored(self, transitions: list[Transition]) -> list[Result]:
        """Not cancelled meanwhile, or nobody would know whether it is stored. A scope for each commit takes as long as
        the loop needs for all else.
        """
        self._scope.shield = True
        try:
            return await self._store.commit(transitions)
        finally:
            self._scope.shield = False

    async def _one_by_one(self, transitions: list[Transition], error: Exception) -> Sequence[Result | Exception]:
        """One that cannot be stored must not keep the others from it; which one it is, only trying tells."""
        if len(transitions) == 1:
            return [error]
        return [result for transition in transitions for result in await self._results([transition])]

    async def _failed(self, error: StoreError) -> None:
        self.trouble.begins(error)
        self.on_failed()
        self._changed.ring()
        await self.trouble.pause()

    def _succeeded(self) -> None:
        self.trouble.ends()
        if self._is_unknown:
            self._is_unknown = False
            self.on_back()


class _UntilKnown:
    """Has a transition repeated until something is known of it, and tells that."""

    def __init__(
        self, to_repeat: list[tuple[Transition, Answer]], settled: Callable[[Transition], None] | None
    ) -> None:
        self._to_repeat = to_repeat
        self._settled = settled

    def __call__(self, transition: Transition, result: Result | Exception) -> None:
        match result:
            case Committed():
                told = transition
            case DuplicateMessage():
                told = Transition(at=transition.at, outcome=Outcome.DUPLICATE)
            case StoreUnavailable():
                self._to_repeat.append((transition, self))
                return
            case _:
                raise result
        if self._settled is not None:
            self._settled(told)


def _is_built_on(one: Transition, next_one: Transition) -> bool:
    before, after = one.instance, next_one.instance
    return (
        before is not None
        and after is not None
        and after.version == before.version + 1
        and after.address == before.address
    )


def _nothing(_transition: Transition) -> None: ...


def _nothing_more() -> None: ...
