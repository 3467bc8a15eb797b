"""When to try again: a pure function of the attempt, so that a schedule survives a restart (R19)."""

from __future__ import annotations

import hashlib
import random
from math import isfinite
from typing import Protocol

from msgspec import Struct
from tenacity import RetryCallState

from .errors import RetryAfter


class _Wait(Protocol):
    def __call__(self, retry_state: RetryCallState) -> float: ...


class _Stop(Protocol):
    def __call__(self, retry_state: RetryCallState) -> bool: ...


class Retry(Struct, frozen=True):
    """How often and how far apart a command is tried; all times in seconds.

    `attempts` in all, each at most `timeout` long; before attempt n+1 a pause of `initial * multiplier**(n-1)`, at
    most `maximum`, less up to a quarter of jitter. `wait` and `stop` take tenacity's own objects instead; they are
    asked as functions of the attempt (and the seconds since the first), nothing is slept.
    """

    attempts: int = 5
    timeout: float = 60.0
    initial: float = 0.5
    maximum: float = 60.0
    multiplier: float = 2.0
    wait: _Wait | None = None
    stop: _Stop | None = None

    def delay(
        self, key: str, attempt: int, elapsed: float, error: str = "", asked: float | None = None
    ) -> float | None:
        """Seconds to wait after failed attempt number `attempt` of the command `key`, or None to give up.

        `elapsed`: seconds since the first attempt began; `asked`: what a RetryAfter asked for. The jitter is derived
        from (key, attempt), so that the answer is always the same.
        """
        if asked is not None:
            asked = min(max(0.0, asked), RetryAfter.LONGEST_S)  # a service elsewhere may ask for anything
        if self.wait is None and self.stop is None:
            if attempt >= self.attempts:
                return None
            return asked if asked is not None else self._pause(key, attempt)
        state = _as_tenacity(attempt, elapsed, error, asked)
        if self.stop is not None:
            if self.stop(state):
                return None
        elif attempt >= self.attempts:
            return None
        if asked is not None:
            return asked
        if self.wait is None:
            return self._pause(key, attempt)
        pause = _reproducibly(f"{key}:{attempt}", self.wait, state)
        return pause if isfinite(pause) else None  # to wait for ever is to give up

    def patient(self) -> Retry:
        """The same for an undo: ten attempts at least, or as long as `stop` says (R8)."""
        return (
            self
            if self.attempts >= 10
            else Retry(10, self.timeout, self.initial, self.maximum, self.multiplier, self.wait, self.stop)
        )

    def _pause(self, key: str, attempt: int) -> float:
        full = min(self.maximum, self.initial * self.multiplier ** min(attempt - 1, 64))
        return full * (1 - 0.25 * _fraction(f"{key}:{attempt}"))


def _fraction(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") / 2**32


def _as_tenacity(attempt: int, elapsed: float, error: str, asked: float | None) -> RetryCallState:
    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    failure: BaseException = RetryAfter(asked, error) if asked is not None else RuntimeError(error)
    state.set_exception((type(failure), failure, None))
    state.attempt_number = attempt
    state.start_time, state.outcome_timestamp = 0.0, elapsed
    return state


def _reproducibly(seed: str, wait: _Wait, state: RetryCallState) -> float:
    before = random.getstate()  # tenacity's jitter draws from the global generator
    random.seed(seed)
    try:
        return max(0.0, float(wait(state)))
    finally:
        random.setstate(before)
