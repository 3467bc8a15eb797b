"""The orchestrator inside a program of one's own: the same engine, without a daemon."""

from __future__ import annotations

import sqlite3
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast, overload

import anyio
from msgspec import Raw, Struct

from ..app import App
from ..config import NO_WEBHOOK_SETTINGS, Limits, WebhookSettings
from ..definition import definition_of
from ..errors import NotFound, OrchestratorError, Refused
from ..event_log import EventLog
from ..machine import migrate
from ..machine.instance import Instance, Status
from ..machine.transition import Outcome
from ..messages import Event, encode, type_name, type_version
from ..ports import Bus, Clock, Find, Page, Store
from ..projecting.files import Pause
from ..projecting.looking import Seen
from ..projection import Projection
from ..recorded import Appended
from ..saga import Saga, decode_state
from ..topics import NO_SETTINGS, TopicSettings
from ..urls import open_bus, open_store
from ..wire import Address, Envelope, Kind, Request, Verb
from .chance import new_id
from .engine import Accepted, Engine, Stats
from .webhooks import Webhooks

S = TypeVar("S", bound=Saga)

_LIMITS = Limits()


class End(Struct, Generic[S], frozen=True):
    """How a run ended: completed, compensated or killed, with the saga's last state."""

    status: Status
    state: S
    address: Address


class Orchestrator:
    """Runs an app's sagas inside this program, on a store of its own; nobody else may write that store meanwhile.

        async with Orchestrator(app, store="sqlite:///shop.db") as orchestrator:
            run = await orchestrator.start(OrderPlaced("1", items, total))
            end = await run.end()

    Entering takes up what an earlier program left unfinished. Leaving lets the calls that run finish, for at most
    `limits.drain_s` seconds; what is unfinished then is taken up at the next start.
    """

    def __init__(
        self,
        app: App[Any],
        store: str | Store = "sqlite:///orchestrator.db",
        bus: str | Bus | None = None,
        *,
        limits: Limits = _LIMITS,
        topics: TopicSettings = NO_SETTINGS,
        webhooks: WebhookSettings = NO_WEBHOOK_SETTINGS,
        clock: Clock | None = None,
    ) -> None:
        """`store` and `bus` are URLs or opened by this object; `topics` says how those of the bus are named, and
        `webhooks` where those may go.
        Errors: ConfigError, for a URL that names nothing.
        """
        self._app = app
        self._starting: dict[str, list[str]] = {}  # wire type -> names of the sagas that it starts
        for name, definition in app.sagas.items():
            for wire_type in definition.starters:
                self._starting.setdefault(wire_type, []).append(name)
        self._limits = limits
        self._engine = Engine(
            app,
            open_store(store) if isinstance(store, str) else store,
            open_bus(bus) if isinstance(bus, str) else bus,
            limits=limits,
            topics=topics,
            webhooks=webhooks,
            clock=clock,
        )

    async def __aenter__(self) -> Self:
        """Errors: StoreLocked and what else the store raises; AppError, if the app does not fit what is stored."""
        await self._engine.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self._engine.drain(self._limits.drain_s)
        await self._engine.__aexit__(kind, error, trace)

    @overload
    async def start(self, event: Event, saga: None = None, *, id: str = "") -> Run[Any]: ...
    @overload
    async def start(self, event: Event, saga: type[S], *, id: str = "") -> Run[S]: ...
    async def start(self, event: Event, saga: type[Saga] | None = None, *, id: str = "") -> Run[Any]:
        """Send an event that starts a saga, and return its run when the start is on disk.

        An event that starts several sagas starts them all: `saga` says whose run is wanted. With an `id`, a second
        call with the same one changes nothing. If the key has started before, this is that run (R13).
        Errors: OrchestratorError, if the event starts none, or several and `saga` is not given; as `emit`.
        """
        name = self._started_by(event, saga)
        accepted = await self.emit(event, id=id)
        for target, _ in accepted.outcomes:
            if target.startswith(f"{name}/"):
                return self._run(name, target.removeprefix(f"{name}/"))
        raise OrchestratorError(f"{type_name(type(event))} named no {name}")

    async def emit(self, event: Event, *, id: str = "") -> Accepted:
        """Send an event to every saga and listener that wants it; it is on disk when this returns.

        With an `id`, a second call with the same one changes nothing. Errors: BadMessage, if it names no instance, or
        nobody wants it; NotAccepting, if the store is full.
        """
        cls = type(event)
        envelope = Envelope(
            id=id or new_id(),
            kind=Kind.EVENT,
            type=type_name(cls),
            data=Raw(encode(event)),
            time=self._engine.clock.now(),
            version=type_version(cls),
        )
        return await self._engine.accept(envelope)

    @property
    def events(self) -> EventLog:
        """Streams of events on this orchestrator's store. Errors of its appends besides their own: NotAccepting."""
        return self._engine.events

    def projection(self, projection: type[Projection] | str) -> ReadModel:
        """A projection of the app. Errors: NotFound, if it has none of this name."""
        name = projection if isinstance(projection, str) else projection.__name__
        return ReadModel(self._engine, name)

    @property
    def webhooks(self) -> Webhooks:
        """Who gets the boundary events, over HTTP: `await orchestrator.webhooks.add(url)`, `pause`, `rotate`, ..."""
        return self._engine.webhooks

    def get(self, saga: type[S], key: str | int) -> Run[S]:
        """The run of this saga and key, whether or not there is one."""
        return cast(Run[S], self._run(definition_of(saga).name, str(key)))

    async def find(self, query: Find = Find()) -> Page:  # noqa: B008 frozen
        """Instances by filter, the newest started first."""
        return await self._engine.store.find(query)

    async def until_idle(self) -> None:
        """Wait until nothing moves by itself but the timers of waiting steps."""
        await self._engine.until_idle()

    def stats(self) -> Stats:
        """What is going on at this moment."""
        return self._engine.stats()

    def _run(self, saga: str, key: str) -> Run[Any]:
        return Run(self._engine, Address(saga, key))

    def _started_by(self, event: Event, saga: type[Saga] | None) -> str:
        wire_type = type_name(type(event))
        starting = self._starting.get(wire_type, [])
        if saga is not None:
            starting = [name for name in starting if self._app.sagas[name].cls is saga]
        if len(starting) == 1:
            return starting[0]
        if not starting:
            wanted = f"a {saga.__name__}" if saga is not None else "a saga"
            raise OrchestratorError(f"{wire_type} does not start {wanted} of app {self._app.name}")
        raise OrchestratorError(f"{wire_type} starts {' and '.join(starting)}: say which run you want with saga=")


class ReadModel:
    """A projection that this program keeps. Errors of all: NotFound, if the app has none of this name."""

    def __init__(self, engine: Engine, name: str) -> None:
        """Made by `Orchestrator.projection`."""
        self._engine = engine
        self.name = name

    def open(self) -> sqlite3.Connection:
        """A connection for reading its tables, as `open_projection` gives. Errors: NotFound, if it is not built yet:
        `reached` waits for that.
        """
        return self._engine.projections.read(self.name)

    async def reached(self, appended: Appended | int) -> None:
        """Wait until its tables have what was appended then: what a position, or an append, tells.

        Errors: OrchestratorError, if an event has stopped it.
        """
        position = appended if isinstance(appended, int) else appended.position
        await self._engine.projections[self.name].reached(position)

    async def rebuild(self) -> None:
        """Build it anew from the first event on, beside the one that is read meanwhile; return when readers get it.

        Errors: Refused, while it is paused; OrchestratorError, if an event stops it.
        """
        projector = self._engine.projections[self.name]
        await projector.built(await projector.rebuild())

    async def pause(self, why: str = "") -> None:
        """Leave it as it is, also over a restart, until `resume`. Errors: Refused, if it is paused."""
        now = self._engine.clock.now()
        await self._engine.projections[self.name].pause(Pause(self._engine.app.name, now, why))

    async def resume(self) -> None:
        """Let it go on, after a pause or at the event that stopped it. Errors: Refused, if it runs."""
        await self._engine.projections[self.name].resume()

    async def look(self) -> Seen:
        """How it stands: how far behind, and why, if it has stopped."""
        return await self._engine.projections.look(self.name)


class Run(Generic[S]):
    """One instance, by its saga and key. Errors of all but `address`: NotFound, if there is no such instance.

    The verbs are an operator's (R17): Refused, if the instance is not in a state for them; `why` is kept with it.
    """

    def __init__(self, engine: Engine, address: Address) -> None:
        """Made by `Orchestrator.start` and `.get`."""
        self._engine = engine
        self.address = address

    async def end(self, timeout: float | None = None) -> End[S]:  # noqa: ASYNC109 the page of the design has it so
        """Wait for the end. Errors: TimeoutError after so many seconds; the run goes on then."""
        if timeout is None:
            instance = await self._engine.ended(self.address)
        else:
            instance = await self._ended_within(timeout)
        return End(instance.status, self._state_of(instance), self.address)

    async def _ended_within(self, seconds: float) -> Instance:
        with anyio.move_on_after(seconds):
            return await self._engine.ended(self.address)
        raise TimeoutError(f"{self.address} has not ended within {seconds:g} s")

    async def status(self) -> Status:
        """Where it stands now."""
        return (await self._instance()).status

    async def state(self) -> S:
        """The saga's state now."""
        return self._state_of(await self._instance())

    async def cancel(self, why: str = "") -> None:
        """Undo what was done; nothing changes past the pivot."""
        await self._do(Verb.CANCEL, Request(why=why))

    async def kill(self, why: str) -> None:
        """Stop at once, without undoing anything."""
        await self._do(Verb.KILL, Request(why=why))

    async def pause(self, why: str = "") -> None:
        """Apply messages, but hold what they send."""
        await self._do(Verb.PAUSE, Request(why=why))

    async def resume(self, why: str = "") -> None:
        """Send what was held."""
        await self._do(Verb.RESUME, Request(why=why))

    async def retry(self, step: str = "", why: str = "") -> None:
        """Try again what is parked, or waits for its next attempt."""
        await self._do(Verb.RETRY, Request(step=step, why=why))

    async def skip(self, step: str, why: str = "", *, undo: bool = True) -> None:
        """Pass by a step, or leave its effect standing when it is being undone; `undo=False` takes its undo out too."""
        await self._do(Verb.SKIP, Request(step=step, why=why, undo=undo))

    async def done(self, step: str, reply: Event | None = None, why: str = "") -> None:
        """Say that a step, or its undo, is done; `reply` is what its handler gets."""
        if reply is None:
            request = Request(step=step, why=why)
        else:
            request = Request(step=step, why=why, reply=Raw(encode(reply)), reply_type=type_name(type(reply)))
        await self._do(Verb.DONE, request)

    async def drop(self, why: str = "") -> None:
        """Give up the message that the instance is parked over (R15)."""
        await self._do(Verb.DROP, Request(why=why))

    async def _do(self, verb: Verb, request: Request) -> None:
        transition = await self._engine.verb(self.address, verb, request, self._engine.app.name)
        if transition.outcome is Outcome.REFUSED:
            raise Refused("; ".join(transition.notes))

    async def _instance(self) -> Instance:
        [instance] = await self._engine.store.load([self.address])
        if instance is None:
            raise NotFound(f"there is no {self.address}")
        return instance

    def _state_of(self, instance: Instance) -> S:
        definition = self._engine.app.sagas[self.address.saga]
        return cast(S, decode_state(definition, migrate(definition, instance).state))
