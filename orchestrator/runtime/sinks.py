"""What a sink is: somebody who takes events outside of this process, and who comes and goes while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from ..wire import Envelope, Outgoing
from .pool import Worker


class Delivered(Struct, frozen=True):
    """It has the event."""


class Later(Struct, frozen=True):
    """It has not; try again after so many seconds."""

    seconds: float
    error: str


class GivenUp(Struct, frozen=True):
    """It will not have it: a dead letter."""

    reason: str
    error: str


class Kept(Struct, frozen=True):
    """Nothing was tried, or it does not count: the delivery stays as it is."""


Verdict = Delivered | Later | GivenUp | Kept


class Sink(Protocol):
    """One of them, under the name that its outbox rows bear."""

    @property
    def name(self) -> str:
        """Of its outbox rows and dead letters."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether deliveries are to be begun now; else they stay in the store."""
        ...

    async def deliver(self, worker: Worker, row: Outgoing) -> Verdict:
        """Carry one event to it, in bounded time. It raises only what must stop the engine."""
        ...


class Sinks(Protocol):
    """Those that there are at present."""

    def wanting(self, event: Envelope) -> Sequence[str]:
        """The names of those that want this event."""
        ...

    def names(self) -> Sequence[str]:
        """Of all of them."""
        ...

    def find(self, name: str) -> Sink | None:
        """The sink of this name."""
        ...

    def is_one(self, name: str) -> bool:
        """Whether this is a sink's name, even of one that is gone."""
        ...
