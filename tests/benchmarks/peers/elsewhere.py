"""The other process of a participant that needs two: it ends when the first one ends."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from orchestrator.operate.cli.run import COLLECT_AFTER


class Other:
    """Its process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    async def wait(self) -> None:
        """Until it says something."""
        assert self._process.stdout is not None
        said = await anyio.to_thread.run_sync(self._process.stdout.readline)
        if not said:
            raise RuntimeError("the other process has ended")

    def tell(self) -> None:
        """Let it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()


@asynccontextmanager
async def elsewhere(module: str, directory: Path, *more: str) -> AsyncGenerator[Other]:
    """Start it, and return when it says that it is ready."""
    command = [sys.executable, "-m", f"tests.benchmarks.peers.{module}", "--work", "--dir", str(directory), *more]
    process = subprocess.Popen(  # noqa: ASYNC220 once, before anything runs
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    other = Other(process)
    try:
        await other.wait()
        yield other
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def like_a_daemon() -> None:
    """Collect garbage as rarely as `orchestrator run` and `work` do: on both sides."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


async def until_told() -> None:
    """Say that something is done, and wait until the first process lets us go on, or ends."""
    print("ready", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
