"""A bounded number of tasks that carry out calls, started when first needed; no task per call (R20)."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from anyio.abc import TaskGroup

from .waking import Bell, Wakeup

Job = Callable[[], Awaitable[None]]


class Pool:
    """At most `size` jobs at a time, the others in order of arrival. A job raises only what must stop the engine."""

    def __init__(self, tasks: TaskGroup, size: int, changed: Bell) -> None:
        """Workers live in `tasks`; `changed` is rung when nothing is left to do."""
        self.running = 0
        self._tasks = tasks
        self._size = size
        self._changed = changed
        self._jobs: deque[Job] = deque()
        self._idle: list[Wakeup] = []
        self._workers = 0
        self._is_closed = False

    @property
    def is_idle(self) -> bool:
        """Whether no job runs or waits."""
        return not (self.running or self._jobs)

    def submit(self, job: Job) -> None:
        """Run a job as soon as a worker is free."""
        if self._is_closed:
            return
        self._jobs.append(job)
        if self._idle:
            self._idle.pop().set()
        elif self._workers < self._size:
            self._workers += 1
            self._tasks.start_soon(self._work)

    def close(self) -> None:
        """Begin no further job; those that run go on."""
        self._is_closed = True
        self._jobs.clear()
        self._changed.ring()

    async def _work(self) -> None:
        wakeup = Wakeup()
        while True:
            while self._jobs:
                job = self._jobs.popleft()
                self.running += 1
                try:
                    await job()
                finally:
                    self.running -= 1
            if not self.running:
                self._changed.ring()
            self._idle.append(wakeup)
            await wakeup.wait()


class Share:
    """The part of a pool that one participant or listener may take, so that one that hangs leaves room for the others.

    `take` runs one call of its queue, if there is one; `has_more` says whether there is.
    """

    def __init__(
        self, pool: Pool, size: int, take: Callable[[], Awaitable[None]], has_more: Callable[[], bool]
    ) -> None:
        """At most `size` calls at a time."""
        self._pool = pool
        self._size = size
        self._take = take
        self._has_more = has_more
        self._taken = 0

    def more(self) -> None:
        """There is one more in the queue."""
        if self._taken < self._size:
            self._taken += 1
            self._pool.submit(self._run)

    async def _run(self) -> None:
        try:
            await self._take()
        finally:
            self._taken -= 1
        if self._has_more():
            self.more()  # behind what others have waiting
