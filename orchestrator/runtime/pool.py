"""A bounded number of tasks that carry out calls, started when first needed; no task per call (R20)."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sized

from anyio import CancelScope
from anyio.abc import TaskGroup

from .waking import Bell, Wakeup


class Worker:
    """One task of a pool. Cancelling `scope` cuts off the job that it runs; the next one gets a new scope."""

    __slots__ = ("scope", "wakeup")

    def __init__(self) -> None:
        self.scope = CancelScope()
        self.wakeup = Wakeup()


Job = Callable[[Worker], Awaitable[None]]


class Pool:
    """At most `size` jobs at a time, the others in order of arrival. A job raises only what must stop the engine."""

    def __init__(self, tasks: TaskGroup, size: int, changed: Bell) -> None:
        """Workers live in `tasks`; `changed` is rung when nothing is left to do."""
        self.running = 0
        self._tasks = tasks
        self._size = size
        self._changed = changed
        self._jobs: deque[Job] = deque()
        self._idle: list[Worker] = []
        self._workers = 0
        self._is_coming = False  # whether a worker was woken that has not taken a job yet
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
        if not self._is_coming:
            self._call_one()

    def close(self) -> None:
        """Begin no further job; those that run go on."""
        self._is_closed = True
        self._jobs.clear()
        self._changed.ring()

    def _call_one(self) -> None:
        """Have one more worker come. It calls the next before its own job, which may take long: so all that waits is
        begun soon, and a hundred jobs that do not wait for anything are done by the first worker alone.
        """
        if self._idle:
            self._is_coming = True
            self._idle.pop().wakeup.set()
        elif self._workers < self._size:
            self._is_coming = True
            self._workers += 1
            self._tasks.start_soon(self._work)

    async def _work(self) -> None:
        worker = Worker()
        while True:
            with worker.scope:
                await self._take_jobs(worker)
            worker.scope = CancelScope()

    async def _take_jobs(self, worker: Worker) -> None:
        """Until one is cut off."""
        while True:
            self._is_coming = False
            while self._jobs:
                job = self._jobs.popleft()
                self.running += 1
                if self._jobs and not self._is_coming:
                    self._call_one()
                try:
                    await job(worker)
                finally:
                    self.running -= 1
                if worker.scope.cancel_called:
                    return
            if not self.running:
                self._changed.ring()
            self._idle.append(worker)
            await worker.wakeup.wait()


class Share:
    """The part of a pool that one participant or listener may take, so that one that hangs leaves room for the others.

    `take` runs one call of its queue, if there is one; `waiting` is what is in the queue.
    """

    def __init__(self, pool: Pool, size: int, take: Job, waiting: Sized) -> None:
        """At most `size` calls at a time."""
        self._pool = pool
        self._size = size
        self._take = take
        self._waiting = waiting
        self._taken = 0
        self._coming = 0  # of these, those that have not begun

    def more(self) -> None:
        """There is one more in the queue."""
        if self._taken < self._size:
            self._taken += 1
            self._coming += 1
            self._pool.submit(self._run)

    def resize(self, size: int) -> None:
        """At most so many calls at a time from now on."""
        self._size = size
        while self._taken < self._size and len(self._waiting) > self._coming:
            self.more()

    async def _run(self, worker: Worker) -> None:
        self._coming -= 1
        try:
            await self._take(worker)
        finally:
            self._taken -= 1
        if len(self._waiting) > self._coming:
            self.more()  # behind what others have waiting
