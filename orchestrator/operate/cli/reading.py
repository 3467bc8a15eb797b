"""The verbs that look: they need no daemon and never write."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from ...errors import AppError, NotFound
from ...event_log import EventStore
from ...machine.instance import Instance, Status
from ...machine.transition import Entry
from ...ports import MAX_PAGE, MAX_ROW_ID, Counts, Find, Store, Waiting
from ...projecting.files import directory_of
from ...recorded import WEBHOOKS
from ...wire import Address, DeadLetter, Kind, Outgoing
from .. import client, view
from ..output import hidden_password
from ..places import store_file
from ..protocol import BusState
from ..view import DetailView, InstanceView
from ..why import Remedy, remedies, waits_for
from ..why import why as in_words
from . import Exit, screens
from .letters import check_listener, letters_of, listener_option
from .options import common_options
from .session import ADDRESS, DURATION, Session, check_saga, complete_saga, no_instance, with_session

POLL_S = 0.25  # how often a following verb looks again
LOOK_BACK_S = 10.0  # a change may be committed so long after the moment it bears
FIRST = 5  # of what needs a person, shown by status
FORMS = ("mermaid", "dot", "svg")
MOST_ROWS = 10_000  # of the outbox, looked at by status when no daemon says what is in it
MOST = 100_000  # rows a verb gives at a time

Row = TypeVar("Row", DeadLetter, Waiting)


# What needs me?


@click.command
@common_options
@with_session
def status(session: Session) -> None:
    """What runs, how many of what, and what needs you; one screen.

    JSON: item: daemon (null or pid, version, app, bus, uptime_s, in_flight, problem, has_sagas, hosts: all,
    sagas or work), store (url, size_bytes, schema), bus, broker (null or state: connected, connecting, trouble or
    unknown, problem, since, lag: messages that the broker holds for us, to_go: messages that it does not have yet,
    oldest_at), work (null or commands, answers: of a worker), instances (saga -> status -> count), paused, waiting,
    outbox, next_timer_at, needs_you (parked, first_parked, dead, first_dead, overdue, oldest_retry,
    work_without_daemon, broker, webhooks), projections (as in `projections list`).
    """
    now = session.now()
    answer = asyncio.run(_status(session, now))
    if session.output.as_json:
        session.output.json({"item": answer})
    else:
        screens.status_screen(session, answer, now)


async def _status(session: Session, now: datetime) -> view.StatusView:
    path = store_file(session.settings.store)
    pong = client.ping(path) if path is not None else None
    daemon = view.daemon(pong)
    async with session.reading() as store:
        counts = await store.counts(now.timestamp())
        is_told = daemon is not None and daemon.has_sagas
        rows = view.OutboxRows() if is_told or not counts.outbox else await _outbox_rows(session, store)
        parked = (await store.find(Find(parked=True, limit=FIRST))).items if counts.parked else ()
        dead = await store.dead_letters(limit=FIRST) if counts.dead else []
        retrying = (await store.load([counts.oldest_retry]))[0] if counts.oldest_retry is not None else None
        webhooks = await _webhooks_in_need(store)
        projections = await _projections(store, path, now)
    broker = _broker(session, pong, counts, rows)
    needs = view.needs(
        counts,
        now,
        parked=parked,
        dead=tuple(dead),
        retrying=retrying,
        has_daemon=daemon is not None,
        broker=broker.problem if broker is not None else "",
        webhooks=webhooks,
    )
    return _status_view(session, daemon, broker, rows, counts, needs, projections)


async def _outbox_rows(session: Session, store: Store) -> view.OutboxRows:
    """What stands in the outbox, or in so much of it as a screen has time for."""
    app = session.app_if_known() if session.settings.bus else None
    found: list[Outgoing] = []
    page = await store.due(math.inf, MAX_PAGE)
    while page and len(found) < MOST_ROWS:
        found += [due.outgoing for due in page]
        page = await store.due(math.inf, MAX_PAGE, page[-1].position)
    return view.outbox_rows(found, app.participants if app is not None else ())


def _broker(
    session: Session, pong: dict[str, Any] | None, counts: Counts, rows: view.OutboxRows
) -> view.BrokerView | None:
    if pong is None:
        return view.broker(None, 0, rows) if session.settings.bus else None
    state: BusState | None = pong.get("broker")
    if state is None:
        return None
    return view.broker(state, counts.outbox - pong["outbox"], rows)


async def _projections(store: Store, path: Path | None, now: datetime) -> tuple[view.ProjectionView, ...]:
    if path is None or not directory_of(path).is_dir():
        return ()
    from .. import projections  # only now: most stores have none, and `status` is asked often

    return tuple(await projections.projections(store, path, now))


async def _webhooks_in_need(store: EventStore) -> tuple[view.WebhookNeed, ...]:
    if not await store.stream_version(WEBHOOKS):
        return ()
    from .. import webhooks  # few stores have one, and without it this verb answers sooner

    return webhooks.needs(await webhooks.read(store))


def _status_view(
    session: Session,
    daemon: view.DaemonView | None,
    broker: view.BrokerView | None,
    rows: view.OutboxRows,
    counts: Counts,
    needs: view.NeedsView,
    projections: tuple[view.ProjectionView, ...],
) -> view.StatusView:
    settings = session.settings
    return view.StatusView(
        daemon=daemon,
        store=view.StoreView(url=hidden_password(settings.store), size_bytes=counts.size_bytes, schema=counts.schema),
        bus=daemon.bus if daemon is not None else hidden_password(settings.bus),
        broker=broker,
        work=view.WorkView(commands=rows.commands, answers=rows.answers) if rows.commands or rows.answers else None,
        instances=counts.instances,
        paused=counts.paused,
        waiting=counts.waiting,
        outbox=counts.outbox,
        next_timer_at=None if counts.next_wake_at is None else view.moment(counts.next_wake_at),
        projections=projections,
        needs_you=needs,
    )


# Instances.


@click.command("list")
@click.argument("saga", default="", shell_complete=complete_saga)
@click.option("--status", type=click.Choice([str(status) for status in Status]), help="Only with this status.")
@click.option("--parked", is_flag=True, help="Only those that need a person.")
@click.option("--key", default="", help="Only with this key.")
@click.option("--since", type=DURATION, metavar="1h", help="Only those updated within this time.")
@click.option("-n", "limit", type=click.IntRange(1, MOST), default=20, show_default=True, help="So many.")
@click.option("--cursor", default="", help="Go on where the list before ended.")
@common_options
@with_session
def list_(
    session: Session,
    saga: str,
    status: str | None,
    parked: bool,
    key: str,
    since: float | None,
    limit: int,
    cursor: str,
) -> None:
    """Instances, the newest first; of one SAGA or of all.

    In a pipe: SAGA/KEY, status (with "parked", "paused"), steps under way, attempt, next retry or timeout,
    last update, reason (why it is parked, undone or killed, else the last error).

    JSON: items (saga, key, run, status, parked, paused, steps, version, started_at, updated_at, last_error, why), next.
    """
    now = session.now()
    query = Find(
        saga=saga,
        key=key,
        status=Status(status) if status else None,
        parked=True if parked else None,
        since=None if since is None else now.timestamp() - since,
        cursor=cursor,
    )
    found, following = asyncio.run(_find(session, query, limit))
    if saga and not found:
        asyncio.run(check_saga(session, saga))
    views = [view.summary(instance) for instance in found]
    rows = [screens.instance_row(it, now) for it in views]
    session.output.items(
        screens.INSTANCE_TITLES, rows, views, next_cursor=following, nothing="no instance is like that"
    )


async def _find(session: Session, query: Find, limit: int) -> tuple[list[Instance], str]:
    """Up to `limit` instances, over several pages, and the cursor of what follows."""
    found: list[Instance] = []
    async with session.reading() as store:
        while True:
            page = await store.find(msgspec.structs.replace(query, limit=min(limit - len(found), MAX_PAGE)))
            found += page.items
            query = msgspec.structs.replace(query, cursor=page.next)
            if not page.next or len(found) >= limit:
                return found, page.next


@click.command
@click.argument("address", metavar="SAGA/KEY", type=ADDRESS)
@common_options
@with_session
def show(session: Session, address: Address) -> None:
    """All about one instance: state, steps, the undo plan, what it waits for, what you can do now.

    JSON: item: as in `list`, and state (secrets as "***"), undo (in its order), refusals (step, visit, element,
    undoing, type, at, data), waits_for, can_do, path (all stays in steps), definition_version, ended_at, deadline_at,
    parent, bug (type, id, traceback), held, queued, kept.
    """
    _show(session, *asyncio.run(_load(session, address)))


def _show(session: Session, instance: Instance, history: Sequence[Entry]) -> None:
    now = session.now()
    it, can_do = _detail(session, instance, history, now)
    if session.output.as_json:
        session.output.json({"item": it})
    elif session.output.on_terminal:
        screens.show_screen(session.output, it, can_do, now)
    else:
        screens.show_fields(session.output, it, can_do)


def _detail(
    session: Session, instance: Instance, history: Sequence[Entry], now: datetime
) -> tuple[DetailView, tuple[Remedy, ...]]:
    it = view.detail(instance, session.definition_if_known(instance.saga))
    it = msgspec.structs.replace(it, refusals=view.refusals(instance, history))
    can_do = remedies(it, session.given.store or "")
    commands = tuple(remedy.command for remedy in can_do)
    return msgspec.structs.replace(it, waits_for=waits_for(it, now), can_do=commands), can_do


async def _load(session: Session, address: Address) -> tuple[Instance, list[Entry]]:
    """The instance, and of its history what is shown with it: the refusals."""
    async with session.reading() as store:
        instance = await _loaded(session, store, address)
        if not view.was_refused(instance):
            return instance, []
        return instance, [entry async for entry in _entries(store, address) if entry.message.kind is Kind.REFUSAL]


async def _loaded(session: Session, store: Store, address: Address) -> Instance:
    (instance,) = await store.load([address])
    if instance is None:
        raise no_instance(session, address)
    return instance


@click.command
@click.argument("address", metavar="SAGA/KEY", type=ADDRESS)
@common_options
@with_session
def why(session: Session, address: Address) -> None:
    """In words: what an instance waits for, since when, and what would move it.

    JSON: item: saga, key, status, why (the paragraph), waits_for, can_do.
    """
    now = session.now()
    it, can_do = _detail(session, *asyncio.run(_load(session, address)), now)
    words = in_words(it, now)
    if session.output.as_json:
        names = ("saga", "key", "status", "waits_for", "can_do")
        session.output.json({"item": {"why": words, **{name: getattr(it, name) for name in names}}})
        return
    screens.paragraph(session.output, words)
    if session.output.on_terminal and it.parked is not None:
        for remedy in can_do:
            session.output.line(f"  {remedy.command}", style="cyan")


# History.


@click.command
@click.argument("address", metavar="SAGA/KEY", type=ADDRESS)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until the instance ends.")
@click.option("--at", type=click.IntRange(1), metavar="N", help="The instance as the N-th transition left it.")
@common_options
@with_session
def history(session: Session, address: Address, follow: bool, at: int | None) -> None:
    """The transitions of an instance: each message, and what came of it.

    --at N folds the first N of them through the saga's code, so it needs the app.

    In a pipe: number, time, message, outcome, what happened.

    JSON: items (version, at, outcome, notes, message: id, kind, type, time, user, reply_to, attempt, data with
    secrets as "***"), next; with -f one such object a line.
    """
    if at is not None:
        if follow:
            raise click.UsageError("--at and -f exclude each other")
        _show(session, *asyncio.run(_as_of(session, address, at)))
        return
    asyncio.run(_history(session, address, follow))


async def _history(session: Session, address: Address, follow: bool) -> None:
    async with session.reading() as store:
        instance = await _loaded(session, store, address)
        shown = await _print_history(session, store, address, 0)
        while follow and not (instance.status.is_end and shown >= instance.version):
            await rest()
            (latest,) = await store.load([address])
            if latest is None:
                return
            if latest.run != instance.run:  # the key started again
                shown = 0
            instance = latest
            if latest.version > shown:
                shown = await _print_history(session, store, address, shown)


async def _print_history(session: Session, store: Store, address: Address, after: int) -> int:
    """Print what came after a version; the version of the last."""
    output = session.output
    entries = [entry async for entry in _entries(store, address, after)]
    views = [view.entry(entry) for entry in entries]
    rows = [row for it in views for row in screens.entry_rows(it, for_people=output.on_terminal)]
    output.items(screens.ENTRY_TITLES, rows, views, with_titles=after == 0, wrap=True)
    return entries[-1].version if entries else after


async def _entries(store: Store, address: Address, after: int = 0) -> AsyncIterator[Entry]:
    while page := await store.history(address, after, MAX_PAGE):
        for entry in page:
            yield entry
        after = page[-1].version


async def _as_of(session: Session, address: Address, at: int) -> tuple[Instance, list[Entry]]:
    from ...machine import fold  # with it comes the whole machine

    definition = session.app.sagas.get(address.saga)
    if definition is None:
        raise AppError(f"app {session.app.name!r} has no saga {address.saga}; it has {', '.join(session.app.sagas)}")
    async with session.reading() as store:
        await _loaded(session, store, address)
        entries = [entry async for entry in _entries(store, address) if entry.version <= at]
    if len(entries) < at:
        raise NotFound(f"{address} has {len(entries)} transitions, there is no number {at}")
    instance = fold(definition, entries, session.settings.limits)
    assert instance is not None  # the first transition of an instance makes it
    return instance, entries


# Watching.


@click.command
@click.argument("address", metavar="[SAGA/KEY]", type=ADDRESS, required=False)
@click.option("--timeout", type=DURATION, metavar="30s", help="Give up after this time (exit code 75).")
@common_options
@with_session
def watch(session: Session, address: Address | None, timeout: float | None) -> None:
    """A line for each change: of all instances, or of one until its end.

    For one instance the exit code is the outcome: 0 completed, 4 parked, 5 compensated or killed, 75 timed out.

    In a pipe: the columns of `list`.

    JSON: one object a line, item: as in `list`.
    """
    until = None if timeout is None else session.now() + timedelta(seconds=timeout)
    if address is None:
        asyncio.run(_watch_all(session, until))
    else:
        raise click.exceptions.Exit(asyncio.run(_watch_one(session, address, until)))


async def _watch_one(session: Session, address: Address, until: datetime | None) -> Exit:
    seen: tuple[str, int] | None = None
    async with session.reading() as store:
        while True:
            it = view.summary(await _loaded(session, store, address))
            if (it.run, it.version) != seen:
                seen = (it.run, it.version)
                _print_change(session, it)
            if it.status.is_end:
                return Exit.DONE if it.status is Status.COMPLETED else Exit.UNDONE
            if it.parked is not None:
                return Exit.PARKED
            await _pause(session, until, f"{address} has not ended in this time; it goes on without being watched")


async def _watch_all(session: Session, until: datetime | None) -> None:
    seen: dict[str, tuple[str, int]] = {}
    since = session.now().timestamp()
    async with session.reading() as store:
        while True:
            changed = await _changed(store, since)
            for it in changed:
                if seen.get(it.address) != (it.run, it.version):
                    _print_change(session, it)
            seen = {it.address: (it.run, it.version) for it in changed}
            since = max(since, session.now().timestamp() - LOOK_BACK_S)
            await _pause(session, until, "the time for watching is over")


async def _changed(store: Store, since: float) -> list[InstanceView]:
    """What was updated at or after `since`, in the order of the updates."""
    query = Find(since=since, limit=MAX_PAGE)
    found: list[InstanceView] = []
    while True:
        page = await store.find(query)
        found += [view.summary(instance) for instance in page.items]
        if not page.next:
            return sorted(found, key=lambda it: it.updated_at)
        query = msgspec.structs.replace(query, cursor=page.next)


async def _pause(session: Session, until: datetime | None, over: str) -> None:
    if until is not None and session.now() >= until:
        raise TimeoutError(over)
    await rest()


async def rest() -> None:
    """Wait until it is time to look again."""
    await asyncio.sleep(POLL_S)


def _print_change(session: Session, it: InstanceView) -> None:
    if session.output.as_json:
        session.output.json({"item": it})
    elif session.output.on_terminal:
        session.output.line(screens.change_line(it), style=screens.style_of(it))
    else:
        session.output.table((), [screens.instance_row(it, session.now())])


# Dead letters and the waiting room.


@click.command("list")
@listener_option
@click.option("-n", "limit", type=click.IntRange(1, MOST), default=20, show_default=True, help="So many.")
@click.option("--cursor", type=click.IntRange(0, MAX_ROW_ID), default=0, help="Go on after this id.")
@common_options
@with_session
def dead_list(session: Session, listener: str, limit: int, cursor: int) -> None:
    """Dead letters, the oldest first: messages that nobody could use.

    In a pipe: id, time, type, for whom, reason, error.

    JSON: items (id, at, reason, error, listener, message, raw), next.
    """
    now = session.now()
    letters, following = asyncio.run(_rows(session, lambda store: letters_of(store, listener), cursor, limit))
    if listener and not letters:
        asyncio.run(_check_listener(session, listener))
    views = [view.dead_letter(letter) for letter in letters]
    rows = [screens.dead_row(it, now) for it in views]
    session.output.items(screens.DEAD_TITLES, rows, views, next_cursor=following, nothing="there are no dead letters")


async def _check_listener(session: Session, listener: str) -> None:
    async with session.reading() as store:
        await check_listener(session, store, listener)


@click.command("show")
@click.argument("dead_id", metavar="ID", type=click.IntRange(1, MAX_ROW_ID))
@common_options
@with_session
def dead_show(session: Session, dead_id: int) -> None:
    """One dead letter: the message or its bytes, the reason, the error.

    JSON: item (id, at, reason, error, listener, message, raw).
    """
    letters, _ = asyncio.run(_rows(session, lambda store: store.dead_letters, dead_id - 1, 1))
    if not letters or letters[0].id != dead_id:
        raise NotFound(f"there is no dead letter {dead_id}: `{session.command('dead', 'list')}` shows what there is")
    it = view.dead_letter(letters[0])
    commands = [session.command("dead", verb, str(dead_id)) for verb in ("redrive", "drop")]
    if session.output.as_json:
        session.output.json({"item": it})
    elif session.output.on_terminal:
        screens.dead_screen(session.output, it, commands, session.now())
    else:
        screens.dead_fields(session.output, it)


@click.command("list")
@click.option("-n", "limit", type=click.IntRange(1, MOST), default=20, show_default=True, help="So many.")
@click.option("--cursor", type=click.IntRange(0, MAX_ROW_ID), default=0, help="Go on after this id.")
@common_options
@with_session
def waiting_list(session: Session, limit: int, cursor: int) -> None:
    """The waiting room, the oldest first: messages that came before their instance.

    In a pipe: id, for whom, type, since, until (then it is a dead letter), message id.

    JSON: items (id, since, until, message), next.
    """
    now = session.now()
    found, following = asyncio.run(_rows(session, lambda store: store.waiting, cursor, limit))
    views = [view.early_message(row) for row in found]
    rows = [screens.waiting_row(it, now) for it in views]
    session.output.items(screens.WAITING_TITLES, rows, views, next_cursor=following, nothing="nobody waits")


async def _rows(
    session: Session,
    reader: Callable[[EventStore], Callable[[int, int], Awaitable[Sequence[Row]]]],
    after: int,
    limit: int,
) -> tuple[list[Row], str]:
    """Up to `limit` rows with an id greater than `after`, over several pages, and the cursor of what follows."""
    found: list[Row] = []
    async with session.reading() as store:
        read = reader(store)
        while len(found) <= limit:
            page = await read(found[-1].id if found else after, min(limit + 1 - len(found), MAX_PAGE))
            found += page
            if not page:
                return found, ""
    return found[:limit], str(found[limit - 1].id)


# Definitions.


@click.command
@click.argument("saga", shell_complete=complete_saga)
@click.option("-o", "form", type=click.Choice(FORMS), default="mermaid", show_default=True)
@common_options
@with_session
def graph(session: Session, saga: str, form: str) -> None:
    """A SAGA's steps, what each sends, the pivot, and what undoes what. Needs the app."""
    from ..graph import Form, draw

    definition = session.app.sagas.get(saga)
    if definition is None:
        raise NotFound(f"app {session.app.name!r} has no saga {saga}; it has {', '.join(session.app.sagas)}")
    picture = draw(definition, Form(form))
    if session.output.as_json:
        session.output.json({"item": {"saga": saga, "form": form, "graph": picture}})
    else:
        session.output.raw(picture)
