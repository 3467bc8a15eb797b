"""The loop that keeps one projection: up to date, and built anew where that is asked for."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio import CapacityLimiter
from anyio.abc import TaskStatus
from msgspec.structs import replace

from ..errors import NotAccepting, OrchestratorError, Refused, StoreCorrupt, StoreError
from ..ports import Clock
from ..projection import Projection, shape_of
from ..recorded import Stretch
from ..runtime.trouble import Trouble
from ..runtime.waking import Bell, Wakeup
from .files import Claim, Files, Pause
from .pace import Pace
from .plan import Plan, may_switch, plan
from .rows import Bookmark, Failed, Model, Spoilt, bookmark_of, is_damage
from .source import Log

T = TypeVar("T")

CLAIM_AGAIN_S = 0.5
RETIRED_S = 60.0  # so long a file is kept that has been replaced, for who was just opening it

_log = logging.getLogger(__name__)


class Projector:
    """One owner of one projection's files. `run` does the work; the other methods ask it for something.

    `threads` bounds how many projections write at a time; `changed` is rung when it has got somewhere.
    """

    def __init__(
        self,
        projection: type[Projection],
        files: Files,
        log: Log,
        clock: Clock,
        threads: CapacityLimiter,
        pace: Pace,
        changed: Bell,
    ) -> None:
        """Nothing is opened yet."""
        self.shape = shape_of(projection)
        self.files = files
        self.trouble = Trouble(f"projection {self.shape.name} does not get on", clock)
        self._projection = projection
        self._log = log
        self._clock = clock
        self._threads = threads
        self._pace = pace
        self._changed = changed
        self._types = tuple(self.shape.handlers)
        self._wakeup = Wakeup()
        self._claim = Claim(files)
        self._live: Model | None = None
        self._build: Model | None = None
        self._build_number = 0
        self._retired: dict[int, float] = {}
        self._wanted: _Wanted = _Wanted()
        self._paused: Pause | None = files.paused()
        self._is_open = False
        self._is_idle = False
        self._is_woken = False  # since it looked last
        self._is_over = False

    # What others ask.

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do at present, or cannot."""
        return self._is_idle and not self._wanted.any

    @property
    def position(self) -> int:
        """How far in the log what readers get is."""
        return self._live.bookmark.position if self._live is not None else 0

    @property
    def problem(self) -> str:
        """Why it has stopped; empty: it has not."""
        stopped = [model.bookmark.reason for model in (self._live, self._build) if model is not None]
        return next((reason for reason in stopped if reason), "")

    @property
    def paused(self) -> Pause | None:
        """Whether it is paused."""
        return self._paused

    @property
    def number(self) -> int | None:
        """Of the file that readers get."""
        return self.files.current()

    def wake(self) -> None:
        """There may be new events."""
        self._is_idle = False
        self._is_woken = True
        self._wakeup.set()

    async def rebuild(self) -> int:
        """Begin to build it anew, from the first event on, unless that is under way; the number of the new file, which
        readers get when it has caught up. Errors: Refused, while it is paused.
        """
        if self._paused is not None:
            raise Refused(f"projection {self.shape.name} is paused: resume it first")
        self._wanted.rebuild = True
        await self._until(lambda: not self._wanted.rebuild)
        return self._build_number

    async def built(self, number: int) -> None:
        """Wait until readers get this file, or a later one. Errors: OrchestratorError, if building it has stopped."""
        await self._until(lambda: (self.number or 0) >= number or bool(self._build and self._build.bookmark.reason))
        if (self.number or 0) < number and self._build is not None:
            raise OrchestratorError(self._build.bookmark.reason)

    async def reached(self, position: int) -> None:
        """Wait until readers get what was in the log up to there. Errors: OrchestratorError, if it has stopped."""
        await self._until(lambda: self.position >= position or bool(self._held()))
        if self.position < position:
            raise OrchestratorError(self._held())

    async def pause(self, pause: Pause) -> None:
        """Hold it at the next transaction, also over a restart, until `resume`. Errors: Refused, if it is paused."""
        if self._paused is not None:
            raise Refused(f"projection {self.shape.name} is paused already")
        self.files.make_directory()
        self.files.pause(pause)
        self._paused = pause
        self.wake()

    async def resume(self) -> None:
        """Let it go on, after a pause or after it has stopped. Errors: Refused, if it runs."""
        if self._paused is None and not self.problem:
            raise Refused(f"projection {self.shape.name} is neither paused nor stopped")
        self.files.unpause()
        self._paused = None
        self._wanted.resume = True
        await self._until(lambda: not self._wanted.resume)

    def _held(self) -> str:
        """Why what readers get does not get on; empty: it does."""
        model = self._live or self._build
        return model.bookmark.reason if model is not None else ""

    async def _until(self, is_so: Callable[[], bool]) -> None:
        self.wake()
        while not is_so():
            if self._is_over:
                raise NotAccepting(f"nothing keeps projection {self.shape.name} any more")
            await self._changed.wait()

    # The loop.

    async def run(self) -> None:
        """Keep it, until cancelled. What fails for a while is tried again; an event that fails stops it."""
        await self._claimed()
        await self._keep()

    async def run_here(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """The same, for who does not wait until it is free. Errors: StoreLocked."""
        self.files.make_directory()
        self._claim.acquire()
        task_status.started()
        await self._keep()

    async def _keep(self) -> None:
        try:
            while True:
                try:
                    await self._go_on()
                    self.trouble.ends()
                    await self._rest()
                except Exception as error:  # noqa: BLE001 - sagas do not fall with a read model
                    self.trouble.begins(error)
                    self._is_idle = True
                    self._changed.ring()
                    await self._closed()
                    await self.trouble.pause()
        finally:
            with anyio.CancelScope(shield=True):
                await self._closed()
            self._claim.release()
            self._is_over = True
            self._changed.ring()

    async def _claimed(self) -> None:
        """Wait until no other process keeps this projection: a rebuild on the command line, for one."""
        while True:
            try:
                self.files.make_directory()
                self._claim.acquire()
            except (StoreError, OSError) as error:
                self.trouble.begins(error)
                await self._clock.sleep(CLAIM_AGAIN_S)
            else:
                self.trouble.ends()
                return

    async def _go_on(self) -> None:
        self._is_woken = False
        if not self._is_open:
            await self._open()
        await self._heed()
        while self._paused is None and await self._turn():
            await self._heed()

    async def _rest(self) -> None:
        if self._is_woken:
            return
        self._is_idle = True
        self._changed.ring()
        if self._retired:
            await self._wakeup.wait_at_most(self._clock, RETIRED_S)
            self._remove_retired()
        else:
            await self._wakeup.wait()
        self._is_idle = False

    async def _heed(self) -> None:
        """Do what was asked for meanwhile."""
        wanted = self._wanted
        if not wanted.any:
            return
        if wanted.resume:
            for model in (self._live, self._build):
                if model is not None and model.bookmark.reason:
                    await self._in_thread(model.go_on)
            wanted.resume = False
        if wanted.rebuild:
            if self._build is not None and self._build.bookmark.reason:
                failed, self._build = self._build, None
                await self._in_thread(failed.close)
                self.files.remove(self._build_number)
            if self._build is None:
                await self._begin(max(self.files.numbers(), default=0) + 1)
            wanted.rebuild = False
        self._changed.ring()

    async def _open(self) -> None:
        files = self.files
        self._paused = files.paused()
        current = files.current()
        found = {number: await self._in_thread(bookmark_of, files.path(number)) for number in files.numbers()}
        strange = [number for number, it in found.items() if it is not None and not await self._is_of_this_log(it)]
        chosen = plan(self.shape, current, found, frozenset(strange))
        self._say(chosen, current, found, strange)
        for number in chosen.remove:
            if number > (current or 0):
                files.remove(number)
            else:
                self._retired[number] = self._clock.now()
        if chosen.live is not None:
            self._live = await self._reopened(chosen.live)
        if chosen.is_new and chosen.build is not None:
            await self._begin(chosen.build)
        elif chosen.build is not None:
            self._build = await self._reopened(chosen.build)
            self._build_number = chosen.build
        self._is_open = True

    async def _reopened(self, number: int) -> Model:
        model = await self._in_thread(Model.reopen, self.files.path(number), self._projection)
        if model.bookmark.reason:
            await self._in_thread(model.go_on)  # a new start may be one with better code
        return model

    async def _is_of_this_log(self, bookmark: Bookmark) -> bool:
        if bookmark.position == 0:
            return True
        return await self._event_at(bookmark.position) == bookmark.event_id

    async def _event_at(self, position: int) -> str:
        rows = (await self._log.log(position - 1, 1)).rows
        return rows[0].envelope.id if rows else ""

    def _say(
        self, chosen: Plan, current: int | None, found: dict[int, Bookmark | None], strange: Sequence[int]
    ) -> None:
        if current is None or chosen.live is not None:
            return
        bookmark = found.get(current)
        if current in strange:
            why = "it was made from another log than the store has now"
        elif bookmark is None:
            why = "its file cannot be read"
        elif bookmark.version != self.shape.version:
            why = f"it is of version {bookmark.version}, the code has {self.shape.version}"
        elif not bookmark.digest:
            why = "its rows are spoilt"
        else:
            why = "its tables or types of events have changed"
        _log.warning("projection %s is built anew: %s", self.shape.name, why)

    async def _begin(self, number: int) -> None:
        self.files.remove(number)  # what a start before left that did not come far enough to be a file of ours
        path, now = self.files.path(number), self._clock.now()
        self._build = await self._in_thread(Model.create, path, self._projection, now)
        self._build_number = number

    async def _turn(self) -> bool:
        """A transaction of what is read, one of what is built: so that a long build keeps nobody waiting. Whether there
        may be more to do at once.
        """
        has_moved = False
        if self._live is not None:
            has_moved = await self._advance(self._live)
        if self._build is not None:
            head = await self._log.last_position()
            has_moved |= await self._advance(self._build)
            read = self._live.bookmark if self._live is not None else None
            if may_switch(self._build.bookmark, read, head):
                await self._switch(self._build)
                has_moved = True
        return has_moved

    async def _advance(self, model: Model) -> bool:
        before = model.bookmark
        if before.reason:
            return False
        try:
            stretch = await self._log.log(before.position, self._pace.batch, self._types)
        except StoreCorrupt as error:
            await self._stop(model, str(error), before.position + 1)
            return False
        if stretch.until == before.position:
            return False
        last = stretch.rows[-1] if stretch.rows else None
        event_id = (
            last.envelope.id
            if last is not None and last.position == stretch.until
            else await self._event_at(stretch.until)
        )
        await self._apply(model, stretch, event_id)
        self._changed.ring()
        return True

    async def _apply(self, model: Model, stretch: Stretch, event_id: str) -> None:
        """All of the stretch, or what stands before the event that fails."""
        rows, until = stretch.rows, stretch.until
        while True:
            try:
                await self._in_thread(model.apply, rows, until, event_id, self._clock.now(), self._pace.give_way)
            except Failed as failed:
                failing, rows, reason = rows[failed.index], rows[: failed.index], failed.reason
                if rows:
                    until, event_id = rows[-1].position, rows[-1].envelope.id
                    await self._apply(model, Stretch(rows, until), event_id)
                if not model.bookmark.reason:
                    await self._stop(model, reason, failing.position)
            except Spoilt as spoilt:
                reason = f"{spoilt}: mend it, and build the projection anew"
                await self._in_thread(model.spoil, reason, model.bookmark.position + 1, self._clock.now())
                self._tell(model)
            except sqlite3.Error as error:
                if is_damage(error):
                    await self._damaged(model, error)
                else:
                    raise
            return

    async def _stop(self, model: Model, reason: str, position: int) -> None:
        await self._in_thread(model.stop, reason, position, self._clock.now())
        self._tell(model)

    def _tell(self, model: Model) -> None:
        _log.error("projection %s stops: %s", self.shape.name, model.bookmark.reason)
        self._changed.ring()

    async def _damaged(self, model: Model, error: sqlite3.Error) -> None:
        """A read model can always be made again: a file that SQLite cannot read is not worth a person."""
        _log.error("projection %s is built anew, its file is damaged: %s", self.shape.name, error)
        if model is self._build:
            self._wanted.rebuild = True
            model.bookmark = replace(model.bookmark, reason=str(error))
        else:
            self._live = None
            await self._in_thread(model.close)
            self._wanted.rebuild = True

    async def _switch(self, build: Model) -> None:
        await self._in_thread(build.complete)
        before = self.files.current()
        await self._in_thread(self.files.switch, self._build_number)
        live, self._live, self._build = self._live, build, None
        _log.info(
            "projection %s is built: version %d, up to position %d",
            self.shape.name,
            self.shape.version,
            build.bookmark.position,
        )
        if live is not None:
            await self._in_thread(live.close)
        if before is not None:
            self._retired[before] = self._clock.now()
        self._changed.ring()

    def _remove_retired(self) -> None:
        now = self._clock.now()
        for number, since in list(self._retired.items()):
            if now - since >= RETIRED_S:
                self.files.remove(number)
                del self._retired[number]

    async def _closed(self) -> None:
        models, self._live, self._build = (self._live, self._build), None, None
        self._is_open = False
        for model in models:
            if model is not None:
                await self._in_thread(model.close)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._threads)


class _Wanted:
    """What was asked of a loop, and it has not done yet."""

    def __init__(self) -> None:
        self.rebuild = False
        self.resume = False

    @property
    def any(self) -> bool:
        return self.rebuild or self.resume
