"""`orchestrator run`: the daemon, in the foreground."""

from __future__ import annotations

import gc
import sys
from functools import partial
from importlib.util import find_spec

import anyio
import click

from ..daemon import serve
from ..logs import LogFormat, logging_to
from .options import app_option, bus_option, store_option
from .session import Session, with_session

COLLECT_AFTER = 10_000  # new containers: ten times the default, which took a fifteenth of the time under load


@click.command
@click.argument("place", metavar="[APP]", default="")
@click.option("--until-idle", is_flag=True, help="Leave when nothing is left to do at once.")
@click.option("--log", type=click.Choice(["auto", "text", "json"]), help="Readable lines, or one JSON object a line.")
@store_option
@bus_option
@app_option
@with_session
def run(session: Session, place: str, until_idle: bool, log: str | None) -> None:
    """Host the sagas of APP (module:attribute or file.py:attribute) until SIGTERM or Ctrl-C.

    \b
    The first signal finishes what is in flight, within 10 s; a second Ctrl-C leaves at once.
    What was under way goes on at the next start. The log goes to stderr.
    """
    session.given.app = place or session.given.app
    settings, app = session.settings, session.app
    gc.freeze()  # what is loaded stays for good: no need to look at it again and again
    gc.set_threshold(COLLECT_AFTER)
    options = {"use_uvloop": find_spec("uvloop") is not None}
    with logging_to(style=_style(log or settings.log), level=settings.level):
        anyio.run(partial(serve, app, settings, until_idle=until_idle), backend="asyncio", backend_options=options)


def _style(asked: str) -> LogFormat:
    if asked == "auto":
        return LogFormat.TEXT if sys.stderr.isatty() else LogFormat.JSON
    return LogFormat(asked)
