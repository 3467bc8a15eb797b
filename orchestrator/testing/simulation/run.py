"""One run of a scenario under one plan of faults, from the first message until everything is over."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
import msgspec
from msgspec import Raw, Struct

from ...app import App
from ...checking.audit import Books, Delivered, Effect, audit
from ...cloudevents import received, to_cloud_event
from ...config import Limits
from ...errors import NotAccepting, NotFound, OrchestratorError, StoreError
from ...machine import Instance
from ...messages import Event, encode, type_name, type_version
from ...ports import MAX_PAGE, BusMessage, Find, Store
from ...runtime.engine import Engine
from ...topics import NO_SETTINGS, Topics, TopicSettings
from ...wire import Address, Envelope, Kind, Outgoing, Request, Route, Verb
from .faults import CRASH_S, Fault, Plan, Port
from .loop import SimulatedLoop, Stuck, repeatable
from .ports import Broker, Disk, MemoryDisk, SimulatedBus, SimulatedClock, SimulatedStore, simulated
from .world import Life, World

HORIZON_S = 12 * 3_600.0
MAX_LIVES = 40
SHORTEST_S = 0.5  # of waiting for a timer
LOOK_AGAIN_S = 10.0  # whether something is still under way outside
AGAIN_S = 1.0  # until a client sends again what was not accepted
PATIENCE = 30  # times that an operator asks something of an instance that is not there yet
HELP = 8  # times that an operator lets a parked instance try again
HELP_AFTER_S = 300.0


class Tell(Struct, frozen=True):
    """A client sends an event at so many seconds, again and again until it is accepted."""

    at: float
    event: Event


class Ask(Struct, frozen=True):
    """An operator asks something of an instance."""

    at: float
    address: Address
    verb: Verb
    request: Request = Request(why="simulated")


class Restart(Struct, frozen=True):
    """The process is killed, and what starts then may have other code."""

    at: float


Line = Tell | Ask | Restart


class Outside:
    """What outlives the process: the databases of participants, other services on the bus. To be subclassed.

    effects   what participants did and undid, in order; it is audited
    delivered calls that came to participants elsewhere; those of this process are known
    complete  the types of the commands all of whose effects are among them
    """

    complete: tuple[str, ...] = ()

    def __init__(self) -> None:
        """Nothing was done yet."""
        self.effects: list[Effect] = []
        self.delivered: list[Delivered] = []

    @property
    def is_busy(self) -> bool:
        """Whether something outside is still under way."""
        return False

    async def background(self, broker: Broker) -> None:
        """Other services; they begin again whenever the process does."""


class Scenario(Struct, frozen=True, kw_only=True):
    """What is simulated.

    app       makes the app of the n-th life, from 1, on what `outside` made
    outside   makes what outlives the process
    lines     what happens from outside
    on_bus    whether events come over the bus, and what nobody here carries out goes over it
    topics    how the topics of the bus are named, and what is plain JSON there
    disk      makes the disk
    is_steady whether it ends the same however long everything takes
    has_bugs  whether a handler of its sagas raises; else nothing may park over a bug, whatever goes wrong outside
    settled   what must be true of the instances at the end; gives sentences about what is not
    """

    name: str
    app: Callable[[Any, int], App[Any]]
    lines: tuple[Line, ...]
    outside: Callable[[], Outside] = Outside
    on_bus: bool = False
    topics: TopicSettings = NO_SETTINGS
    disk: Callable[[], Disk] = MemoryDisk
    is_steady: bool = True
    has_bugs: bool = False
    limits: Limits = Limits()
    settled: Callable[[Sequence[Instance], Any], list[str]] = lambda instances, outside: []


class Played(Struct, frozen=True, kw_only=True):
    """How one run went.

    digest   of everything that happened, in order
    calls    each port call: number n is calls[n - 1]
    fired    the faults that came to pass
    wrong    what must not be, each beginning with its invariant
    ends     of every instance: its address, and its status or "parked"
    seconds  of virtual time
    """

    digest: str
    calls: tuple[tuple[Port, str], ...]
    fired: tuple[tuple[int, Fault], ...]
    wrong: tuple[str, ...]
    ends: tuple[tuple[str, str], ...]
    seconds: float
    lives: int
    transitions: int


def play(scenario: Scenario, plan: Plan, seed: int) -> Played:
    """Run it once, without logs. The same scenario, plan and seed give the same digest in every process."""
    with repeatable(), _silence():
        return _Run(scenario, plan, seed).play()


@contextmanager
def _silence() -> Generator[None]:
    """Without what is logged of every simulated error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class _Run:
    def __init__(self, scenario: Scenario, plan: Plan, seed: int) -> None:
        self._scenario = scenario
        self._world = World(plan, seed)
        self._disk = scenario.disk()
        self._broker = Broker()
        self._outside = scenario.outside()
        self._accepted: dict[str, str | Envelope] = {}
        self._delivered: list[Delivered] = []
        self._said: set[int] = set()
        self._helped: dict[Address, int] = {}
        self._is_over = False
        self._loops: list[SimulatedLoop] = []

    def play(self) -> Played:
        lives = 0
        now = 0.0
        try:
            while not self._is_over and not self._world.wrong:
                lives += 1
                if lives > MAX_LIVES:
                    self._world.wrong.append(f"L1 it was started {MAX_LIVES} times and has not come to rest")
                    break
                now = self._live(lives, now) + CRASH_S
            return self._judged(lives, now)
        finally:
            for loop in self._loops:
                loop.bury()
            self._disk.clean()

    def _loop(self, now: float) -> SimulatedLoop:
        loop = SimulatedLoop(now, HORIZON_S)
        self._loops.append(loop)
        return loop

    def _live(self, number: int, now: float) -> float:
        """From a start to an end of the process; when that is."""
        loop = self._loop(now)
        life = Life(self._world, loop)
        self._world.note(f"life {number} begins at {now:.6f}")
        try:
            loop.run(self._main(life, number))
        except Stuck as stuck:
            self._world.wrong.append(f"L1 {stuck}: {self._stuck_at()}")
        life.is_dead = True
        if not self._is_over:
            self._disk.crash()
        return loop.now

    def _stuck_at(self) -> str:
        return "; ".join(what for _, what in self._world.calls[-3:])

    async def _main(self, life: Life, number: int) -> None:
        await self._broker.restart_members()
        app = simulated(self._scenario.app(self._outside, number), life, self._seen)
        store = SimulatedStore(life, self._disk.store())
        bus = SimulatedBus(life, self._broker) if self._scenario.on_bus else None
        try:
            clock, limits, topics = SimulatedClock(life), self._scenario.limits, self._scenario.topics
            async with Engine(app, store, bus, clock=clock, limits=limits, topics=topics) as engine:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._outside.background, self._broker)
                    await self._play_lines(engine, life)
                    await self._come_to_rest(engine, life, store.inner)
                    tasks.cancel_scope.cancel()
                await engine.drain(10)
            self._is_over = True
        except* OrchestratorError as group:  # the process exits, and is started again
            self._world.note(f"it stops: {group.exceptions[0]}")
        except* Exception as group:  # noqa: BLE001 whatever it is, it is wrong
            self._world.wrong.append(f"L1 the engine raises {group.exceptions[0]!r}")

    def _seen(self, call: Any, data: bytes) -> None:
        self._delivered.append(Delivered(call.key, call.undoes, call.attempt, data))

    # What comes from outside.

    async def _play_lines(self, engine: Engine, life: Life) -> None:
        async with anyio.create_task_group() as tasks:
            for number, line in enumerate(self._scenario.lines):
                if number not in self._said:
                    tasks.start_soon(self._say, engine, life, number, line)

    async def _say(self, engine: Engine, life: Life, number: int, line: Line) -> None:
        await anyio.sleep(max(0.0, line.at - life.loop.now))
        match line:
            case Restart():
                self._said.add(number)
                await life.die()
            case Ask():
                await self._ask(engine, life, f"verb{number}", line)
            case Tell() if self._scenario.on_bus:
                message, event = self._message(_envelope(f"event{number}", line.event), engine.app)
                await self._broker.bus.publish([message])
                self._accepted[event.id] = event
            case Tell():
                event = _envelope(f"event{number}", line.event)
                await self._sent(life, event, lambda: engine.accept(event))
        self._said.add(number)

    def _message(self, event: Envelope, app: App[Any]) -> tuple[BusMessage, Envelope]:
        """An event on its way, and as it comes; where the settings say so, it is sent without CloudEvents."""
        topics = Topics(app, self._scenario.topics)
        topic = topics.of(Outgoing(event.id, Route.EVENT, event))
        if topics.plain(topic) is None:
            return BusMessage(topic, to_cloud_event(event, "/outside")), event
        body = bytes(event.data)
        return BusMessage(topic, body), received(body, {}, topics.plain(topic)).envelope

    async def _ask(self, engine: Engine, life: Life, id: str, line: Ask) -> None:
        for _ in range(PATIENCE):
            try:
                await self._sent(
                    life, id, lambda: engine.verb(line.address, line.verb, line.request, "operator", id=id)
                )
            except NotFound:
                await anyio.sleep(AGAIN_S)
            else:
                return

    async def _sent(self, life: Life, message: str | Envelope, send: Callable[[], Awaitable[object]]) -> None:
        id = message if isinstance(message, str) else message.id
        while True:
            try:
                await life.port(Port.SEND, id, send, NotAccepting)
            except (NotAccepting, StoreError):
                await anyio.sleep(AGAIN_S)
            else:
                self._accepted[id] = message
                return

    # Until everything is over.

    async def _come_to_rest(self, engine: Engine, life: Life, store: Store) -> None:
        while True:
            await engine.until_idle()
            wake = await store.next_wake()
            retry = await store.next_due()
            due = [at for at in (wake, retry) if at is not None]
            if due:
                await anyio.sleep(max(SHORTEST_S, min(due) - life.wall()))
            elif self._broker.is_busy or self._outside.is_busy:
                await anyio.sleep(LOOK_AGAIN_S)
            elif not await self._help(engine, store):
                return

    async def _help(self, engine: Engine, store: Store) -> bool:
        """What an operator does with what is parked: let it try again. Whether anything was done."""
        page = await store.find(Find(parked=True, limit=MAX_PAGE))
        if not self._scenario.has_bugs:
            self._world.wrong += [
                f"R15 {one.address} is parked over a bug: {one.parked}" for one in page.items if one.bug
            ]
        again = [one.address for one in page.items if self._helped.get(one.address, 0) < HELP]
        for address in again:
            self._helped[address] = self._helped.get(address, 0) + 1
            await anyio.sleep(HELP_AFTER_S)
            id = f"help{self._helped[address]} {address}"
            await engine.verb(address, Verb.RETRY, Request(why="simulated"), "operator", id=id)
        return bool(again)

    # What has become of it.

    def _judged(self, lives: int, seconds: float) -> Played:
        found: list[tuple[tuple[Instance, ...], int]] = []
        if not self._world.wrong:
            self._loop(seconds).run(self._audit(found))
        instances, transitions = found[0] if found else ((), 0)
        for one in instances:
            self._world.note(msgspec.json.encode(one).decode())
        return Played(
            digest=self._world.digest,
            calls=tuple(self._world.calls),
            fired=tuple(self._world.fired),
            wrong=tuple(self._world.wrong),
            ends=tuple((str(one.address), "parked" if one.parked else str(one.status)) for one in instances),
            seconds=seconds,
            lives=lives,
            transitions=transitions,
        )

    async def _audit(self, found: list[tuple[tuple[Instance, ...], int]]) -> None:
        app = self._scenario.app(self._outside, MAX_LIVES)
        books = Books(
            accepted=tuple(self._accepted.values()),
            delivered=(*self._delivered, *self._outside.delivered),
            effects=tuple(self._outside.effects),
            complete=self._outside.complete,
        )
        async with self._disk.store() as store:
            report = await audit(app, store, books, idle=True)
            self._world.wrong += report.violations
            page = await store.find(Find(limit=MAX_PAGE))
            instances = tuple(sorted(page.items, key=lambda one: one.address))
            self._world.wrong += self._scenario.settled(instances, self._outside)
            found.append((instances, report.transitions))


def _envelope(id: str, event: Event) -> Envelope:
    cls = type(event)
    return Envelope(id=id, kind=Kind.EVENT, type=type_name(cls), data=Raw(encode(event)), version=type_version(cls))
