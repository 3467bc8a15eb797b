"""What must hold when all is over: the audit of the store with the participants' books, and the books by themselves."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio

from orchestrator import App
from orchestrator.checking.audit import Audit, Books, Delivered, Effect, audit
from orchestrator.machine import Instance
from orchestrator.messages import type_name
from orchestrator.ports import MAX_PAGE, Find
from orchestrator.urls import open_store

from .lives import Place
from .works import Do, Look, Take


def read_books(folder: Path, accepted: Iterable[str] = ()) -> Books:
    """The books of the works."""
    with closing(sqlite3.connect(folder / "calls.db")) as calls:
        rows = calls.execute("SELECT key, undoes, attempt, data FROM call ORDER BY number").fetchall()
    with closing(sqlite3.connect(folder / "effects.db")) as effects:
        happened = effects.execute("SELECT key, is_undo FROM effect ORDER BY number").fetchall()
    return Books(
        accepted=tuple(accepted),
        delivered=tuple(Delivered(key, undoes, attempt, bytes(data)) for key, undoes, attempt, data in rows),
        effects=tuple(Effect(key, bool(is_undo)) for key, is_undo in happened),
        complete=tuple(type_name(cls) for cls in (Do, Take, Look)),
    )


def audited(app: App[Any], url: str, books: Books | None, *, idle: bool) -> Audit:
    """The audit of a store that lies still, or beside its daemon."""

    async def run() -> Audit:
        async with open_store(url, read_only=True) as store:
            return await audit(app, store, books, idle=idle)

    return anyio.run(run)


def wrong_in_the_end(place: Place, app: App[Any], books: Books) -> tuple[Audit, list[str]]:
    """The audit of a store that is idle, and what is wrong by it, by the ends, and by the effects."""
    found = audited(app, place.url, books, idle=True)
    runs = _statuses(place.url)
    ends = ("completed", "compensated")
    wrong = list(found.violations)
    wrong += [f"{run} is {status} in the end" for run, status in runs.items() if status not in ends]
    return found, wrong + _wrong_effects(books.effects, runs)


def _wrong_effects(effects: Iterable[Effect], runs: dict[str, str]) -> list[str]:
    """By the participants alone: once done and at most once undone, nothing stands of what was undone."""
    happened: dict[str, str] = {}
    for effect in effects:
        happened[effect.key] = happened.get(effect.key, "") + ("undone " if effect.is_undo else "done ")
    wrong = [f"{key}: {what}" for key, what in happened.items() if what not in ("done ", "done undone ")]
    standing = {key.rpartition("/")[0] for key, what in happened.items() if what == "done "}
    wrong += [f"{run} is {runs.get(run)}, but effects stand" for run in standing if runs.get(run) != "completed"]
    wrong += [
        f"{run} is completed, but no effect stands"
        for run, status in runs.items()
        if status == "completed" and run not in standing
    ]
    return wrong


def _statuses(url: str) -> dict[str, str]:
    """The status of every run, by the beginning of its keys (R3)."""
    return {
        f"{quote(each.saga, safe='')}/{quote(each.key, safe='')}~{each.run}": str(each.status)
        for each in _instances(url)
    }


def _instances(url: str) -> list[Instance]:
    async def read() -> list[Instance]:
        async with open_store(url, read_only=True) as store:
            page = await store.find(Find(limit=MAX_PAGE))
            found = [*page.items]
            while page.next:
                page = await store.find(Find(limit=MAX_PAGE, cursor=page.next))
                found += page.items
            return found

    return anyio.run(read)
