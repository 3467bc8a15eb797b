"""`orchestrator run` and `orchestrator work`: the daemon, in the foreground."""

from __future__ import annotations

import gc
import sys
from functools import partial
from importlib.util import find_spec
from typing import Any

import anyio
import click
from msgspec.structs import replace

from ...app import App
from ...config import Settings
from ...errors import AppError, ConfigError
from ..daemon import serve
from ..logs import LogFormat, logging_to
from ..protocol import Hosts
from .options import app_option, bus_option, store_option
from .session import Session, with_session

COLLECT_AFTER = 10_000  # new containers: ten times the default, which took a fifteenth of the time under load

log_option = click.option(
    "--log", type=click.Choice(["auto", "text", "json"]), help="Readable lines, or one JSON object a line."
)
idle_option = click.option("--until-idle", is_flag=True, help="Leave when nothing is left to do at once.")


@click.command
@click.argument("place", metavar="[APP]", default="")
@idle_option
@click.option("--sagas-only", is_flag=True, help="Participants and listeners are elsewhere: see `work`.")
@log_option
@store_option
@bus_option
@app_option
@with_session
def run(session: Session, place: str, until_idle: bool, sagas_only: bool, log: str | None) -> None:
    """Host the sagas of APP (module:attribute or file.py:attribute) until SIGTERM or Ctrl-C.

    The first signal finishes what is in flight, within 10 s; a second Ctrl-C leaves at once.
    What was under way goes on at the next start. The log goes to stderr.
    """
    session.given.app = place or session.given.app
    app, hosts = (session.app.sagas_only(), Hosts.SAGAS) if sagas_only else (session.app, Hosts.ALL)
    _host(app, hosts, session.settings, until_idle, log)


@click.command
@click.argument("place", metavar="[APP]", default="")
@idle_option
@log_option
@store_option
@bus_option
@app_option
@with_session
def work(session: Session, place: str, until_idle: bool, log: str | None) -> None:
    """Host the participants and listeners of APP, without its sagas, behind a bus.

    Commands come from the bus and are answered there: a saga's daemon anywhere sends them.
    Each keeps what it must remember in its own store, by default beside the sagas':
    `shop.work.db` for `shop.db`. Stopping is as that of `run`.
    """
    session.given.app = place or session.given.app
    settings, app = session.settings, session.app.work_only()
    if not settings.bus:
        raise ConfigError("commands come to a worker by a bus: name one with --bus, as --bus nats://localhost:4222")
    if not (app.participants or app.listeners):
        raise AppError(f"app {app.name!r} has no participants and no listeners: there is nothing to work at")
    if not session.given.store:
        settings = replace(settings, store=work_store(settings.store))
    _host(app, Hosts.WORK, settings, until_idle, log)


def work_store(url: str) -> str:
    """The store of a worker that stands beside that of the sagas."""
    place, dot, suffix = url.rpartition(".")
    if not url.startswith("sqlite:") or "/" in suffix or not dot:
        return url
    return f"{place}.work.{suffix}"


def _host(app: App[Any], hosts: Hosts, settings: Settings, until_idle: bool, log: str | None) -> None:
    gc.freeze()  # what is loaded stays for good: no need to look at it again and again
    gc.set_threshold(COLLECT_AFTER)
    options = {"use_uvloop": find_spec("uvloop") is not None}
    serving = partial(serve, app, settings, hosts=hosts, until_idle=until_idle)
    with logging_to(style=_style(log or settings.log), level=settings.level):
        anyio.run(serving, backend="asyncio", backend_options=options)


def _style(asked: str) -> LogFormat:
    if asked == "auto":
        return LogFormat.TEXT if sys.stderr.isatty() else LogFormat.JSON
    return LogFormat(asked)
