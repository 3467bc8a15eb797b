"""Acting without a daemon: take the store's lock, commit what is asked, leave the rest to the next daemon."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Self

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from ..app import App
from ..config import Settings
from ..runtime.engine import Engine
from ..urls import open_store
from .answering import answer
from .control import user_name
from .protocol import WINDOW, Answer, Ask


class Own:
    """An engine of one's own for the time of a verb: it commits, but runs no participant, timer or relay.

    Errors of entering: StoreLocked when another process writes the store, and whatever else opening it raises.
    """

    def __init__(self, app: App, settings: Settings) -> None:
        """Nothing is opened yet."""
        self._engine = Engine(
            app,
            open_store(settings.store),
            limits=settings.limits,
            topics=settings.topics,
            webhooks=settings.webhooks,
            acting=False,
        )
        self._limits = settings.limits
        self._who = user_name(os.geteuid())
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(self._portal.wrap_async_context_manager(self._engine))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def ask_all(self, asks: Iterable[Ask]) -> Iterator[Answer]:
        """The answers, in the order of the asks; a window of them shares its commits."""
        assert self._portal is not None
        remaining = iter(asks)
        while window := list(islice(remaining, WINDOW)):
            yield from self._portal.call(self._answer_all, window)

    async def _answer_all(self, asks: list[Ask]) -> list[Answer]:
        answers: dict[int, Answer] = {}

        async def answer_one(index: int, ask: Ask) -> None:
            answers[index] = await answer(self._engine, self._limits, ask, self._who)

        async with anyio.create_task_group() as tasks:
            for index, ask in enumerate(asks):
                tasks.start_soon(answer_one, index, ask)
        return [answers[index] for index in range(len(asks))]
