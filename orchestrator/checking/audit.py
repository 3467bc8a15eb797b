"""`audit`: whether all that a store holds, and what others know of it, keeps the invariants I1-I10."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ..app import App
from ..machine.limits import MachineLimits
from ..ports import Store
from ..wire import Address
from .auditing.books import Books, Delivered, Effect
from .auditing.effects import disagreeing
from .auditing.examined import Examined, examined
from .auditing.places import left_over, miscounted, misplaced, under_way
from .auditing.stored import rows, stories

__all__ = ["Audit", "Books", "Delivered", "Effect", "audit"]

_LIMITS = MachineLimits()


class Audit(Struct, frozen=True, kw_only=True):
    """What an audit found: a sentence for each violation, its invariant and instance first.

    `not_compared`: how many instances are of another version of their saga, or may have begun under one (R18). What
    other code did cannot be gone through once more, so I2, I4-I6, I8 and I9 are not judged of their histories.
    """

    instances: int
    transitions: int
    violations: tuple[str, ...] = ()
    not_compared: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations


async def audit(
    app: App[Any], store: Store, books: Books | None = None, *, idle: bool = False, limits: MachineLimits = _LIMITS
) -> Audit:
    """Go through every history of an opened store that nobody writes meanwhile; `read_only` will do.

    I2-I6, I8 and I9 are judged by the store alone, I10 and I7 as far as `books` go, I1 by both. `idle`: nothing is
    under way any more, so what has not come to its end is wrong too. `limits`: those the histories were made under.
    Errors: StoreError.
    """
    books = books or Books()
    all: dict[Address, Examined] = {}
    async for story in stories(store):
        all[story.instance.address] = examined(app.sagas, story, limits)
    others = await rows(store)
    counted = (await store.counts(0.0)).instances
    wrong = [f"{it.rule} {one.address}: {it.what}" for one in all.values() for it in one.wrong]
    wrong += miscounted(all, counted)
    wrong += misplaced(app, all, others, books.accepted)
    wrong += left_over(all, others)
    if idle:
        wrong += under_way(all, others)
    wrong += disagreeing(all, app.sagas, books)
    return Audit(
        instances=len(all),
        transitions=sum(one.transitions for one in all.values()),
        violations=tuple(wrong),
        not_compared=sum(not one.replayed.is_compared for one in all.values()),
    )
