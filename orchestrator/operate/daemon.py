"""The daemon: one process that hosts an app's sagas on a store until a signal ends it."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import signal
import time
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager, suppress
from importlib import metadata
from types import FrameType

import anyio
from msgspec import structs

from ..app import App
from ..config import Settings
from ..errors import AppError, StoreError, StoreLocked
from ..messages import type_name
from ..runtime.engine import Engine, Stats
from ..urls import open_bus, open_store
from . import client, logs, protocol
from .answering import answer
from .control import Control
from .notify import Notifier
from .output import hidden_password
from .places import store_file
from .protocol import Answer, Ask, BusState, Hosts, Ping, Pong

LOCK_PATIENCE_S = 10.0  # a verb that acts without a daemon holds the store's lock for a moment
LOCK_LOOK_S = 0.05
DRAINING = 0.85  # of the time for stopping; the rest is for closing
LAST_ANSWERS_S = 0.5
IDLE_LOOK_S = 0.2  # whether a broker has anything more
BEATS = 3  # in the time after which systemd would restart it
INTERRUPTED = 130

logger = logging.getLogger(__name__)


async def serve(app: App, settings: Settings, *, hosts: Hosts = Hosts.ALL, until_idle: bool = False) -> None:
    """Host `app` until SIGTERM or SIGINT, or with `until_idle` until nothing is left to do at once. `hosts`: how much
    this is of the app that the user named; the daemon says so when it is asked.

    Stopping takes no new work, finishes what is in flight within `limits.drain_s` seconds and returns; a second
    SIGINT ends the process at once. Errors: StoreLocked when another process has the store, AppError when the app
    cannot serve what is stored or commands have no participant, and what the store and the bus raise.
    """
    _check_participants(app, settings)
    began = time.monotonic()
    with _signals(settings.limits.drain_s) as stop:
        async with AsyncExitStack() as stack:
            engine = await _opened(stack, app, settings)
            await _Daemon(app, settings, engine, hosts, began).run(stop, until_idle)
    logger.info("stopped")


def _check_participants(app: App, settings: Settings) -> None:
    missing = app.missing_participants() if not settings.bus else ()
    if missing:
        raise AppError(
            f"app {app.name!r} sends commands that nobody carries out: {', '.join(map(type_name, missing))}; "
            "add their participants to the App, or name the bus behind which they are with --bus"
        )


async def _opened(stack: AsyncExitStack, app: App, settings: Settings) -> Engine:
    """The engine, recovered. Waits a moment for a verb that holds the lock, but not for another daemon."""
    patience_ends = time.monotonic() + LOCK_PATIENCE_S
    has_said_it = False
    while True:
        bus = open_bus(settings.bus) if settings.bus else None
        try:
            engine = Engine(
                app,
                open_store(settings.store),
                bus,
                limits=settings.limits,
                topics=settings.topics,
                webhooks=settings.webhooks,
            )
            return await stack.enter_async_context(engine)
        except StoreLocked as error:
            path = store_file(settings.store)
            if time.monotonic() > patience_ends or path is None or client.ping(path) is not None:
                raise
            if not has_said_it:
                logger.info("%s: waiting for it", error)
                has_said_it = True
            await anyio.sleep(LOCK_LOOK_S)


class _Daemon:
    """What runs beside the engine: the socket, the heartbeat, and the end."""

    def __init__(self, app: App, settings: Settings, engine: Engine, hosts: Hosts, began: float) -> None:
        self._app = app
        self._settings = settings
        self._engine = engine
        self._hosts = hosts
        self._began = began
        self._notifier = Notifier()
        path = store_file(settings.store)
        self._control: Control | None = None
        if path is not None:
            self._control = Control(protocol.socket_beside(path), self._answer, settings.limits.body_bytes)

    async def run(self, stop: anyio.Event, until_idle: bool) -> None:
        """Serve until `stop`, then finish what is in flight."""
        async with anyio.create_task_group() as tasks:
            if self._control is not None:
                await tasks.start(self._control.serve)
            self._say_what_it_serves()
            tasks.start_soon(self._beat)
            if until_idle:
                tasks.start_soon(self._stop_when_idle, stop)
            await stop.wait()
            self._notifier.stopping()
            await self._finish()
            tasks.cancel_scope.cancel()

    def _say_what_it_serves(self) -> None:
        recovered = self._engine.recovered
        store, bus = hidden_password(self._settings.store), hidden_password(self._settings.bus)
        logs.announce(
            logger,
            f"orchestrator {release()} serves {self._app.name}, pid {os.getpid()}",
            f"  store      {store}",
            f"  bus        {bus or 'none: commands and events stay in this process'}",
            f"  recovered  {recovered}",
            app=self._app.name,
            pid=os.getpid(),
            store=store,
            bus=bus,
            **{f"recovered_{name}": count for name, count in structs.asdict(recovered).items()},
        )
        self._notifier.ready(f"serving {self._app.name}")

    async def _beat(self) -> None:
        """Tell the supervisor of the process that the loop turns and the store moves."""
        watchdog_s = self._notifier.watchdog_s
        if watchdog_s is None:
            return
        before = self._engine.stats()
        while True:
            with suppress(TimeoutError, StoreError), anyio.fail_after(watchdog_s / BEATS):
                await self._engine.store.next_due()
                stats = self._engine.stats()
                if has_moved(before, stats):
                    self._notifier.alive()
                before = stats
            await anyio.sleep(watchdog_s / BEATS)

    async def _stop_when_idle(self, stop: anyio.Event) -> None:
        """What a broker holds for us is to be done at once too; one that is away may hold something. What a webhook did
        not take is tried again for a day: that is left to the next start.
        """
        await self._engine.until_idle(but_webhooks=True)
        while not await self._engine.broker_is_empty():
            await anyio.sleep(IDLE_LOOK_S)
            await self._engine.until_idle(but_webhooks=True)
        logger.info("nothing is left to do at once")
        stop.set()

    async def _finish(self) -> None:
        if self._control is not None:
            self._control.stop()
        await self._engine.drain(DRAINING * self._settings.limits.drain_s)
        left = self._engine.stats().in_flight
        if left:
            logger.warning("%d commands were cut off: the next start sends them again, under the same keys", left)
        if self._control is not None:
            with anyio.move_on_after(LAST_ANSWERS_S):  # what cannot be stored, on a full disk for one, stays unanswered
                await self._control.ended.wait()

    async def _answer(self, ask: Ask, who: str) -> Answer:
        return self._pong() if isinstance(ask, Ping) else await answer(self._engine, self._settings.limits, ask, who)

    def _pong(self) -> Pong:
        stats = self._engine.stats()
        return Pong(
            pid=os.getpid(),
            version=release(),
            app=self._app.name,
            store=hidden_password(self._settings.store),
            bus=hidden_password(self._settings.bus),
            uptime=time.monotonic() - self._began,
            accepting=stats.accepting,
            problem=stats.not_accepting,
            in_flight=stats.in_flight,
            mailboxes=stats.mailboxes,
            commits=stats.commits,
            transitions=stats.transitions,
            outbox=stats.outbox,
            has_sagas=bool(self._app.sagas),
            hosts=self._hosts,
            broker=None if stats.bus is None else BusState(**structs.asdict(stats.bus)),
        )


def has_moved(before: Stats, now: Stats) -> bool:
    """Whether the store wrote between two beats, had nothing to write, or said why it cannot (a full disk is no reason
    to be restarted).
    """
    return now.commits > before.commits or now.mailboxes == 0 or bool(now.not_accepting)


def release() -> str:
    """The version of this distribution, or `source` where it runs from a folder."""
    try:
        return metadata.version("saga-orchestrator")
    except metadata.PackageNotFoundError:
        return "source"


@contextmanager
def _signals(drain_s: float) -> Generator[anyio.Event]:
    """An event that SIGTERM or SIGINT sets. After the first, the process ends within `drain_s` seconds whatever hangs.

    Plain signal handlers and a plain alarm, because they work even while a user's code keeps the loop busy, and while
    the interpreter waits at its end for a thread of a participant.
    """
    stop = anyio.Event()
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def asked(name: str) -> None:
        logger.info("%s: finishing what is in flight, at most %g s", name, drain_s)
        stop.set()

    def on_signal(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            signal.setitimer(signal.ITIMER_REAL, drain_s)
            atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)  # after that nothing handles an alarm any more
            loop.call_soon_threadsafe(asked, signal.Signals(number).name)
        elif number == signal.SIGINT:
            _leave_at_once(INTERRUPTED)

    def on_alarm(number: int, frame: FrameType | None) -> None:
        _leave_at_once(0)

    handlers = {signal.SIGTERM: on_signal, signal.SIGINT: on_signal, signal.SIGALRM: on_alarm}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield stop
    finally:
        if not received:  # else the process is about to end: the alarm stays set
            for number, handler in before.items():
                signal.signal(number, handler)


def _leave_at_once(code: int) -> None:
    """End as a kill -9 would; the store is made for that."""
    os._exit(code)
