"""The engine: one app on one store, from a message that comes in to everything that follows from it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio
import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from ..app import App
from ..cloudevents import cloud_event
from ..config import NO_WEBHOOK_SETTINGS, Limits, WebhookSettings
from ..errors import (
    BadMessage,
    NotAccepting,
    NotFound,
    StoreFull,
    StoreUnavailable,
)
from ..event_log import EventLog
from ..grouping import result_of
from ..machine.instance import Instance, Status
from ..machine.transition import Transition
from ..ports import Bus, Clock, Counts, Result, Sender, Store
from ..projecting.pace import Pace
from ..projecting.projections import Projections
from ..topics import NO_SETTINGS, Topics, TopicSettings
from ..wire import Address, DeadLetter, Envelope, Kind, Outgoing, Request, Verb
from .admission import check_standing
from .calls import Calls
from .clock import SystemClock
from .committer import Committer
from .door import Door
from .events import EngineEvents
from .functions import Functions
from .intake import Intake, addressed
from .listeners import Listeners, delivery
from .mailbox import Mail
from .pool import Pool
from .relay import Relay
from .routing import Audience, Distributor, Outcomes, Targets
from .supervisor import Supervisor
from .telling import tell
from .timers import Timers
from .trouble import Trouble
from .waiting import WaitingRoom
from .waking import Bell
from .webhooks import Webhooks
from .work import Work

PRUNE_S = 60.0
STORE_AGAIN_S = 1.0
SINK_CALLS = 256  # deliveries to webhooks at a time
NOBODY = "no saga or listener here wants it"
_LIMITS = Limits()

_log = logging.getLogger(__name__)


class Accepted(Struct, frozen=True):
    """A message is on disk: what became of it at each of those who want it, by `saga/key` or listener's name."""

    outcomes: Outcomes


class Recovered(Struct, frozen=True):
    """What an engine found in its store when it was opened."""

    instances: int  # open ones
    outbox: int  # messages that had not gone, or were not answered
    waiting: int  # in the waiting room
    overdue: int  # timers due for more than 30 s
    parked: int
    dead: int

    def __str__(self) -> str:
        """In words."""
        parts = [
            f"{self.instances} open instances",
            f"{self.outbox} messages to go",
            f"{self.overdue} overdue timers",
            f"{self.parked} parked",
            f"{self.waiting} in the waiting room",
            f"{self.dead} dead letters",
        ]
        return ", ".join(part for part in parts if not part.startswith("0 ")) or "nothing was left to do"


NOTHING_RECOVERED = Recovered(0, 0, 0, 0, 0, 0)


class BusStats(Struct, frozen=True):
    """How an engine stands with its bus: `problem` is what is wrong, or empty, `since` when (seconds since 1970).

    is_connected   the broker answered the last time that it was asked
    lag            messages that it holds for us, those with us included; None: not known
    unpublished    messages in memory that wait for it
    has_left_some  more of them, later ones, stand in the store alone
    oldest         when the one that waits longest was made, in seconds since 1970
    """

    problem: str
    since: float | None
    is_connected: bool
    lag: int | None
    unpublished: int
    has_left_some: bool
    oldest: float | None


class Stats(Struct, frozen=True):
    """What an engine does at this moment. `problem` says why it does not accept or publish, `not_accepting` why it does
    not accept, or they are empty; `bus` is None without one.
    """

    in_flight: int  # calls of participants and listeners
    mailboxes: int  # instances with messages to handle
    commits: int  # since it was opened
    transitions: int  # the same
    accepting: bool
    problem: str
    outbox: int = 0  # rows handed over and not settled yet
    not_accepting: str = ""
    bus: BusStats | None = None


class Engine:
    """Hosts the sagas, participants and listeners of an app on a store, as an async context manager.

    Leaving it stops at once; `drain` first finishes what is in flight. With `acting=False` it commits what it is given
    and does nothing else: no participant, listener, timer or bus runs. One task opens and leaves it; any may use it.

    app, store   what it was made with
    recovered    what was found in the store
    events       the store's streams of events
    projections  the app's read models
    webhooks     who subscribes to boundary events
    """

    def __init__(
        self,
        app: App[Any],
        store: Store,
        bus: Bus | None = None,
        *,
        clock: Clock | None = None,
        limits: Limits = _LIMITS,
        topics: TopicSettings = NO_SETTINGS,
        webhooks: WebhookSettings = NO_WEBHOOK_SETTINGS,
        sender: Sender | None = None,
        acting: bool = True,
    ) -> None:
        """Nothing is opened yet. The clock is the machine's, if none is given; `topics` names those of the bus;
        `webhooks` says where those may go, and `sender` carries them, if not the one that is installed.
        """
        self.app = app
        self.store = store
        self.recovered = NOTHING_RECOVERED
        self._bus = bus if acting else None
        self.clock = self._clock = clock or SystemClock()
        self.events: EventLog = EngineEvents(app, store, self._clock, self._append)
        self._limits = limits
        self._topics = Topics(app, topics)
        self.webhooks = Webhooks(app, self.events, self._topics.source, self._clock, webhooks, sender)
        self._acting = acting
        self._changed = Bell()
        pace = Pace(limits.projected, self._has_work)
        self.projections = Projections(app.projections.values(), store, self._clock, pace, self._changed)
        self._closed: Exception | None = NotAccepting("the engine is not open")
        self._over: Exception | None = self._closed  # the same, but a drain lets calls that run still append
        self._waiting: dict[Settlement, None] = {}
        self._taken = 0  # messages from outside that are not settled yet
        self._ends: dict[Address, list[Settlement]] = {}
        self._loops: list[anyio.CancelScope] = []

    # Opening and leaving.

    async def __aenter__(self) -> Self:
        """Open the store, then the bus and the app's resources, and take up what was left.

        Errors: what opening them raises; AppError, if an open instance does not fit this code (R18).
        """
        with _out_of_its_group():
            async with AsyncExitStack() as opening:
                await opening.enter_async_context(self.store)
                resources: object = None
                if self._acting:
                    check_standing(self.app.name, self.app.sagas, await self.store.standing())
                    if self._bus is not None:
                        await opening.enter_async_context(self._bus)
                    resources = await opening.enter_async_context(self.app.resources())
                self.recovered = _recovered(await self.store.counts(self._clock.now()))
                self._tasks = await opening.enter_async_context(anyio.create_task_group())
                self._build(resources)
                await self.webhooks.load()
                opening.push_async_callback(self.webhooks.close)
                self._closed = self._over = None
                await self._start()
                self._closing = opening.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(NotAccepting("the engine is closed"))
        self._tasks.cancel_scope.cancel()
        with _out_of_its_group(error):
            await self._closing.__aexit__(kind, error, trace)

    def _build(self, resources: object) -> None:
        app, clock, limits, changed = self.app, self._clock, self._limits, self._changed
        self._committer = Committer(self.store, clock, limits.group, changed)
        self._supervisor = Supervisor(app.sagas, self.store, self._committer, clock, limits, changed)
        self._door = Door(self._is_full, self._supervisor.has_room, self._check_open, changed)
        self._distributor = Distributor(self._supervisor, self._committer, clock)
        self._pool = Pool(self._tasks, limits.in_flight, changed)
        functions = Functions(limits.threads)
        share = max(1, limits.in_flight // 2)
        self._work = Work(app, self.store, self._committer, clock)
        self._calls = Calls(
            app,
            resources,
            functions,
            self._pool,
            share,
            clock,
            self._answered,
            self._work.known,
            self._work.out_of_time,
            self.events,
        )
        self._sink_pool = Pool(self._tasks, SINK_CALLS, changed)
        self._listeners = Listeners(
            app,
            resources,
            functions,
            self._pool,
            share,
            clock,
            self._committer.store,
            self.events,
            self.webhooks,
            self._sink_pool,
            limits.handed,
        )
        self._audience = Audience(app, self._topics, self.webhooks)
        self._timers = Timers(self.store, self._supervisor, self._listeners, clock, limits.timer_batch, changed)
        self._relay = Relay(
            app,
            self.store,
            self._bus,
            self._topics,
            self._audience,
            self._supervisor,
            self._committer,
            self._distributor,
            self._calls,
            self._listeners,
            self._answered,
            clock,
            limits,
            changed,
        )
        self._intake = Intake(
            app,
            self._topics,
            self._committer,
            self.submit,
            self._work,
            self._has_room_for_work,
            clock,
            limits,
            changed,
        )
        self._waiting_room = WaitingRoom(self.store, self._supervisor, clock, limits.page)
        self._store_troubles = (self._committer.trouble, self._supervisor.trouble)
        self._committer.on_committed = self._committed
        self._committer.on_failed = self._supervisor.on_failed = self._store_failed
        if self._acting:
            self._committer.on_back = self._recover
            self._supervisor.prepare = self._relay.without_unwanted
            self._supervisor.is_away = self._relay.is_held_up
            self.webhooks.on_paused = self._relay.hold
            self.webhooks.on_resumed = self._relay.go_on
            self.webhooks.on_removed = self._relay.drop

    async def _start(self) -> None:
        """The commit loops, and that which publishes, run until the end; the acting ones until a drain."""
        self._tasks.start_soon(self._guard, self._committer.run)
        self._tasks.start_soon(self._guard, self._supervisor.run)
        if not self._acting:
            return
        await self._waiting_room.deliver()  # before all that comes from here on
        self.projections.begin()
        self._recover()
        acting: list[Callable[[], Awaitable[None]]] = [
            self._waiting_room.run,
            self._relay.run,
            self._timers.run,
            self._keep_house,
            self.projections.run,
        ]
        if self._bus is not None:
            self._tasks.start_soon(self._guard, partial(self._relay.run_bus, self._bus))  # until the end of a drain
            acting += [self._relay.offer_again]
            acting += [partial(self._intake.run, self._bus), partial(self._intake.watch, self._bus), self._intake.ack]
        for loop in acting:
            scope = anyio.CancelScope()
            self._loops.append(scope)
            self._tasks.start_soon(self._guard, loop, scope)

    async def _guard(self, loop: Callable[[], Awaitable[None]], scope: anyio.CancelScope | None = None) -> None:
        """A loop that fails takes the engine with it, and nobody waits for what will not come."""
        try:
            with scope or anyio.CancelScope():
                await _not_cancelled_by_nobody(loop)
        except Exception as error:
            _log.critical("the engine stops: %s", error)
            self._close(error)
            raise

    def _close(self, error: Exception) -> None:
        self._closed = self._closed or error
        self._over = self._over or error
        for settlement in list(self._waiting):
            settlement(error)
        self._look_for_ends()
        self._changed.ring()

    def _recover(self) -> None:
        """Take up what the store holds: at the start, and after writes of which nothing was known."""
        self._relay.rescan()
        self._timers.look_again()
        self._waiting_room.look()
        self.projections.wake()
        self._look_for_ends()

    def _look_for_ends(self) -> None:
        """Whoever waits for an end looks again."""
        ends, self._ends = self._ends, {}
        for waiting in ends.values():
            for settlement in waiting:
                settlement(None)

    async def _keep_house(self) -> None:
        """Forget what is old (R14), and bury what waited too long (R11)."""
        while True:
            now = self._clock.now()
            try:
                await self.store.prune(now, now - self._limits.retention_s)
            except (StoreFull, StoreUnavailable) as error:
                _log.warning("nothing could be pruned: %s", error)
            await self._clock.sleep(PRUNE_S)

    # What comes in.

    async def accept(self, envelope: Envelope) -> Accepted:
        """Take a message from outside and return when it is on disk; the same id again changes nothing.

        An event goes to every instance whose key it names and to every listener of its type; a reply to the instance
        it is addressed to. Waits while there is no room (R20). Errors: BadMessage, if it cannot be decoded, names no
        instance or nobody here wants it; NotAccepting; StoreError, if the engine has stopped because of one.
        """
        settlement = Settlement()
        await self.submit(envelope, settlement)
        outcomes = await self._told(settlement)
        return Accepted(outcomes)

    async def submit(self, envelope: Envelope, settled: Callable[[Outcomes | Exception], None]) -> None:
        """The same for who takes many: return when there is room for the next; `settled` is called when it is on disk,
        and never if the engine stops before.
        """
        message = envelope if envelope.time else replace(envelope, time=self._clock.now())
        wanted = self._wanted(message)
        await self._door.enter(wanted.letters)
        self._taken += 1

        def done(outcomes: Outcomes | Exception) -> None:
            self._taken -= 1
            settled(outcomes)

        self._distributor.distribute(message, wanted, done)

    def _wanted(self, message: Envelope) -> Targets:
        match message.kind:
            case Kind.EVENT:
                wanted = self._audience.of(message)
                if not wanted:
                    raise BadMessage(f"{message.type}: {NOBODY}")
                return wanted
            case Kind.YES | Kind.REFUSAL | Kind.FAILURE if message.saga in self.app.sagas and message.key:
                return Targets({message.address: message})
            case _:
                raise BadMessage(f"a {message.kind} for {message.address} is not taken from outside")

    def _is_full(self) -> bool:
        return self._taken >= self._limits.in_flight or any(trouble.text for trouble in self._store_troubles)

    def _check_open(self) -> None:
        if self._closed is not None:
            raise self._closed
        for trouble in self._store_troubles:
            if trouble.lasts(self._limits.store_full_s):
                raise NotAccepting(f"{trouble.text}; send it again later")

    async def _told(self, settlement: Settlement) -> Any:
        """What was settled. Fails when the engine does, or while the store is full for long."""
        self._waiting[settlement] = None
        try:
            told = await settlement
        finally:
            del self._waiting[settlement]
        if isinstance(told, Exception):
            raise told
        return told

    def _store_failed(self) -> None:
        """Whoever has waited long for a commit is told to come back; what was taken is stored when it can be (R20)."""
        try:
            self._check_open()
        except NotAccepting as error:
            for settlement in list(self._waiting):
                settlement(error)

    def _answered(self, row: Outgoing, reply: Envelope) -> None:
        if row.reply_to:
            self._work.answered(row, reply)
        else:
            self._supervisor.deliver(reply.address, Mail(reply))

    def _has_room_for_work(self) -> bool:
        return self._calls.waiting + self._pool.running < self._limits.in_flight and not self._is_full()

    # What operators ask.

    async def verb(
        self, address: Address, verb: Verb, request: Request, who: str, *, id: str = "", preview: bool = False
    ) -> Transition:
        """Ask something of an instance (R17), return when it is on disk; with `preview` only say what it would do.

        A verb that does not fit the state gives a Transition with outcome REFUSED and the reason in its notes.
        `id` makes a second call harmless. Errors: NotFound, NotAccepting, BadMessage (half a surrogate pair in a text).
        """
        if address.saga not in self.app.sagas:
            raise NotFound(f"there is no saga {address.saga} in app {self.app.name}")
        now = self._clock.now()
        try:
            message = Envelope(
                id=id or f"{verb}:{who}@{now:.6f}",
                kind=Kind.VERB,
                type=verb,
                data=Raw(msgspec.json.encode(request)),
                time=now,
                saga=address.saga,
                key=address.key,
                user=who,
            )
            msgspec.json.encode(message)  # now, not in the middle of a commit
        except UnicodeEncodeError as error:
            raise BadMessage(f"{verb}: a text holds half a surrogate pair, which is no character") from error
        return await self._handled(Mail(message, preview=preview, must_exist=True), address)

    async def _handled(self, mail: Mail, address: Address) -> Transition:
        self._check_open()
        settlement = Settlement()
        mail.settled = settlement
        self._supervisor.deliver(address, mail)
        transition: Transition = await self._told(settlement)
        return transition

    async def redrive(self, dead_id: int) -> None:
        """Handle a dead letter again, under a new id where an instance has it on record; it is one no more then.

        Errors: NotFound; BadMessage, if it still cannot be decoded or nobody wants it; NotAccepting.
        """
        letter = await self._dead_letter(dead_id)
        if letter is None:
            raise NotFound(f"there is no dead letter {dead_id}")
        envelope = letter.envelope or addressed(cloud_event(letter.raw, self._limits.body_bytes, self._limits.depth))
        if letter.listener:
            if self.webhooks.is_one(letter.listener) and self.webhooks.find(letter.listener) is None:
                raise NotFound(f"{letter.listener} was removed: drop its dead letters")
            row = delivery(envelope, letter.listener)
            await self._stored(Transition(at=self._clock.now(), put=(row,), dead_remove=(dead_id,)))
        elif envelope.saga:
            again = replace(envelope, id=f"{envelope.id}~{dead_id}")
            await self._handled(Mail(again, dead_remove=(dead_id,)), envelope.address)
        else:
            await self.accept(envelope)
            await self._stored(Transition(at=self._clock.now(), dead_remove=(dead_id,)))

    async def redrive_webhook(self, name: str) -> int:
        """Deliver again what a webhook did not take in all its attempts; how many. Errors: NotFound; NotAccepting."""
        sink, after, count = self.webhooks.get(name).sink, 0, 0
        while letters := await self.store.dead_letters(after, self._limits.page):
            for letter in letters:
                if letter.listener == sink:
                    await self.redrive(letter.id)
                    count += 1
            after = letters[-1].id
        return count

    async def drop_dead(self, ids: Sequence[int]) -> int:
        """Give up dead letters; how many there were. Errors: NotAccepting."""
        there = [id for id in dict.fromkeys(ids) if await self._dead_letter(id) is not None]
        await self._stored(Transition(at=self._clock.now(), dead_remove=tuple(there)))
        return len(there)

    async def drop_waiting(self, ids: Sequence[int]) -> int:
        """Give up messages of the waiting room; how many there were. Errors: NotAccepting."""
        there = [id for id in dict.fromkeys(ids) if any(row.id == id for row in await self.store.waiting(id - 1, 1))]
        await self._stored(Transition(at=self._clock.now(), waiting_remove=tuple(there)))
        return len(there)

    async def _dead_letter(self, id: int) -> DeadLetter | None:
        return next((letter for letter in await self.store.dead_letters(id - 1, 1) if letter.id == id), None)

    async def _stored(self, transition: Transition) -> None:
        self._check_open()
        settlement = Settlement()
        self._committer.store(transition, settlement)
        await self._told(settlement)

    async def _append(self, transition: Transition) -> Result:
        """Commit what belongs to no instance, with what it publishes; again, until something is known of it."""
        if self._over is not None:
            raise self._over
        answer = _AppendUntilKnown(self._committer)
        self._committer.add(self._relay.without_unwanted(transition) if self._acting else transition, answer)
        [result] = await self._told(answer.settlement)
        return result_of(result)

    # What goes on.

    async def ended(self, address: Address) -> Instance:
        """Wait until an instance has ended. Errors: NotFound; what the engine stops for."""
        while True:
            settlement = Settlement()
            waiting = self._ends.setdefault(address, [])
            waiting.append(settlement)
            try:
                instance = await self._end(address, settlement)
            finally:
                waiting.remove(settlement)
                if not waiting and self._ends.get(address) is waiting:
                    del self._ends[address]
            if instance is not None:
                return instance

    async def _end(self, address: Address, settlement: Settlement) -> Instance | None:
        """The ended instance; None: look again."""
        if not self._supervisor.is_open(address):
            [instance] = await self.store.load([address])
            if instance is None:
                raise NotFound(f"there is no {address}")
            if instance.status.is_end:
                return instance
        told: Instance | None = None
        if self._closed is None or settlement.done():
            told = await settlement
            if isinstance(told, Exception):
                raise told
        if told is None and self._closed is not None:
            raise self._closed
        return told

    async def until_idle(self, *, but_webhooks: bool = False) -> None:
        """Wait until nothing moves without a new message or a timer of a waiting step: no message, call or outbox row
        is under way, no answer and no retry is to come; with `but_webhooks` none but of a failed webhook, which may
        last a day. Errors: what the engine stops for.
        """
        while True:
            if self._closed is not None:
                raise self._closed
            if self._is_quiet(but_webhooks):
                is_busy = self._acting and await self._expects_answers()
                if not self._is_quiet(but_webhooks):
                    continue
                if not is_busy:
                    return
            await self._changed.wait()

    async def _expects_answers(self) -> bool:
        """Whether an instance has an answer or a retry to come; a store that is away for a moment is asked again."""
        while True:
            try:
                return (await self.store.counts(self._clock.now())).busy > 0
            except StoreUnavailable as error:
                _log.warning("nothing is known of what is under way: %s", error)
                await self._clock.sleep(STORE_AGAIN_S)

    def _is_quiet(self, but_webhooks: bool) -> bool:
        """Whether nothing is under way, but for what failed webhooks have not got yet."""
        here = not self._supervisor.pending and self._committer.is_idle
        if not (self._acting and here):
            return here
        is_calling = not (self._pool.is_idle and self._sink_pool.is_idle) or self._calls.waiting
        if is_calling or not (self._timers.is_idle and self.projections.is_idle):
            return False
        resting = self._listeners.resting() if but_webhooks else frozenset[str]()
        return self._relay.is_idle_but(resting) and not self._listeners.held_but(resting)

    def _has_work(self) -> bool:
        """Whether messages, commits or calls are under way; asked from other threads too."""
        return bool(self._supervisor.pending) or not self._committer.is_idle or self._pool.running > 0

    def stats(self) -> Stats:
        """What is going on at this moment."""
        not_accepting, bus = _texts(self._store_troubles), self._bus_stats()
        return Stats(
            in_flight=self._pool.running + self._sink_pool.running,
            mailboxes=self._supervisor.mailboxes,
            commits=self._committer.commits,
            transitions=self._committer.transitions,
            accepting=self._closed is None and not not_accepting,
            problem="; ".join(text for text in (not_accepting, bus.problem if bus is not None else "") if text),
            outbox=self._relay.under_way,
            not_accepting=not_accepting,
            bus=bus,
        )

    def _bus_stats(self) -> BusStats | None:
        if self._bus is None:
            return None
        troubles = (self._relay.trouble, self._relay.refusals, self._intake.trouble)
        return BusStats(
            problem=_texts(troubles),
            since=min((trouble.since for trouble in troubles if trouble.since is not None), default=None),
            is_connected=self._intake.is_connected,
            lag=self._intake.lag,
            unpublished=self._relay.unpublished,
            has_left_some=self._relay.has_left_some,
            oldest=self._relay.oldest_unpublished,
        )

    async def broker_is_empty(self) -> bool:
        """Whether the broker has nothing for us; one that does not say so may have."""
        if self._bus is None:
            return True
        await self._intake.look(self._bus)
        return self._intake.lag == 0

    async def drain(self, seconds: float) -> None:
        """Take nothing new, let the calls that run finish, commit what they answer and publish it, for at most so many
        seconds.

        What is unfinished then is in the outbox; it is taken up at the next start.
        """
        self._closed = self._closed or NotAccepting("the engine is stopping")
        self._changed.ring()
        self._relay.stop()
        self._pool.close()
        self._sink_pool.close()
        for loop in self._loops:
            loop.cancel()
        with anyio.move_on_after(seconds):
            while self._is_finishing:
                await self._changed.wait()

    @property
    def _is_finishing(self) -> bool:
        is_storing = self._supervisor.pending or not self._committer.is_idle
        return bool(self.stats().in_flight or is_storing or self._relay.is_publishing)

    def _committed(self, transition: Transition) -> None:
        tell(transition)
        if transition.appends:
            self.projections.wake()
        instance = transition.instance
        if instance is not None:
            if self._acting:
                self._timers.committed(instance)
            if self._ends and instance.status.is_end and instance.address in self._ends:
                for settlement in self._ends.pop(instance.address):
                    settlement(instance)
        if self._acting:
            self._relay.committed(transition)


async def _not_cancelled_by_nobody(loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop. A driver that cancels what it waits for would end it without a word: that is an error here."""
    try:
        await loop()
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            raise RuntimeError("a loop was cancelled by nobody: a driver's mistake") from error
        raise


class Settlement(asyncio.Future[Any]):
    """What one who waits for a commit is told, once."""

    def __call__(self, told: Any) -> None:
        if not self.done():
            self.set_result(told)


class _AppendUntilKnown:
    """Tells what became of a transition, in a list for it may be an error; gives it again until that is known."""

    def __init__(self, committer: Committer) -> None:
        self.settlement = Settlement()
        self._committer = committer

    def __call__(self, transition: Transition, result: Result | Exception) -> None:
        if isinstance(result, StoreUnavailable):
            self._committer.add(transition, self)
        else:
            self.settlement([result])


@contextmanager
def _out_of_its_group(known: BaseException | None = None) -> Generator[None]:
    """Raise an error by itself that a task group wrapped, unless its raiser has it: it is `known`."""
    try:
        yield
    except BaseExceptionGroup as group:
        only = group.exceptions[0]
        if any(other is not only for other in group.exceptions):
            raise
        if only is not known:
            raise only from None


def _texts(troubles: Sequence[Trouble]) -> str:
    return "; ".join(dict.fromkeys(trouble.text for trouble in troubles if trouble.text))


def _recovered(counts: Counts) -> Recovered:
    is_open = {status.value for status in Status if not status.is_end}
    return Recovered(
        instances=sum(n for saga in counts.instances.values() for status, n in saga.items() if status in is_open),
        outbox=counts.outbox,
        waiting=counts.waiting,
        overdue=counts.overdue,
        parked=counts.parked,
        dead=counts.dead,
    )
