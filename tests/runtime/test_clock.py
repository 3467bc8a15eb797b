"""The machine's clock, when somebody sets it."""

from __future__ import annotations

from types import SimpleNamespace

import anyio
import pytest

from orchestrator.runtime import clock
from orchestrator.runtime.clock import LOOK_S, SystemClock

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("jump", [3600, -3600, 0.5])
async def test_a_nap_ends_soon_after_the_clock_was_set(jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    offset = 1e9
    monkeypatch.setattr(clock, "time", SimpleNamespace(time=lambda: anyio.current_time() + offset))
    began = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(SystemClock().sleep, 1000)
        await anyio.sleep(100.5)
        offset += jump
    slept = anyio.current_time() - began
    assert slept == pytest.approx(1000, abs=0.1) if jump == 0.5 else 100.5 <= slept <= 100.6 + LOOK_S


async def test_a_nap_is_as_long_as_it_was_asked_for() -> None:
    began = anyio.current_time()
    await SystemClock().sleep(0.01)
    await SystemClock().sleep(0)
    assert anyio.current_time() - began == pytest.approx(0.01, abs=0.02)
