"""How long is waited before the next attempt, whatever was asked for."""

from __future__ import annotations

import math

import pytest
from tenacity import stop_after_attempt

from orchestrator import Retry, RetryAfter


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_nobody_can_be_asked_to_wait_for_what_is_no_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="the next attempt is after 0 to"):
        RetryAfter(seconds)


@pytest.mark.parametrize("retry", [Retry(attempts=3), Retry(stop=stop_after_attempt(3))])
@pytest.mark.parametrize(("asked", "delay"), [(-5.0, 0.0), (7.0, 7.0), (1e300, RetryAfter.LONGEST_S)])
def test_what_a_service_elsewhere_asks_for_is_bounded(retry: Retry, asked: float, delay: float) -> None:
    assert retry.delay("key", 1, 0.0, "busy", asked) == delay
    assert retry.delay("key", 3, 0.0, "busy", asked) is None
