"""What projections read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..ports import MAX_PAGE
from ..recorded import Stretch


class Log(Protocol):
    """The events of a store: any store is one."""

    async def log(self, after: int = 0, limit: int = MAX_PAGE, types: Sequence[str] = ()) -> Stretch:
        """As the Store port says."""
        ...

    async def last_position(self) -> int:
        """As the Store port says."""
        ...
