"""The dead letters of one listener or webhook: the option that names it, and how they are found."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import click

from ...errors import OrchestratorError
from ...event_log import EventStore
from ...nearest import nearest
from ...ports import MAX_PAGE
from ...recorded import WEBHOOKS
from ...wire import DeadLetter
from .options import Given
from .session import Session

MOST_LOOKED_AT = 20 * MAX_PAGE  # dead letters whose listeners a shell's completion offers


def complete_listener(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The listeners and webhooks that have dead letters, for a shell's completion; none where the store is not read."""
    session = Session(context.ensure_object(Given))
    try:
        names = asyncio.run(_buried(session))
    except OrchestratorError:
        return []
    return [name for name in sorted(names) if name.startswith(incomplete) and name.isprintable()]


async def _buried(session: Session) -> set[str]:
    async with session.reading() as store:
        return await _with_letters(store, MOST_LOOKED_AT)


listener_option = click.option(
    "--listener",
    metavar="NAME",
    default="",
    shell_complete=complete_listener,
    help="Those for this listener or webhook, as FOR in `dead list` names it.",
)


def letters_of(store: EventStore, listener: str) -> Callable[[int, int], Awaitable[Sequence[DeadLetter]]]:
    """As `store.dead_letters`, but of one listener; empty: of all."""

    async def read(after: int, limit: int) -> list[DeadLetter]:
        found: list[DeadLetter] = []
        while len(found) < limit and (page := await store.dead_letters(after, MAX_PAGE)):
            found += [letter for letter in page if letter.listener == listener]
            after = page[-1].id
        return found[:limit]

    return read if listener else store.dead_letters


async def check_listener(session: Session, store: EventStore, listener: str) -> None:
    """That somebody is called so: in the dead letters, among the webhooks, or in the app, if that is known.

    Errors: a usage error with the nearest name.
    """
    known = await _with_letters(store)
    if listener in known:
        return
    app = session.app_if_known()
    known |= set(app.listeners) if app is not None else set()
    known |= await _webhooks(store)
    if listener in known:
        return
    near = nearest(listener, known) or sorted(name for name in known if listener in name)[:1]
    remedy = f"; did you mean {near[0]}?" if near else f"; there {_are(known)}"
    raise click.UsageError(f"no listener or webhook is called {listener}{remedy}")


def _are(names: set[str]) -> str:
    return f"are {', '.join(sorted(names))}" if names else "is none"


async def _with_letters(store: EventStore, most: float = float("inf")) -> set[str]:
    names: set[str] = set()
    after = looked_at = 0
    while looked_at < most and (page := await store.dead_letters(after, MAX_PAGE)):
        names |= {letter.listener for letter in page if letter.listener}
        looked_at += len(page)
        after = page[-1].id
    return names


async def _webhooks(store: EventStore) -> set[str]:
    if not await store.stream_version(WEBHOOKS):
        return set()
    from .. import webhooks  # most stores have none

    return {webhook.sink for webhook in await webhooks.read(store)}
