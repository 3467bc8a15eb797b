"""The verbs about webhooks: who gets the boundary events, where, and how it fares."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime
from typing import Literal, TypeVar, cast

import click

from ...errors import NotFound, Refused
from .. import webhooks as views
from ..output import Cell, moment_cell, relative, rfc3339
from ..protocol import (
    AddWebhook,
    Answer,
    Ask,
    ChangeWebhook,
    Counted,
    Problem,
    RotateWebhook,
    TestWebhook,
    WebhookTested,
    WebhookTold,
    raised,
)
from ..webhooks import ChangeView, Queue, WebhookView
from .options import common_options
from .reach import reached
from .session import Session, with_session

TITLES = ("NAME", "STATE", "SINCE", "URL", "TYPES", "WAITING", "DEAD", "WHY")
STYLES = {"active": "green", "failing": "yellow", "paused": "red"}

A = TypeVar("A", WebhookTold, WebhookTested, Counted)

name_argument = click.argument("name")
secret_option = click.option(
    "--secret",
    "secret",
    metavar="-",
    type=click.Choice(["-"]),
    help="Read the secret from standard input (whsec_...).  [default: a new one]",
)


@click.command
@click.argument("url")
@click.option("--name", default="", help="What to call it.  [default: after the host]")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only these, as user.registered or user.*")
@secret_option
@click.option("--insecure", is_flag=True, help="Take an http:// URL: everybody on the way can read it.")
@common_options
@with_session
def add(session: Session, url: str, name: str, types: tuple[str, ...], secret: str | None, insecure: bool) -> None:
    """Send boundary events to URL from now on, signed as Standard Webhooks says.

    A secret that is made here is shown once, now: the receiver checks the signature with it.

    In a pipe: name, the secret if it is new.

    JSON: item (name, secret: null unless it is new).
    """
    ask = AddWebhook(url=url, name=name, types=types, secret=_given(secret), insecure=insecure)
    _show_secret(session, _answer(session, ask, WebhookTold), "added")


@click.command("list")
@common_options
@with_session
def list_(session: Session) -> None:
    """All webhooks and how they fare.

    In a pipe: name, state (active, failing, paused), since, URL, types, waiting, dead, why.

    JSON: items (name, url, types, state, since, why, secrets, insecure, added_at, waiting, attempt,
    next_at, dead), next.
    """
    now = session.now()
    found = asyncio.run(_all(session, now.timestamp()))
    rows = [
        [
            Cell(it.name),
            Cell(it.state, style=STYLES[it.state]),
            moment_cell(it.since, now),
            Cell(it.url),
            Cell(", ".join(it.types) or "all"),
            Cell(str(it.waiting), right=True),
            Cell(str(it.dead), right=True, style="red" if it.dead else ""),
            Cell(it.why or _retrying(it, now), it.why),
        ]
        for it in found
    ]
    session.output.items(TITLES, rows, found, nothing="there are no webhooks")


@click.command
@name_argument
@common_options
@with_session
def show(session: Session, name: str) -> None:
    """One webhook, what happened to it, and what you can do. No secret is shown.

    In a pipe: a line for each field, its name first.

    JSON: item (as in list, and changes: at, what, who).
    """
    it, changes = asyncio.run(_one(session, name))
    fields = {field: getattr(it, field) for field in it.__struct_fields__}
    out = session.output
    if out.as_json:
        out.json({"item": {**fields, "changes": changes}})
        return
    lines: list[tuple[str, ...]] = [(field, _plain(value)) for field, value in fields.items()]
    lines += [("change", rfc3339(each.at.timestamp()), each.what, each.who or "by itself") for each in changes]
    lines += [("you can", command) for command in _can_do(session, it)]
    for title, *words in lines:
        if out.on_terminal:
            out.line(f"{title:<10}{'  '.join(words)}")
        else:
            out.fields(title, *words)


@click.command
@name_argument
@click.option("--reason", default="", help="Why; kept in the log.")
@common_options
@with_session
def pause(session: Session, name: str, reason: str) -> None:
    """Deliver nothing until `resume`; what comes meanwhile is kept, for a week."""
    _change(session, name, "pause", reason)


@click.command
@name_argument
@common_options
@with_session
def resume(session: Session, name: str) -> None:
    """Deliver again, first what was kept."""
    _change(session, name, "resume")


@click.command
@name_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@common_options
@with_session
def remove(session: Session, name: str, yes: bool) -> None:
    """Forget a webhook, and what it has not got yet."""
    if not yes:
        it, _ = asyncio.run(_one(session, name))
        if not sys.stdin.isatty():
            raise click.UsageError("what it has not got yet is dropped: without a terminal to ask, give --yes")
        click.confirm(f"Remove {name}, with the {it.waiting} events it has not got yet?", abort=True, err=True)
    _change(session, name, "remove")


@click.command
@name_argument
@click.option("--at-once", is_flag=True, help="The old secret is known to others: it signs no more.")
@secret_option
@common_options
@with_session
def rotate(session: Session, name: str, at_once: bool, secret: str | None) -> None:
    """Sign with a new secret, which is shown once, now; for a day also with the old one.

    In a pipe: name, the secret if it is new.

    JSON: item (name, secret: null unless it is new).
    """
    _show_secret(session, _answer(session, RotateWebhook(name, _given(secret), at_once), WebhookTold), "rotated")


@click.command
@name_argument
@common_options
@with_session
def test(session: Session, name: str) -> None:
    """Send one event of the type webhook.test now, also to one that is paused.

    In a pipe: name, the status that was answered, what is wrong with it.

    JSON: item (name, status, problem).
    """
    told = _answer(session, TestWebhook(name), WebhookTested)
    if session.output.as_json:
        session.output.json({"item": {"name": name, "status": told.status, "problem": told.problem}})
    elif not session.output.on_terminal:
        session.output.fields(name, str(told.status), told.problem)
    elif not told.problem:
        session.output.line(f"{name}: answered {told.status}")
    if told.problem:
        raise Refused(f"{name} did not take it: {told.problem}")


@click.command
@name_argument
@common_options
@with_session
def redrive(session: Session, name: str) -> None:
    """Deliver again what a webhook did not take in all its attempts.

    In a pipe: how many.

    JSON: redriven.
    """
    count = _answer(session, ChangeWebhook(name, "redrive"), Counted).count
    if session.output.as_json:
        session.output.json({"redriven": count})
    else:
        session.output.line(f"redriven {count}" if session.output.on_terminal else str(count))


# What they share.


def _given(secret: str | None) -> str:
    """A secret from standard input, where no list of processes and no history of a shell shows it."""
    if secret is None:
        return ""
    text = sys.stdin.readline().strip()
    if not text:
        raise click.UsageError("--secret -: nothing came from standard input")
    return text


def _change(session: Session, name: str, what: Literal["pause", "resume", "remove"], why: str = "") -> None:
    _answer(session, ChangeWebhook(name, what, why), WebhookTold)
    if session.output.as_json:
        session.output.json({"item": {"name": name, "done": what}})
    else:
        session.output.line(f"{name}: {what}d")


def _show_secret(session: Session, told: WebhookTold, done: str) -> None:
    out = session.output
    if out.as_json:
        out.json({"item": {"name": told.name, "secret": told.secret or None}})
    elif not out.on_terminal:
        out.fields(told.name, told.secret)
    else:
        out.line(f"{told.name}: {done}")
        if told.secret:
            out.line(f"  its secret, shown only now: {told.secret}")
        out.line(f"  {session.command('webhooks', 'test', told.name)}")


def _answer(session: Session, ask: Ask, kind: type[A]) -> A:
    with reached(session, may_create=isinstance(ask, AddWebhook)) as desk:
        [answer] = list[Answer](desk.ask_all([ask]))
    if isinstance(answer, Problem):
        raise raised(answer)
    if not isinstance(answer, kind):
        raise ConnectionError(f"an answer that does not fit: {type(answer).__name__}")
    return answer


async def _all(session: Session, now: float) -> list[WebhookView]:
    async with session.reading() as store:
        found = await views.read(store)
        queues = await views.queues(store)
    return [views.view(it, now, queues.get(it.sink, Queue())) for it in found]


async def _one(session: Session, name: str) -> tuple[WebhookView, list[ChangeView]]:
    async with session.reading() as store:
        webhook = (await views.read(store)).find(name)
        if webhook is None:
            raise NotFound(f"there is no webhook {name}: `{session.command('webhooks', 'list')}` shows what there is")
        queue = (await views.queues(store)).get(webhook.sink, Queue())
        it = views.view(webhook, session.now().timestamp(), queue)
        return it, await views.changes(store, name)


def _can_do(session: Session, it: WebhookView) -> list[str]:
    verbs = [
        "resume" if it.state == "paused" else "pause",
        "test",
        "rotate",
        "remove",
        *(["redrive"] if it.dead else []),
    ]
    return [session.command("webhooks", verb, it.name) for verb in verbs]


def _retrying(it: WebhookView, now: datetime) -> str:
    """What is tried again before it has failed for so long that it counts as failing."""
    if it.attempt == 1:
        return ""
    return f"attempt {it.attempt} {relative(it.next_at, now)}" if it.next_at is not None else f"attempt {it.attempt}"


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, cast("tuple[object, ...]", value))) or "all"
    if isinstance(value, datetime):
        return rfc3339(value.timestamp())
    return str(value)
