"""Everything that a store holds, page by page, through its port."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator

from msgspec import Struct

from ...machine.instance import Instance
from ...machine.transition import Entry
from ...ports import MAX_PAGE, Find, Store, Waiting
from ...wire import Address, DeadLetter, Outgoing

READINGS = 5  # of one instance that others move meanwhile


class Story(Struct, frozen=True):
    """An instance and its history."""

    instance: Instance
    entries: tuple[Entry, ...]


class Rows(Struct, frozen=True):
    """What a store holds besides."""

    outbox: tuple[Outgoing, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    dead: tuple[DeadLetter, ...] = ()


async def stories(store: Store) -> AsyncGenerator[Story]:
    """Every instance with its history, the newest started first; also of a store that is in use."""
    query = Find(limit=MAX_PAGE)
    while True:
        page = await store.find(query)
        for instance in page.items:
            story = await _story(store, instance)
            if story is not None:
                yield story
        if not page.next:
            return
        query = Find(limit=MAX_PAGE, cursor=page.next)


async def rows(store: Store) -> Rows:
    """The outbox, the waiting room and the dead letters."""
    outbox: list[Outgoing] = []
    after = 0
    while page := await store.due(math.inf, MAX_PAGE, after):
        outbox += [due.outgoing for due in page]
        after = page[-1].position
    waiting: list[Waiting] = []
    while early := await store.waiting(waiting[-1].id if waiting else 0):
        waiting += early
    dead: list[DeadLetter] = []
    while letters := await store.dead_letters(dead[-1].id if dead else 0):
        dead += letters
    return Rows(tuple(outbox), tuple(waiting), tuple(dead))


async def _story(store: Store, instance: Instance) -> Story | None:
    """None: it was pruned meanwhile."""
    entries: list[Entry] = []
    for _ in range(READINGS):
        entries = await _history(store, instance.address)
        if entries and entries[-1].version == instance.version:
            break
        [now] = await store.load([instance.address])
        if now is None:
            return None
        if (now.run, now.version) == (instance.run, instance.version):
            break
        instance = now
    return Story(instance, tuple(entries))


async def _history(store: Store, address: Address) -> list[Entry]:
    entries: list[Entry] = []
    while page := await store.history(address, entries[-1].version if entries else 0):
        entries += page
        if len(page) < MAX_PAGE:
            break
    return entries
