"""A program to be killed: `python -m tests.proof.projections.victim DIRECTORY EVENTS`.

It appends the file to the log, keeps the projections and builds them anew all the time. Started again it goes on where
it was; it ends when all is appended and every projection has been built anew once more.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from orchestrator import EventLog, Orchestrator, ReadModel
from orchestrator_adapters.sqlite import SQLiteStore

from .applications import STORE, ApplicationEvent, app, stretches

PIECE = 500  # events that are appended at a time, each application's by itself


async def live(directory: Path, limit: int) -> None:
    """One life."""
    async with Orchestrator(app, f"sqlite:///{directory / STORE}") as orchestrator:
        models = [orchestrator.projection(name) for name in app.projections]
        async with anyio.create_task_group() as tasks:
            for model in models:
                tasks.start_soon(_rebuild_again_and_again, model)
            await _append(orchestrator.events, await _there(directory), limit)
            tasks.cancel_scope.cancel()
        for model in models:
            await model.rebuild()
            await model.reached(limit)


async def _there(directory: Path) -> int:
    async with SQLiteStore(directory / STORE, read_only=True) as store:
        return await store.last_position()


async def _rebuild_again_and_again(model: ReadModel) -> None:
    while True:
        await model.rebuild()


async def _append(log: EventLog, there: int, limit: int) -> None:
    """What is not there yet; of a piece that was begun, what is there is not appended again, by its keys."""
    for number, piece in enumerate(stretches(PIECE, limit)):
        if number < there // PIECE:
            continue
        async with anyio.create_task_group() as appending:
            for stream, events in piece:
                appending.start_soon(_append_once, log, stream, events, f"{number}/{stream}")


async def _append_once(log: EventLog, stream: str, events: list[ApplicationEvent], key: str) -> None:
    await log.append(stream, events, key=key)


if __name__ == "__main__":
    anyio.run(live, Path(sys.argv[1]), int(sys.argv[2]))
