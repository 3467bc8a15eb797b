"""The verbs for projections: how they stand, build them anew, hold them, let them go on."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import anyio
import click

from ...errors import AppError, NotFound, OrchestratorError, Refused, StoreLocked
from ...ports import Store
from ...projecting.files import Claim, Files, Pause, directory_of, names_in
from ...projecting.looking import Seen, look
from .. import client
from ..control import user_name
from ..output import Cell, moment_cell, span
from ..places import store_file
from ..projections import projections, view_of
from ..protocol import Problem, Project, Projected, ProjectionVerb, raised
from ..view import ProjectionView
from .options import common_options
from .session import Session, with_session

POLL_S = 0.1
DAEMON_LOOK_S = 2.0  # how often a rebuild that is followed looks whether its daemon is still there

TITLES = ("PROJECTION", "STATE", "VERSION", "BEHIND", "SINCE", "POSITION", "UPDATED", "WHAT")
STYLES = {"live": "green", "building": "cyan", "stopped": "red", "paused": "yellow"}

name_argument = click.argument("name")


@click.command("list")
@common_options
@with_session
def list_(session: Session) -> None:
    """Projections: how they stand, and how far they are behind the log.

    In a pipe: name, state, version, events behind, seconds behind, position, last update, what is to be known (why it
    is stopped or paused, what is being built).

    JSON: items (name, state, version, position, behind, behind_s, applied, updated_at, problem: null or reason,
    position, since, paused: null or by, since, why, building: null or version, position, behind, share, file), next.
    """
    now = session.now()
    views = asyncio.run(_views(session, now))
    rows = [row(it, now) for it in views]
    session.output.items(TITLES, rows, views, nothing="there are no projections", wrap=True)


async def _views(session: Session, now: datetime) -> list[ProjectionView]:
    path = _path(session)
    async with session.reading() as store:
        return await projections(store, path, now, _known(session))


def _known(session: Session) -> list[str]:
    if not session.settings.app:
        return []
    try:
        return list(session.app.projections)
    except OrchestratorError as error:
        session.output.note(f"without the app's classes: {str(error).splitlines()[0]}")
        return []


def row(it: ProjectionView, now: datetime) -> list[Cell]:
    """A projection, as a row under TITLES."""
    return [
        Cell(it.name),
        Cell(it.state, style=STYLES.get(it.state, "")),
        Cell("" if it.version is None else str(it.version), right=True),
        Cell(f"{it.behind:,}", str(it.behind), right=True),
        Cell(span(it.behind_s) if it.behind else "", f"{it.behind_s:.3f}"),
        Cell(f"{it.position:,}", str(it.position), right=True),
        moment_cell(it.updated_at, now),
        Cell(what(it)),
    ]


def what(it: ProjectionView) -> str:
    """What people should know of a projection."""
    said: list[str] = []
    if it.paused is not None:
        said.append(f"paused by {it.paused.by}" + (f": {it.paused.why}" if it.paused.why else ""))
    if it.problem is not None:
        said.append(("building it anew has stopped at " if it.state == "live" else "") + it.problem.headline)
    if it.building is not None and it.version is not None:
        said.append(f"version {it.building.version} is being built, {it.building.share:.0%}")
    return "; ".join(said)


@click.command
@name_argument
@click.option("--no-wait", is_flag=True, help="Do not wait until it is built: the daemon builds on.")
@common_options
@with_session
def rebuild(session: Session, name: str, no_wait: bool) -> None:
    """Build a projection anew from the first event on. What is there is read meanwhile, and replaced at once.

    The daemon builds it, or, where none runs, this verb. If either is killed, the next start goes on where it was.

    In a pipe: name, version, position.

    JSON: item: as in `list`.
    """
    path = _path(session)
    files = Files(directory_of(path), name)
    answer = _asked(path, Project(name, ProjectionVerb.REBUILD))
    if answer is not None:
        seen = asyncio.run(_begun(session, files) if no_wait else _followed(session, files, answer.number, path))
    elif no_wait:
        raise Refused("no daemon runs on this store: leave --no-wait out, and this verb builds it")
    else:
        seen = asyncio.run(_built_here(session, files))
    _show(session, seen, "is being built" if no_wait else "is built")


async def _begun(session: Session, files: Files) -> Seen:
    async with session.reading() as store:
        return await look(files, store, time.time())


async def _followed(session: Session, files: Files, number: int, path: Path) -> Seen:
    """Until readers get this file. Errors: OrchestratorError, if building it has stopped; ConnectionError."""
    looked = time.monotonic()
    async with session.reading() as store:
        with _bar(files.name) as advance:
            while True:
                seen = await look(files, store, time.time())
                if (files.current() or 0) >= number:
                    return seen
                advance(seen)
                if seen.building is not None and seen.building.bookmark.reason:
                    raise _stopped(seen)
                if seen.pause is not None:
                    raise Refused(f"projection {files.name} was paused meanwhile: `resume` lets it go on")
                if time.monotonic() - looked > DAEMON_LOOK_S:
                    looked = time.monotonic()
                    if client.ping(path) is None:
                        raise ConnectionError("the daemon went away: its next start goes on with it")
                await anyio.sleep(POLL_S)


async def _built_here(session: Session, files: Files) -> Seen:
    from ...projecting import projector as projector_module  # only now: with it comes what a daemon has
    from ...projecting.projections import alone

    if not session.settings.app:
        raise AppError(
            "no daemon runs on this store, and building a projection without one needs the app's classes: "
            "give --app module:attribute, or set ORCHESTRATOR_APP"
        )
    projection = session.app.projections.get(files.name)
    if projection is None:
        raise NotFound(
            f"app {session.app.name} has no projection {files.name}: {_there(list(session.app.projections))}"
        )
    logging.getLogger(projector_module.__name__).addHandler(logging.NullHandler())  # this verb says it all itself
    async with session.reading() as store, anyio.create_task_group() as tasks:
        projector = alone(projection, files, store, session.settings.limits.projected)
        await tasks.start(projector.run_here)
        number = await projector.rebuild()
        with _bar(files.name) as advance:
            tasks.start_soon(_advancing, files, store, advance)
            try:
                await projector.built(number)
            except OrchestratorError:
                raise _stopped(await look(files, store, time.time())) from None
        tasks.cancel_scope.cancel()
    async with session.reading() as store:
        return await look(files, store, time.time())


def _stopped(seen: Seen) -> OrchestratorError:
    problem = view_of(seen).problem
    return OrchestratorError(
        f"building {seen.name} has stopped at {problem.headline if problem is not None else 'an event'}; "
        "what was there is still read; mend the code, then `projections rebuild` goes through it again"
    )


async def _advancing(files: Files, store: Store, advance: Callable[[Seen], None]) -> None:
    while True:
        advance(await look(files, store, time.time()))
        await anyio.sleep(POLL_S)


@contextmanager
def _bar(name: str) -> Generator[Callable[[Seen], None]]:
    """A bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield _nothing
        return
    from rich.console import Console  # only now: it takes longer to import than many a verb takes
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    shown = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("events"), TimeRemainingColumn())
    with Progress(*shown, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)

        def advance(seen: Seen) -> None:
            if seen.building is not None:
                position = seen.building.bookmark.position
                bar.update(task, completed=position, total=position + seen.building.behind)

        yield advance


def _nothing(seen: Seen) -> None:
    pass


@click.command
@name_argument
@click.option("--reason", default="", help="Why; shown to whoever looks.")
@common_options
@with_session
def pause(session: Session, name: str, reason: str) -> None:
    """Leave a projection as it is, also over a restart, until `resume`; the others go on."""
    path = _path(session)
    files = Files(directory_of(path), name)
    if _asked(path, Project(name, ProjectionVerb.PAUSE, reason)) is None:
        _check_there(files)
        if files.paused() is not None:
            raise Refused(f"projection {name} is paused already")
        with _claimed(files):
            files.pause(Pause(user_name(os.geteuid()), time.time(), reason))
    _show(session, asyncio.run(_begun(session, files)), "is paused")


@click.command
@name_argument
@common_options
@with_session
def resume(session: Session, name: str) -> None:
    """Let a projection go on that is paused, or has stopped at an event that failed."""
    path = _path(session)
    files = Files(directory_of(path), name)
    if _asked(path, Project(name, ProjectionVerb.RESUME)) is None:
        _check_there(files)
        if files.paused() is None:
            raise Refused(f"projection {name} is not paused, and no daemon runs: the next start tries it again")
        with _claimed(files):
            files.unpause()
    _show(session, asyncio.run(_begun(session, files)), "goes on")


def _asked(path: Path, ask: Project) -> Projected | None:
    """What the daemon answers; None, if none runs."""
    daemon = client.connect(path)
    if daemon is None:
        return None
    with daemon:
        answer = daemon.ask(ask)
    if isinstance(answer, Problem):
        raise raised(answer)
    if not isinstance(answer, Projected):
        raise ConnectionError(f"an answer that does not fit: {answer}")
    return answer


@contextmanager
def _claimed(files: Files) -> Generator[None]:
    """Errors: StoreLocked, if a program keeps it that is no daemon."""
    claim = Claim(files)
    try:
        claim.acquire()
    except StoreLocked as error:
        raise StoreLocked(f"{error} and does not listen: ask it there") from None
    try:
        yield
    finally:
        claim.release()


def _check_there(files: Files) -> None:
    names = names_in(files.directory)
    if files.name not in names:
        raise NotFound(f"there is no projection {files.name}: {_there(names)}")


def _there(names: list[str]) -> str:
    return f"there are {', '.join(names)}" if names else "there are none"


def _path(session: Session) -> Path:
    path = store_file(session.settings.store)
    if path is None:
        raise Refused("projections of a store that is no file live in the program that has it open")
    return path


def _show(session: Session, seen: Seen, said: str) -> None:
    it = view_of(seen)
    if session.output.as_json:
        session.output.json({"item": it})
    elif session.output.on_terminal:
        session.output.line(f"{it.name} {said}" + (f", {it.behind:,} events behind" if it.behind else ""))
    else:
        session.output.fields(it.name, "" if it.version is None else str(it.version), str(it.position))
