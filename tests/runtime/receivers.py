"""Receivers of webhooks in virtual time, behind a sender that knows them by their URL."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from typing import Any, Self

import anyio
import msgspec

from orchestrator.app import App
from orchestrator.errors import NotSent
from orchestrator.messages import Event
from orchestrator.participant import listener
from orchestrator.ports import Post, Posted

Answer = int | Posted | Exception | Callable[[], Awaitable[int]]


class UserRegistered(Event):
    user_id: str
    password_hash: str = "geheim"


class UserJoined(Event, type="user.registered", version=2, boundary=True):
    user: str


class UserLeft(Event, type="user.deactivated", boundary=True):
    user: str


class OrderClosed(Event, type="order.closed", boundary=True):
    order: str


class Receivers:
    """Answers 200, or as it was told to; remembers what came, when, and what the bodies said."""

    def __init__(self) -> None:
        self.came: list[tuple[str, Post]] = []
        self.times: dict[str, list[float]] = defaultdict(list)
        self.usual: dict[str, Answer] = {}
        self.answers: dict[str, deque[Answer]] = defaultdict(deque)
        self.running = 0
        self.most: dict[str, int] = defaultdict(int)
        self._running: dict[str, int] = defaultdict(int)
        self.closed = False
        self._tried = anyio.Event()

    @classmethod
    def allowing(cls, takes: Callable[[str], bool]) -> Self:
        return cls()

    def will(self, host: str, *answers: Answer) -> None:
        self.answers[host].extend(answers)

    def users(self, host: str) -> list[str]:
        return [body["data"]["user"] for body in self.bodies(host)]

    def bodies(self, host: str) -> list[Any]:
        return [msgspec.json.decode(post.body) for name, post in self.came if name == host]

    async def post(self, post: Post) -> Posted:
        host = post.url.split("/")[2]
        self.times[host].append(anyio.current_time())
        self._tried.set()
        self._running[host] += 1
        self.most[host] = max(self.most[host], self._running[host])
        try:
            await anyio.sleep(0.01)
            answers = self.answers[host]
            answer = answers.popleft() if answers else self.usual.get(host, 200)
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, Posted):
                return answer
            status = answer if isinstance(answer, int) else await answer()
            if status == 200:
                self.came.append((host, post))
            return Posted(status)
        finally:
            self._running[host] -= 1

    async def tried(self, host: str, times: int) -> None:
        """Wait until a host was tried so often."""
        while len(self.times[host]) < times:
            self._tried = anyio.Event()
            await self._tried.wait()

    async def check(self, url: str) -> None:
        if "internal" in url:
            raise NotSent("internal is at an address that is not public")

    async def close(self) -> None:
        self.closed = True


@listener
async def translate(event: UserRegistered) -> UserJoined:
    return UserJoined(event.user_id)


@listener
async def close(event: UserLeft) -> OrderClosed:
    return OrderClosed(event.user)


def users(*more: Any) -> App[Any]:
    return App("users", listeners=[translate, close, *more])
