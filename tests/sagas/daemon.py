"""A real daemon as a child process, the verbs that a person would use on it, and what must hold after any run."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from orchestrator import App
from orchestrator.machine import Instance, fold
from orchestrator.machine.transition import Entry
from orchestrator.ports import MAX_PAGE, Find, Store
from orchestrator.urls import open_store

ORCHESTRATOR = [sys.executable, "-c", "from orchestrator.operate.cli import main; main(prog_name='orchestrator')"]
OPEN = ("running", "compensating")


class Daemon:
    """`orchestrator run` on a store in `folder`, or another verb that hosts the app; `settings` are environment
    variables.
    """

    def __init__(
        self, app: Path, folder: Path, *, words: tuple[str, ...] = ("run",), name: str = "store", **settings: str
    ) -> None:
        self.store = f"sqlite:///{folder / f'{name}.db'}"
        self.log = folder / f"{name}.log"
        self._words = words
        self.environment = {
            **os.environ,
            "ORCHESTRATOR_APP": str(app),
            "ORCHESTRATOR_STORE": self.store,
            "PYTHONWARNINGS": "error",
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it, and wait until it answers."""
        self.start()
        try:
            self.wait_until(self.is_up)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def start(self) -> None:
        with self.log.open("ab") as log:
            words = [*ORCHESTRATOR, *self._words, "--store", self.store, "--log", "text"]
            self.process = subprocess.Popen(words, stderr=log, env=self.environment)

    def is_up(self) -> bool:
        """Whether it answers. Fails if it has ended by itself."""
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return bool(self.ask("status").get("item", {}).get("daemon"))

    def serves(self) -> bool:
        """Whether its log says so."""
        assert self.process is not None
        return f"pid {self.process.pid}\n" in self.log.read_text()

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> int:
        """SIGTERM. Returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(20)
        self.process = None
        return code

    def call(self, *words: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """A verb of the command line."""
        return subprocess.run(
            [*ORCHESTRATOR, *words], env=self.environment, input=input, capture_output=True, timeout=120
        )

    def popen(self, *words: str) -> subprocess.Popen[bytes]:
        """A verb that runs beside the test."""
        return subprocess.Popen(
            [*ORCHESTRATOR, *words], env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def ask(self, *words: str) -> dict[str, Any]:
        """A verb's JSON."""
        answer: dict[str, Any] = json.loads(self.call(*words, "--json").stdout or "{}")
        return answer

    def text(self, *words: str) -> str:
        """What a verb writes into a pipe."""
        return self.call(*words).stdout.decode()

    def counts(self, saga: str) -> dict[str, int]:
        """status -> how many."""
        counts: dict[str, int] = self.ask("status").get("item", {}).get("instances", {}).get(saga, {})
        return counts

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float = 40) -> None:
        """Look again and again, until it is so."""
        deadline = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < deadline, f"{self.text('status')}\n{self.log.read_text()[-4000:]}"
            time.sleep(0.1)

    def wait_for_ends(self, saga: str, count: int) -> dict[str, int]:
        """Until so many instances have ended. Returns the counts by status."""
        self.wait_until(lambda: sum(n for status, n in self.counts(saga).items() if status not in OPEN) >= count)
        return self.counts(saga)


async def all_instances(store: Store, saga: str = "") -> list[Instance]:
    found: list[Instance] = []
    page = await store.find(Find(saga=saga, limit=MAX_PAGE))
    found += page.items
    while page.next:
        page = await store.find(Find(saga=saga, limit=MAX_PAGE, cursor=page.next))
        found += page.items
    return found


async def history(store: Store, instance: Instance) -> list[Entry]:
    entries: list[Entry] = []
    while page := await store.history(instance.address, len(entries), MAX_PAGE):
        entries += page
    return entries


async def check_store(url: str, app: App[Any]) -> list[Instance]:
    """I2, I3, I8 and I9 for every instance, and no dead letter. Returns the instances."""
    async with open_store(url, read_only=True) as store:
        instances = await all_instances(store)
        for instance in instances:
            entries = await history(store, instance)
            assert [entry.version for entry in entries] == list(range(1, instance.version + 1)), instance.address
            assert fold(app.sagas[instance.saga], entries) == instance, instance.address
            if instance.status.is_end:
                assert instance.wake_at is None and not instance.kept, instance.address
            else:
                assert instance.wake_at is not None or instance.parked or instance.paused, instance.address
        assert await store.dead_letters() == []
    return instances
