"""An event loop in virtual time whose runs can be repeated: no threads, no sockets, no order by address."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Generator
from contextlib import contextmanager, suppress
from itertools import count
from threading import get_ident
from typing import Any, cast

from anyio import CancelScope
from anyio._backends import _asyncio as anyio_on_asyncio  # pyright: ignore[reportPrivateUsage]

MAX_TURNS = 200_000  # of one loop


class Stuck(Exception):
    """Nothing will ever happen any more, or not before the horizon."""


class Fenced(Exception):
    """Something in the simulation wanted a thread or a socket."""


class SimulatedTask(asyncio.Task[Any]):
    """A task whose hash is its number, so that a set of tasks is walked through in the same order in every process."""

    _numbers = count(1)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(SimulatedTask._numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class _Jump:
    """Stands where the selector would: when nothing is ready, the time of the next timer has come."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        self._loop.jump(timeout)
        return []

    def close(self) -> None: ...


class SimulatedLoop(asyncio.BaseEventLoop):
    """One life of a simulated process. `now` is its time in seconds; a later loop goes on where this one was left.

    A loop that is stopped in the middle stands for a killed process: what was under way never runs again, not even a
    `finally`. `bury` unwinds it when nobody can see it any more.
    """

    def __init__(self, now: float, horizon: float) -> None:
        """Begin at `now`; nothing may be left to do at `horizon`."""
        super().__init__()
        self.now = now
        self.is_buried = False
        self._horizon = horizon
        self._turns = 0
        self._tasks: list[SimulatedTask] = []
        self._selector = _Jump(self)
        self._clock_resolution = 1e-9  # with 0 a timer that is due now would never be
        self.set_task_factory(cast(Any, self._task))
        self.set_exception_handler(_ignored)

    def time(self) -> float:
        """Seconds, virtual."""
        return self.now

    def jump(self, timeout: float | None) -> None:
        """Go to the next timer, `timeout` seconds from now. Errors: Stuck."""
        self._turns += 1
        if self._turns > MAX_TURNS:
            self._turns = 0
            raise Stuck("it goes round and round without coming to rest")
        if timeout is None:
            raise Stuck("nothing is ready and no timer is set")
        self.now += max(0.0, timeout)
        if self.now > self._horizon:
            raise Stuck("it has not come to rest when everything should be over")

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run until `main` returns or the loop is stopped. Errors: what `main` raises; Stuck."""
        task = self.create_task(main)
        task.add_done_callback(lambda _: self.stop())
        try:
            self.run_forever()
        except Stuck:
            task._log_traceback = False
            raise
        if task.done():
            task.result()

    def bury(self) -> None:
        """Unwind what a killed process left in the middle; it can do no harm any more."""
        self.is_buried = True
        self._horizon = math.inf
        begun: list[SimulatedTask] = []
        with suppress(Stuck):
            while pending := [task for task in self._tasks if not task.done()]:
                for task in begun:  # one that never ran would leave a coroutine that nobody has awaited
                    task.cancel()
                begun = pending
                self._turns += 1
                self.call_soon(self.stop)
                self.run_forever()
        self._tasks.clear()
        self.close()

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Errors: Fenced."""
        raise Fenced("there are no threads in a simulation: use async participants, and stores without a thread")

    def _task(self, loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> SimulatedTask:
        task = SimulatedTask(coro, loop=loop, **kwargs)
        self._tasks.append(task)
        return task

    def _process_events(self, event_list: Any) -> None: ...

    def _write_to_self(self) -> None: ...

    def _asyncgen_firstiter_hook(self, agen: Any) -> None: ...

    def _asyncgen_finalizer_hook(self, agen: Any) -> None: ...


def _ignored(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a killed process would have said."""


@contextmanager
def repeatable() -> Generator[None]:
    """Within, anyio's sets of cancel scopes and of tasks are walked through in the order of birth, in this thread."""
    thread = get_ident()
    numbers = count(1)
    SimulatedTask._numbers = count(1)  # pyright: ignore[reportPrivateUsage]
    born: dict[int, int] = {}
    scope: Any = anyio_on_asyncio.CancelScope
    init = scope.__init__

    def __init__(self: CancelScope, *args: Any, **kwargs: Any) -> None:
        if get_ident() == thread:
            born[id(self)] = next(numbers)
        init(self, *args, **kwargs)

    def __hash__(self: CancelScope) -> int:
        return born[id(self)] if get_ident() == thread else object.__hash__(self)

    scope.__init__, scope.__hash__ = __init__, __hash__
    try:
        yield
    finally:
        scope.__init__, scope.__hash__ = init, object.__hash__
