"""`bus show` and `bus setup`: what an app needs of its broker, there or not; and what `doctor --connect` asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import click
from msgspec import Struct

from ...errors import BusUnavailable, ConfigError
from ...ports import Bus, Place, Topology
from ...topics import Topics
from ...urls import open_bus
from .. import client, view
from ..output import Cell, hidden_password
from ..places import store_file
from ..protocol import Hosts
from .options import Function, bus_option, common_options
from .session import Session, with_session

if TYPE_CHECKING:
    from ...app import App

PATIENCE_S = 60.0  # with a broker that takes long

T = TypeVar("T")


class PlaceView(Struct, frozen=True):
    """A stream, topic, exchange, queue or consumer of the broker; `note`: what a person should know of it; `group`: who
    needs it.
    """

    what: str
    name: str
    exists: bool
    note: str
    group: str


def hosts_options(function: Function) -> Function:
    """--sagas-only and --work, for a verb: which processes the broker is for."""
    work = click.option("--work", is_flag=True, help="Also for `work`, the worker.")
    sagas_only = click.option(
        "--sagas-only/--no-sagas-only",
        default=None,
        help="For `run --sagas-only`, or for `run`.  [default: as the daemon runs, if one does, else `run`]",
    )
    return sagas_only(work(function))


@click.command("show")
@click.argument("place", metavar="[APP]", default="")
@hosts_options
@bus_option
@common_options
@with_session
def bus_show(session: Session, place: str, sagas_only: bool | None, work: bool) -> None:
    """What the app needs of the broker, and whether it is there. Nothing is made.

    In a pipe: what, name, there or missing, group, note.

    JSON: items (what, name, exists, note, group), next.
    """
    session.given.app = place or session.given.app
    topologies = needed(session, _noted(session, sagas_only=sagas_only), work=work)
    _print(session, at_broker(session, lambda bus: survey(bus, topologies)))


@click.command("setup")
@click.argument("place", metavar="[APP]", default="")
@hosts_options
@bus_option
@common_options
@with_session
def bus_setup(session: Session, place: str, sagas_only: bool | None, work: bool) -> None:
    """Make at the broker what the app needs and is missing; what is there stays as it is.

    From then on the broker keeps what is sent to the app, whether or not it runs.

    In a pipe: what, name, made or there or missing, group, note.

    JSON: items (what, name, exists, note, group), made (how many), next.
    """
    session.given.app = place or session.given.app
    topologies = needed(session, _noted(session, sagas_only=sagas_only), work=work)
    before, after = at_broker(session, lambda bus: _set_up(bus, topologies))
    there = {(it.what, it.name) for it in before if it.exists}
    made = {(it.what, it.name) for it in after if it.exists} - there
    if session.output.as_json:
        session.output.json({"items": after, "made": len(made), "next": None})
        return
    _print(session, after, made)


def _noted(session: Session, *, sagas_only: bool | None) -> Hosts:
    hosts = asked_for(session, sagas_only=sagas_only)
    if sagas_only is None and hosts is not Hosts.ALL:
        session.output.note(f"for {hosts.words}, as the daemon runs; --no-sagas-only is for all of the app")
    return hosts


def asked_for(session: Session, *, sagas_only: bool | None) -> Hosts:
    """How much of the app the broker is for: as the flag says, else as the daemon that runs the app on this store was
    started, else all. Errors: AppError without an app.
    """
    if sagas_only is not None:
        return Hosts.SAGAS if sagas_only else Hosts.ALL
    path = store_file(session.settings.store)
    daemon = view.daemon(client.ping(path)) if path is not None else None
    return daemon.hosts if daemon is not None and daemon.app == session.app.name else Hosts.ALL


def needed(session: Session, hosts: Hosts, *, work: bool) -> list[Topology]:
    """What each process of the app needs: the one that hosts so much, and with `work` a worker beside it.

    Errors: ConfigError without a bus, AppError without an app.
    """
    settings = session.settings
    if not settings.bus:
        raise ConfigError("there is no bus: name one with --bus, as --bus nats://localhost:4222")
    parts = {hosts, Hosts.WORK} if work else {hosts}
    apps = [_part(session.app, each) for each in Hosts if each in parts]
    return [Topics(each, settings.topics).topology() for each in apps]


def _part(app: App[Any], hosts: Hosts) -> App[Any]:
    match hosts:
        case Hosts.ALL:
            return app
        case Hosts.SAGAS:
            return app.sagas_only()
        case Hosts.WORK:
            return app.work_only()


def at_broker(session: Session, ask: Callable[[Bus], Awaitable[T]]) -> T:
    """What the broker answers. Errors: BusUnavailable, ConfigError."""
    return asyncio.run(_ask(session.settings.bus, ask))


async def _ask(url: str, ask: Callable[[Bus], Awaitable[T]]) -> T:
    with anyio.move_on_after(PATIENCE_S):
        async with open_bus(url) as bus:
            return await ask(bus)
    raise BusUnavailable(f"{hidden_password(url)} has not answered within {PATIENCE_S:g} s")


async def survey(bus: Bus, topologies: Sequence[Topology]) -> list[PlaceView]:
    """Everything that is needed, once."""
    found: dict[tuple[str, str], PlaceView] = {}
    for topology in topologies:
        for it in await bus.survey(topology):
            found.setdefault((it.what, it.name), _view(it, topology))
    return list(found.values())


async def _set_up(bus: Bus, topologies: Sequence[Topology]) -> tuple[list[PlaceView], list[PlaceView]]:
    """What there was before, and after."""
    before = await survey(bus, topologies)
    for topology in topologies:
        await bus.set_up(topology)
    return before, await survey(bus, topologies)


def _view(place: Place, topology: Topology) -> PlaceView:
    return PlaceView(place.what, place.name, place.exists, place.note, topology.group)


def _print(session: Session, places: Sequence[PlaceView], made: Collection[tuple[str, str]] = ()) -> None:
    rows = [
        [
            Cell(it.what),
            Cell(it.name),
            _state(it, is_made=(it.what, it.name) in made),
            Cell(it.group),
            Cell(it.note),
        ]
        for it in places
    ]
    session.output.items(("WHAT", "NAME", "STATE", "FOR", "NOTE"), rows, places, nothing="the app needs nothing of it")


def _state(it: PlaceView, *, is_made: bool) -> Cell:
    if is_made:
        return Cell("made", style="green")
    return Cell("there") if it.exists else Cell("missing", style="yellow")
