"""What a verb works with: the settings in force, the store, the app, the way out."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from datetime import datetime
from functools import cached_property, update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from ...config import Settings
from ...errors import AppError, NotFound, OrchestratorError
from ...event_log import EventStore
from ...machine.instance import headline
from ...nearest import nearest
from ...ports import Counts
from ...urls import open_store
from ...wire import Address
from ..output import Output, shell_word
from ..settings import load_settings
from ..view import moment
from .options import Given

if TYPE_CHECKING:
    from ...app import App
    from ...definition import Definition

P = ParamSpec("P")
R = TypeVar("R")


class Session:
    """One call of the command line. Settings, app and store are looked for when first asked for."""

    def __init__(self, given: Given) -> None:
        """From what the common options said."""
        self.given = given
        self.output = Output(given.json)

    @cached_property
    def configured(self) -> tuple[Settings, dict[str, str]]:
        """The settings, and where each comes from. Errors: ConfigError."""
        flags = {"store": self.given.store, "app": self.given.app, "bus": self.given.bus}
        return load_settings(flags, os.environ, Path.cwd())

    @property
    def settings(self) -> Settings:
        """The settings in force. Errors: ConfigError."""
        return self.configured[0]

    @cached_property
    def app(self) -> App[Any]:
        """The app. Errors: AppError, with the remedy when none is given."""
        if not self.settings.app:
            raise AppError(
                "this needs the app's classes: give --app module:attribute, or set ORCHESTRATOR_APP, "
                'or write app = "..." into orchestrator.toml'
            )
        from ...app import load_app  # with it come the saga and participant machinery, which few verbs need

        return load_app(self.settings.app, Path(self.settings.app_dir))

    def definition_if_known(self, saga: str) -> Definition | None:
        """The saga's definition where an app is configured and loads."""
        app = self.app_if_known()
        return None if app is None else app.sagas.get(saga)

    def app_if_known(self) -> App[Any] | None:
        """The app where one is configured and loads; a reading verb goes on without it."""
        if not self.settings.app:
            return None
        try:
            return self.app
        except OrchestratorError as error:
            self.output.note(f"without the app's classes: {headline(str(error))}")
            return None

    def reading(self) -> EventStore:
        """The store, to be opened with `async with`, for reading beside a daemon. Errors: ConfigError."""
        return open_store(self.settings.store, read_only=True)

    def command(self, *words: str) -> str:
        """A command line to paste, for the same store as this one."""
        store = ("--store", self.given.store) if self.given.store else ()
        return " ".join(("orchestrator", *(shell_word(word) for word in (*words, *store))))

    def now(self) -> datetime:
        """The moment, UTC."""
        return moment(time.time())


def with_session(function: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
    """Hand a verb its Session, made from the common options."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = click.get_current_context().ensure_object(Given)
        return function(Session(given), *args, **kwargs)

    return update_wrapper(call, function)


class AddressType(click.ParamType[Address]):
    """SAGA/KEY: split at the first slash, so that a key may hold anything."""

    name = "SAGA/KEY"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """The address, or a usage error that shows the form."""
        if isinstance(value, Address):
            return value
        saga, slash, key = str(value).partition("/")
        if not (saga and slash and key):
            self.fail(f"{value!r} is not SAGA/KEY, as in OrderFulfilment/10248", param, ctx)
        return Address(saga, key)


ADDRESS = AddressType()


class DurationType(click.ParamType[float]):
    """A length of time: `90s`, `15m`, `1h`, `30d`, `2w`; a bare number counts seconds."""

    name = "DURATION"
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds, or a usage error that shows the form."""
        text = str(value).strip()
        unit = self.units.get(text[-1:])
        try:
            seconds = float(text) if unit is None else float(text[:-1]) * unit
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < 1e10:
            self.fail(f"{value!r} is not a length of time, as in 90s, 15m, 1h or 30d", param, ctx)
        return seconds


DURATION = DurationType()


def complete_saga(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The sagas of the store, for a shell's completion; none where the store cannot be read."""
    session = Session(context.ensure_object(Given))
    try:
        counts = asyncio.run(_counts(session))
    except OrchestratorError:
        return []
    return [saga for saga in sorted(counts.instances) if saga.startswith(incomplete) and saga.isprintable()]


async def check_saga(session: Session, saga: str) -> None:
    """That there is a saga of this name. A store alone does not tell a mistake from a saga that has not begun yet: a
    note says what it has. Errors: a usage error with the nearest name, where the app is known.
    """
    known = set((await _counts(session)).instances)
    app = None if saga in known else session.app_if_known()
    known |= set(app.sagas) if app is not None else set()
    if saga in known or not known:
        return
    near = nearest(saga, known)
    remedy = f"did you mean {near[0]}?" if near else f"there is {', '.join(sorted(known))}"
    if app is not None:
        raise click.UsageError(f"no saga is called {saga}; {remedy}")
    session.output.note(f"no instance in this store is of a saga {saga}; {remedy}")


async def _counts(session: Session) -> Counts:
    async with session.reading() as store:
        return await store.counts(time.time())


def no_instance(session: Session, address: Address) -> NotFound:
    """The error for an address that nothing is at, with the way to what there is."""
    return NotFound(f"there is no instance {address}: `{session.command('list', address.saga)}` shows what there is")
