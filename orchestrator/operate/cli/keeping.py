"""The verbs that keep house: prune, backup, doctor, config show, completion."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import click
import msgspec
from click.shell_completion import get_completion_class

from ...errors import ConfigError, OrchestratorError, Refused
from ...event_log import EventStore
from ...ports import Find, Store
from ...recorded import WEBHOOKS
from ...urls import open_bus, open_store
from .. import client
from .. import doctor as checks
from ..doctor import Finding, Health
from ..output import Cell, hidden_password, rfc3339, span
from ..places import store_file
from ..protocol import Counted, Hosts, Problem, Prune, raised
from . import Exit, group
from .broker import PlaceView, asked_for, at_broker, hosts_options, needed, survey
from .options import bus_option, common_options
from .session import DURATION, Session, with_session

STYLES = {Health.OK: "green", Health.WARNING: "yellow", Health.FAILED: "red"}


@runtime_checkable
class CanBackUp(Protocol):
    """A store that can copy itself to a file."""

    async def backup(self, path: Path) -> None:
        """Copy the store as it is now to a new file. Errors: ConfigError when it is there already or cannot be made."""
        ...


@runtime_checkable
class CanCheckItself(Protocol):
    """A store that can look for damage."""

    async def integrity(self) -> tuple[str, ...]:
        """What is wrong, a line each."""
        ...


@click.command
@click.option("--older-than", type=DURATION, metavar="30d", help="Ended so long ago.  [default: limits.retention_s]")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@common_options
@with_session
def prune(session: Session, older_than: float | None, yes: bool) -> None:
    """Remove instances that ended long ago, with their history; a child not before its parent.

    A running daemon does so by itself for what is older than limits.retention_s.

    JSON: item: pruned (how many instances), ended_before.
    """
    now = session.now().timestamp()
    ended_before = now - (session.settings.limits.retention_s if older_than is None else older_than)
    if not yes:
        _confirm(f"Remove for good what ended before {rfc3339(ended_before)} ({span(now - ended_before)} ago)?")
    count = _pruned_by_daemon(session, ended_before)
    if count is None:
        count = asyncio.run(_pruned_here(session, now, ended_before))
    if session.output.as_json:
        session.output.json({"item": {"pruned": count, "ended_before": rfc3339(ended_before)}})
    elif session.output.on_terminal:
        session.output.line(f"{count} removed")
    else:
        session.output.fields(str(count))


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("this cannot be undone: without a terminal to ask, give --yes")
    click.confirm(question, abort=True, err=True)


def _pruned_by_daemon(session: Session, ended_before: float) -> int | None:
    """How many the daemon removed; None if none runs."""
    path = store_file(session.settings.store)
    daemon = client.connect(path) if path is not None else None
    if daemon is None:
        return None
    with daemon:
        answer = daemon.ask(Prune(ended_before))
    if isinstance(answer, Problem):
        raise raised(answer)
    assert isinstance(answer, Counted)
    return answer.count


async def _pruned_here(session: Session, now: float, ended_before: float) -> int:
    async with session.reading():
        pass  # a store that is not there is not made
    async with open_store(session.settings.store) as store:
        return await store.prune(now, ended_before)


@click.command
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@common_options
@with_session
def backup(session: Session, file: Path) -> None:
    """Copy the store to FILE as it is at one moment, also while the daemon runs. FILE must not exist yet.

    To go back: stop the daemon, remove the store and its -wal and -shm, put the copy in its place.

    JSON: item: file, size_bytes.
    """
    asyncio.run(_backup(session, file))
    count = file.stat().st_size
    if session.output.as_json:
        session.output.json({"item": {"file": str(file), "size_bytes": count}})
    elif session.output.on_terminal:
        session.output.line(f"{file} written")
    else:
        session.output.fields(str(file), str(count))


async def _backup(session: Session, file: Path) -> None:
    async with session.reading() as store:
        if not isinstance(store, CanBackUp):
            raise Refused("this store does not copy itself: use the tools of its server")
        try:
            await store.backup(file)
        except ConfigError as error:  # FILE is an argument, no setting
            raise click.UsageError(str(error)) from None


@click.command
@click.option("--connect", is_flag=True, help="Ask the broker too: what of it is there, what is missing.")
@hosts_options
@bus_option
@common_options
@with_session
def doctor(session: Session, connect: bool, sagas_only: bool | None, work: bool) -> None:
    """Check the machine, the store, the daemon, the configuration and the app; exit code 1 if something has failed.

    What is missing at the broker is a warning: it is made when it is first used, or by `bus setup`.

    In a pipe: check, ok or warning or failed, detail.

    JSON: items (check, health, detail), next.
    """
    findings = list(_findings(session))
    if all(it.health is not Health.FAILED for it in findings if it.check in ("configuration", "app")):
        findings += _broker_findings(session, sagas_only=sagas_only, work=work) if connect else _bus_findings(session)
    rows = [[Cell(it.check), Cell(it.health, style=STYLES[it.health]), Cell(it.detail)] for it in findings]
    session.output.items(("CHECK", "HEALTH", "DETAIL"), rows, findings, wrap=True)
    if any(it.health is Health.FAILED for it in findings):
        raise click.exceptions.Exit(Exit.FAILED)


def _findings(session: Session) -> Iterator[Finding]:
    yield from checks.machine()
    try:
        settings = session.settings
    except OrchestratorError as error:
        yield Finding("configuration", Health.FAILED, str(error))
        return
    yield Finding("configuration", Health.OK, f"store {hidden_password(settings.store)}")
    path = store_file(settings.store)
    try:
        yield from asyncio.run(_store_findings(session))
        if path is not None:
            yield from checks.place(path)
    except OrchestratorError as error:
        yield Finding("store", Health.FAILED, str(error))
    yield _daemon_finding(path)
    yield _app_finding(session)


async def _store_findings(session: Session) -> list[Finding]:
    now = session.now().timestamp()
    async with session.reading() as store:
        found = [Finding("store", Health.OK, f"schema {(await store.counts(now)).schema}")]
        if isinstance(store, CanCheckItself):
            found += [Finding("store", Health.FAILED, f"damaged: {problem}") for problem in await store.integrity()]
        found += await _projection_findings(session, store)
        return [*found, checks.clock(now, await _newest(store)), *await _webhook_findings(session, store)]


async def _webhook_findings(session: Session, store: EventStore) -> list[Finding]:
    if not await store.stream_version(WEBHOOKS):
        return []
    from .. import webhooks

    return list(checks.webhooks(await webhooks.read(store), lambda *words: session.command("webhooks", *words)))


async def _projection_findings(session: Session, store: Store) -> list[Finding]:
    path = store_file(session.settings.store)
    if path is None:
        return []
    from ..projections import projections  # most stores have none

    return [checks.projection(it) for it in await projections(store, path, session.now())]


async def _newest(store: Store) -> float:
    page = await store.find(Find(limit=1))
    return max((instance.updated_at for instance in page.items), default=0.0)


def _daemon_finding(path: Path | None) -> Finding:
    answer = client.ping(path) if path is not None else None
    if answer is None:
        return Finding("daemon", Health.OK, "not running")
    if answer.get("problem"):
        return Finding("daemon", Health.FAILED, f"pid {answer['pid']} takes nothing in: {answer['problem']}")
    part = Hosts(answer["hosts"]).words
    return Finding("daemon", Health.OK, f"running, pid {answer['pid']}" + (f", {part}" if part else ""))


def _app_finding(session: Session) -> Finding:
    if not session.settings.app:
        return Finding("app", Health.OK, "none is configured")
    try:
        app = session.app
    except OrchestratorError as error:
        return Finding("app", Health.FAILED, str(error))
    missing = [command.__name__ for command in app.missing_participants()] if not session.settings.bus else []
    if missing:
        return Finding("app", Health.FAILED, f"nobody carries out {', '.join(missing)}: add participants, or a bus")
    return Finding("app", Health.OK, f"{app.name}: {', '.join(app.sagas) or 'no sagas'}")


def _bus_findings(session: Session) -> list[Finding]:
    url = session.settings.bus
    if not url:
        return [Finding("bus", Health.OK, "none: messages stay in the process")]
    try:
        open_bus(url)
    except OrchestratorError as error:
        return [Finding("bus", Health.FAILED, str(error))]
    return [Finding("bus", Health.OK, f"{hidden_password(url)}, not asked: --connect does")]


def _broker_findings(session: Session, *, sagas_only: bool | None, work: bool) -> list[Finding]:
    try:
        hosts = asked_for(session, sagas_only=sagas_only)
        topologies = needed(session, hosts, work=work)
        places = at_broker(session, lambda bus: survey(bus, topologies))
    except OrchestratorError as error:
        return [Finding("bus", Health.FAILED, str(error))]
    answers = Finding("bus", Health.OK, f"{hidden_password(session.settings.bus)} answers")
    remedy = session.command("bus", "setup", *_words(session, hosts, sagas_only=sagas_only, work=work))
    alike: dict[tuple[str, bool, str], list[PlaceView]] = {}
    for it in places:
        alike.setdefault((it.what, it.exists, it.note), []).append(it)
    found = [answers, *map(_places_finding, alike.values())]
    if missing := sum(not it.exists for it in places):
        found.append(Finding("bus", Health.WARNING, f"{missing} of {len(places)} are missing, `{remedy}` makes them"))
    return found


def _words(session: Session, hosts: Hosts, *, sagas_only: bool | None, work: bool) -> Iterator[str]:
    """The same flags as this doctor was given, or took from the daemon, which may be gone when they are used."""
    for flag, value in (("--app", session.given.app), ("--bus", session.given.bus)):
        if value:
            yield from (flag, hidden_password(value))
    if hosts is Hosts.SAGAS:
        yield "--sagas-only"
    elif sagas_only is False:
        yield "--no-sagas-only"
    if work:
        yield "--work"


def _places_finding(alike: list[PlaceView]) -> Finding:
    """Places of one kind of which the same is to be said."""
    it, are = alike[0], "is" if len(alike) == 1 else "are"
    what = f"{it.what}{'' if len(alike) == 1 else 's'} {', '.join(place.name for place in alike)}"
    if not it.exists:
        known = f" ({it.note})" if it.note else ""
        return Finding("bus", Health.WARNING, f"{what} {are} missing{known}")
    if it.note:
        return Finding("bus", Health.WARNING, f"{it.note}: {what}")
    return Finding("bus", Health.OK, f"{what} {are} there")


@click.command("show")
@bus_option
@common_options
@with_session
def config_show(session: Session) -> None:
    """Every setting, its value in force, and where it comes from. A password in a URL shows as ***.

    In a pipe: setting, value, origin.

    JSON: items (setting, value, origin), next.
    """
    settings, origins = session.configured
    views = [
        {"setting": name, "value": _shown(_value(settings, name)), "origin": origin} for name, origin in origins.items()
    ]
    rows = [[Cell(_as_text(value)) for value in it.values()] for it in views]
    session.output.items(("SETTING", "VALUE", "FROM"), rows, views, wrap=True)


def _value(settings: object, name: str) -> object:
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


def _as_text(value: object) -> str:
    """As it may be given in the environment; an empty list or table as nothing."""
    if isinstance(value, float):
        return str(int(value) if value.is_integer() else value)
    if isinstance(value, dict | tuple | bool):
        return msgspec.json.encode(value).decode() if value or value is False else ""
    return str(value)


def _shown(value: object) -> object:
    return hidden_password(value) if isinstance(value, str) else value


@click.command
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@with_session
def completion(session: Session, shell: str) -> None:
    """The completion script for a SHELL, as in: eval "$(orchestrator completion bash)"."""
    kind = get_completion_class(shell)
    assert kind is not None
    session.output.raw(kind(group, {}, "orchestrator", "_ORCHESTRATOR_COMPLETE").source())
