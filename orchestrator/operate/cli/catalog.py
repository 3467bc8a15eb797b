"""`catalog`: what an app says, hears and keeps, and whom a change of it breaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from ...catalog import Catalog, Change, MessageEntry, SagaEntry, aggregates_beside, asyncapi, catalog_of, changes
from ...catalog.entries import read_catalog
from ...topics import Topics
from ..output import Cell
from . import Exit
from .options import common_options
from .session import Session, with_session

TITLES = ("KIND", "NAME", "VERSION", "TOPIC", "WHAT")
OURS = frozenset({"Done", "Failure", "Unwound"})  # in every app, so no news


@click.command
@click.argument("place", required=False, metavar="[APP]")
@click.option("--asyncapi", "as_asyncapi", is_flag=True, help="As an AsyncAPI 3.0 document, in JSON.")
@click.option("--check", "old", type=click.File("rb"), metavar="OLD.json", help="Tell what a change of it breaks.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the JSON there.")
@common_options
@with_session
def catalog(session: Session, place: str | None, as_asyncapi: bool, old: BinaryIO | None, out: Path | None) -> None:
    """All messages, sagas and listeners of an app, with the JSON Schema of what is sent and stored.

    `--out FILE` keeps it, and `--check FILE` compares the app of today with it: which changes break consumers of what
    is sent, producers of what is taken, or what is stored. Exit code 1 if any does. Nothing is opened but the app.

    In a pipe: kind, name, version, topic, what. With --check: breaks whom, kind, where, what, remedy.

    JSON: app, group, replies, messages (type, kind, version, schema, lifts, topic, sent, received, appended, sagas,
    listeners, participant, function, replies, refusals, asked_by, answers), sagas (name, version, key, schema,
    migrations, starts, steps, publishes), listeners, aggregates. With --check: items (kind, where, what, breaks,
    remedy), breaking.
    """
    if as_asyncapi and old is not None:
        raise click.UsageError("--check compares catalogs: leave out --asyncapi")
    if place:
        session = Session(replace(session.given, app=place))
    topics = Topics(session.app, session.settings.topics)
    now = catalog_of(session.app, topics, aggregates_beside(session.app))
    document = asyncapi(session.app, topics, now) if as_asyncapi else msgspec.to_builtins(now)
    before = None if old is None else read_catalog(old.read())  # before FILE is written: it may be the same
    if out is not None:
        out.write_bytes(_written(document))
    if before is not None:
        _check(session, changes(before, now))
    elif out is not None:
        session.output.note(f"{out} is written")
    elif as_asyncapi:
        session.output.raw(_written(document).decode().rstrip())
    elif session.output.as_json:
        session.output.json({name: value for name, value in document.items() if name != "version"})
    else:
        session.output.table(TITLES, list(_rows(now)))


def _check(session: Session, found: list[Change]) -> None:
    output = session.output
    breaking = sum(bool(change.breaks) for change in found)
    if output.as_json:
        output.json({"items": found, "breaking": breaking})
    elif output.on_terminal:
        for change in found:
            output.line(_sentence(change), style="red" if change.breaks else "")
            if change.breaks and change.remedy:
                output.line(f"  {change.remedy}")
    else:
        for change in found:
            output.fields(",".join(change.breaks), change.kind, change.where, change.what, change.remedy)
    if not output.as_json:
        others = len(found) - breaking
        counts = f"{breaking or 'no'} breaking change{'' if breaking == 1 else 's'}, {others} other"
        output.note(counts if found else "nothing has changed")
    if breaking:
        raise click.exceptions.Exit(Exit.FAILED)


def _sentence(change: Change) -> str:
    whom = {"consumers": "consumers", "producers": "producers", "stored": "what is stored"}
    breaks = f"breaks {' and '.join(whom[each] for each in change.breaks)}: " if change.breaks else ""
    return f"{breaks}{change.where} {change.what}"


def _rows(it: Catalog) -> Iterator[list[Cell]]:
    for message in it.messages:
        if message.type not in OURS:
            said = "; ".join(_of_command(message) if message.participant else _of_event(message))
            yield _row(message.kind, message.type, message.version, message.topic, said)
    for saga in it.sagas:
        yield _row("saga", saga.name, saga.version, "", "; ".join(_of_saga(saga)))
    for listener in it.listeners:
        publishes = f"; publishes {', '.join(listener.publishes)}" if listener.publishes else ""
        yield _row("listener", listener.name, None, "", f"takes {', '.join(listener.takes)}{publishes}")
    for aggregate in it.aggregates:
        yield _row("aggregate", aggregate.name, None, "", f"applies {', '.join(aggregate.applies)}")


def _row(kind: str, name: str, version: int | None, topic: str, what: str) -> list[Cell]:
    return [Cell(kind), Cell(name), Cell("" if version is None else str(version), right=True), Cell(topic), Cell(what)]


def _of_command(it: MessageEntry) -> Iterator[str]:
    yield f"answered by {', '.join((*it.replies, *it.refusals))}"
    if it.asked_by:
        yield f"asked by {', '.join(it.asked_by)}"
    yield f"carried out here by {it.function}" if it.function else f"carried out elsewhere, by {it.participant}"


def _of_event(it: MessageEntry) -> Iterator[str]:
    starts = [taken.saga for taken in it.sagas if taken.starts]
    takes = [taken.saga for taken in it.sagas if not taken.starts]
    for said, names in (
        ("starts", starts),
        ("taken by", (*takes, *it.listeners)),
        ("answers", it.answers),
    ):
        if names:
            yield f"{said} {', '.join(names)}"
    if it.sent and it.topic:
        yield "published"
    if it.appended:
        yield "kept in streams"


def _of_saga(it: SagaEntry) -> Iterator[str]:
    yield f"key {it.key}"
    yield f"started by {', '.join(it.starts)}"
    yield f"steps {', '.join(step.name for step in it.steps)}"
    if it.publishes:
        yield f"publishes {', '.join(it.publishes)}"


def _written(document: Any) -> bytes:
    """A document as it stands in a file."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
