"""`check`: the exhaustive checker over the sagas of an app."""

from __future__ import annotations

import os
from dataclasses import replace

import click
import msgspec

from ...app import load_object
from ...checking import MAX_SECONDS, MAX_STATES, VISITS, Report, as_examples, children_among, commands_named
from ...checking import check as check_saga
from ...errors import NotFound
from ..output import Cell
from . import Exit
from .options import common_options
from .session import Session, with_session


@click.command
@click.argument("words", nargs=-1, metavar="[APP] [SAGA]")
@click.option("--max-states", type=click.IntRange(1), default=MAX_STATES, show_default=True, help="Of one saga.")
@click.option("--max-seconds", type=click.FloatRange(0), default=MAX_SECONDS, show_default=True, help="For one saga.")
@click.option(
    "--visits",
    type=click.IntRange(1),
    help=f"How many times round are enough where a loop has no end. By default {VISITS}, and then it is a failure.",
)
@click.option("--examples", metavar="FILE.py:NAME", help="Values to say: a dict of class -> list of its values.")
@click.option("--verbs", is_flag=True, help="Play all that an operator can ask, too.")
@click.option(
    "--no-tombstones", is_flag=True, help="No participant keeps tombstones: show what is done after its undo."
)
@click.option(
    "--no-tombstone", "bare", multiple=True, metavar="COMMAND", help="The same for the participant of one command."
)
@common_options
@with_session
def check(
    session: Session,
    words: tuple[str, ...],
    max_states: int,
    max_seconds: float,
    visits: int | None,
    examples: str | None,
    verbs: bool,
    no_tombstones: bool,
    bare: tuple[str, ...],
) -> None:
    """Run sagas of an app (all, or one) through every order of replies, failures, timeouts, events and cancels.

    Nothing is opened or sent: participants are played. Exit code 1 if anything is wrong, with the shortest way there as
    a dialogue and as a test, or if a bound was reached before everything was seen.

    JSON: items (saga, ok, verdict, states, transitions, seconds, steps, handlers, missing, ends, reached, within,
    violations: what, dialogue, test, details, moves; perhaps, lints, parked, without_tombstone, cut, ignored).
    """
    session, saga = _chosen(session, words)
    definitions = session.app.sagas
    if saga and saga not in definitions:
        raise NotFound(f"app {session.app.name!r} has no saga {saga}; it has {', '.join(definitions)}")
    given = as_examples(load_object(examples), examples) if examples else None
    children = children_among(definitions.values())
    commands = commands_named(definitions.values(), bare)
    reports: list[Report] = []
    for name, definition in definitions.items():
        if saga in ("", name):
            report = check_saga(
                definition.cls,
                examples=given,
                no_tombstones=no_tombstones or commands,
                verbs=verbs,
                as_child=name in children,
                max_states=max_states,
                max_seconds=max_seconds,
                visits=visits,
                strict=False,
            )
            reports.append(report)
            if not session.output.as_json:
                _print(session, report)
    if session.output.as_json:
        session.output.json(
            {"items": [{"ok": it.ok, "verdict": it.verdict, **msgspec.structs.asdict(it)} for it in reports]}
        )
    else:
        _print_table(session, reports)
    if not all(report.ok for report in reports):
        raise click.exceptions.Exit(Exit.FAILED)


def _chosen(session: Session, words: tuple[str, ...]) -> tuple[Session, str]:
    """The session of the app that was meant, and a saga's name, or empty for all."""
    if len(words) > 2:
        raise click.UsageError("give at most an app and one of its sagas")
    if words and (len(words) == 2 or _is_app(words[0]) or not session.settings.app):
        session, words = Session(replace(session.given, app=words[0])), words[1:]
    return session, words[0] if words else ""


def _is_app(word: str) -> bool:
    return ":" in word or word.endswith(".py") or os.sep in word


def _print(session: Session, report: Report) -> None:
    for line in str(report).splitlines():
        session.output.line(line)
    session.output.line()


def _print_table(session: Session, reports: list[Report]) -> None:
    titles = ("SAGA", "STATES", "TRANSITIONS", "SECONDS", "STEPS", "HANDLERS", "")
    session.output.table(titles, [_row(report) for report in reports], wrap=True)


def _row(report: Report) -> list[Cell]:
    steps, handlers = report.ran
    return [
        Cell(report.saga),
        Cell(f"{report.states:,}", str(report.states), right=True),
        Cell(f"{report.transitions:,}", str(report.transitions), right=True),
        Cell(f"{report.seconds:.2f}", right=True),
        Cell(steps, right=True),
        Cell(handlers, right=True),
        Cell(report.verdict, style="green" if report.ok else "red"),
    ]
