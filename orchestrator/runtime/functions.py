"""Runs the functions of users, async ones here and plain ones in threads; nothing that they raise gets further."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from anyio import CancelScope, CapacityLimiter, to_thread

from .pool import Worker
from .texts import of_error


class OutOfTime(Exception):
    """The function did not return in the time it had."""


class Misbehaved(Exception):
    """The function raised what no function of its kind may raise; the text says it."""


class Functions:
    """Runs one function with a time limit. Plain functions have at most `threads` threads, those that hang included."""

    def __init__(self, threads: int) -> None:
        """Needs a running event loop."""
        self._threads = CapacityLimiter(threads)
        self._limits = _Limits()

    async def run(
        self,
        worker: Worker,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        is_async: bool,
        seconds: float | None,
    ) -> Any:
        """What the function returns, within `seconds` (None: without limit); a thread cannot be stopped and runs on.

        Errors: OutOfTime; Misbehaved for a SystemExit and a cancellation of its own making; else what it raises.
        """
        scope = worker.scope
        if seconds is not None:
            self._limits.begin(scope, seconds)
        try:
            if is_async:
                return await function(*arguments)
            return await self._in_thread(function, arguments)
        except asyncio.CancelledError as error:
            if scope.cancel_called:
                raise OutOfTime from None
            if _is_cancelled():
                raise
            raise Misbehaved("what it waited for was cancelled") from error
        except SystemExit as error:
            raise Misbehaved(f"it wanted to exit with {error.code!r}") from error
        except BaseExceptionGroup as error:
            if isinstance(error, ExceptionGroup):
                raise
            if scope.cancel_called:
                raise OutOfTime from error
            if _is_cancelled():
                raise
            raise Misbehaved(of_error(error)) from error
        except (Exception, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            raise Misbehaved(of_error(error)) from error
        finally:
            self._limits.end(scope)

    async def _in_thread(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """The place among the threads is given back when the thread ends, not when nobody waits for it any more."""
        place = _Place(self._threads)
        loop = asyncio.get_running_loop()

        def in_thread() -> Any:
            place.has_begun = True
            try:
                return function(*arguments)
            finally:
                with suppress(RuntimeError):  # the event loop is closed
                    loop.call_soon_threadsafe(place.leave)

        await self._threads.acquire_on_behalf_of(place)
        try:
            return await to_thread.run_sync(in_thread, abandon_on_cancel=True, limiter=CapacityLimiter(1))
        finally:
            if not place.has_begun:
                place.leave()


class _Limits:
    """Cancels what runs longer than it may. One timer for all calls, set to the earliest end: most calls are over long
    before, and a scope and a timer for each cost more than the rest of the call.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ends: dict[CancelScope, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = math.inf  # when the timer fires

    def begin(self, scope: CancelScope, seconds: float) -> None:
        """Cancel it when so many seconds are over."""
        end = self._ends[scope] = self._loop.time() + seconds
        if end < self._looks_at:
            self._set(end)

    def end(self, scope: CancelScope) -> None:
        """It is over; nothing, if it had no limit."""
        self._ends.pop(scope, None)

    def _set(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(moment, self._look)
        self._looks_at = moment

    def _look(self) -> None:
        self._timer, self._looks_at = None, math.inf
        now = self._loop.time()
        for scope, end in list(self._ends.items()):
            if end <= now:
                del self._ends[scope]
                scope.cancel()
        if self._ends:
            self._set(min(self._ends.values()))


class _Place:
    """One of the threads, while it is taken."""

    def __init__(self, threads: CapacityLimiter) -> None:
        self.has_begun = False
        self._threads: CapacityLimiter | None = threads

    def leave(self) -> None:
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.release_on_behalf_of(self)


def _is_cancelled() -> bool:
    """Whether this task itself is cancelled, and not only something that the function waited for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
