"""Webhooks as people see them: read from a store beside whoever writes it. No secret is shown here."""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import datetime

from msgspec import Struct

from ..event_log import EventStore
from ..messages import decode
from ..ports import MAX_PAGE
from ..recorded import by_wire_type
from ..webhooks import EVENTS, STREAM, Subscriptions, Webhook, WebhookEvent, shown_url
from ..wire import Outgoing, Route
from .view import WebhookNeed, moment

MOST_ROWS = 100_000  # of the outbox and of the dead letters that are counted

_CLASSES = by_wire_type(EVENTS)


class WebhookView(Struct, frozen=True, kw_only=True):
    """A webhook. `state`: active, failing (since `since`) or paused; `why` it is paused, or the last error. `waiting`:
    events that it has not got yet, `attempt` and `next_at`: of the one that failed most often, which comes next and
    when; `dead`: that it did not take in all attempts (null: not counted). `secrets`: how many sign at present.
    """

    name: str
    url: str
    types: tuple[str, ...]
    state: str
    since: datetime
    why: str
    secrets: int
    insecure: bool
    added_at: datetime
    waiting: int | None = None
    attempt: int = 1
    next_at: datetime | None = None
    dead: int | None = None


class ChangeView(Struct, frozen=True, kw_only=True):
    """Something that happened to a webhook, and who did it (empty: it happened by itself)."""

    at: datetime
    what: str
    who: str


async def read(store: EventStore) -> Subscriptions:
    """All webhooks of a store. Errors: StoreError."""
    found = Subscriptions()
    while rows := await store.stream(STREAM, found.version):
        for row in rows:
            envelope = row.envelope
            if cls := _CLASSES.get(envelope.type):
                event = decode(cls, envelope.data, envelope.version)
                assert isinstance(event, WebhookEvent)
                found.apply(event, envelope.time, row.version)
            found.version = row.version
    return found


async def changes(store: EventStore, name: str) -> list[ChangeView]:
    """What happened to the webhooks of this name, the oldest first."""
    found: list[ChangeView] = []
    async for recorded in store.read(STREAM, types=EVENTS):
        event = recorded.event
        if isinstance(event, WebhookEvent) and event.name == name:
            what = recorded.type.rpartition(".")[2]
            found.append(ChangeView(at=recorded.metadata.time, what=what, who=recorded.metadata.user))
    return found


class Queue(Struct):
    """What a sink has not got: how many rows of the outbox, the next attempt at the one that failed most often, and how
    many dead letters.
    """

    waiting: int = 0
    attempt: int = 1
    next_at: float | None = None
    dead: int = 0

    def add(self, row: Outgoing) -> None:
        """One more that waits."""
        self.waiting += 1
        if row.envelope.attempt > self.attempt:
            self.attempt, self.next_at = row.envelope.attempt, row.due_at


async def queues(store: EventStore) -> dict[str, Queue]:
    """Of each sink that has one."""
    found: defaultdict[str, Queue] = defaultdict(Queue)
    after = 0
    for _ in range(MOST_ROWS // MAX_PAGE):
        rows = await store.due(math.inf, MAX_PAGE, after)
        for due in rows:
            if due.outgoing.route is Route.LISTENER:
                found[due.outgoing.listener].add(due.outgoing)
        if len(rows) < MAX_PAGE:
            break
        after = rows[-1].position
    after = 0
    for _ in range(MOST_ROWS // MAX_PAGE):
        letters = await store.dead_letters(after)
        for letter in letters:
            if letter.listener:
                found[letter.listener].dead += 1
        if len(letters) < MAX_PAGE:
            break
        after = letters[-1].id
    return found


def view(webhook: Webhook, now: float, queue: Queue | None = None) -> WebhookView:
    """A webhook as it stands."""
    state, since, why = _standing(webhook)
    return WebhookView(
        name=webhook.name,
        url=shown_url(webhook.url),
        types=webhook.types,
        state=state,
        since=moment(since),
        why=why,
        secrets=len(webhook.signing(now)),
        insecure=webhook.insecure,
        added_at=moment(webhook.added_at),
        waiting=None if queue is None else queue.waiting,
        attempt=1 if queue is None else queue.attempt,
        next_at=None if queue is None or queue.next_at is None else moment(queue.next_at),
        dead=None if queue is None else queue.dead,
    )


def needs(found: Subscriptions) -> tuple[WebhookNeed, ...]:
    """Those that fail, or paused by themselves."""
    needy = [webhook for webhook in found if webhook.needs_somebody]
    return tuple(
        WebhookNeed(name=webhook.name, state=state, since=moment(since), why=why)
        for webhook in needy
        for state, since, why in [_standing(webhook)]
    )


def _standing(webhook: Webhook) -> tuple[str, float, str]:
    if webhook.paused_at is not None:
        return "paused", webhook.paused_at, webhook.why
    if webhook.failing is not None:
        return "failing", webhook.failing.since, webhook.failing.error
    return "active", webhook.added_at, ""
