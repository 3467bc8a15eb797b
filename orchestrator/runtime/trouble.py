"""What goes wrong for a while, and is tried again until it works: known to people, told once in the log."""

from __future__ import annotations

import logging

from ..ports import Clock

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0

_log = logging.getLogger(__name__)


class Trouble:
    """Whether something fails at present: `text` says what and why, `since` (seconds since 1970) for how long."""

    def __init__(self, what: str, clock: Clock) -> None:
        """`what` cannot be done while it lasts, in words."""
        self.text = ""
        self.since: float | None = None
        self._what = what
        self._clock = clock
        self._pause_s = FIRST_PAUSE_S

    def lasts(self, seconds: float) -> bool:
        """Whether it has lasted that long."""
        return self.since is not None and self._clock.now() - self.since >= seconds

    def begins(self, error: Exception) -> None:
        """It failed, or fails again."""
        self.text = f"{self._what}: {error}"
        if self.since is None:
            self.since = self._clock.now()
            _log.error("%s", self.text)

    async def pause(self) -> None:
        """Wait before trying again, longer each time."""
        await self._clock.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def ends(self) -> bool:
        """It worked. Whether it did not before."""
        if self.since is None:
            return False
        _log.info("over: %s", self.text)
        self.text, self.since, self._pause_s = "", None, FIRST_PAUSE_S
        return True
