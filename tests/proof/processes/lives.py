"""Daemons as processes: started, told of by their own notifications, killed, stopped."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
from msgspec import Struct

from orchestrator.operate import client
from orchestrator.ports import Counts
from orchestrator.urls import open_store

ROOT = Path(__file__).parents[3]
PROGRAM = (sys.executable, "-W", "error", "-c", "from orchestrator.operate.cli import main; main()")
READY, STOPPING = b"READY=1", b"STOPPING=1"
START_S = 60.0  # the longest that anything may take on a busy machine
STOP_S = 12.0  # ten seconds are promised, the rest is for noticing
LOOK_S = 0.02
_numbers = itertools.count()


class Place(Struct, frozen=True):
    """Where daemons live, one after the other: their app, a folder with the store and the log, their environment."""

    folder: Path
    app: Path
    settings: dict[str, str] = {}
    program: tuple[str, ...] = PROGRAM

    @property
    def store(self) -> Path:
        return self.folder / "store.db"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.store}"

    @property
    def log(self) -> Path:
        return self.folder / "daemon.log"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
        paths = os.pathsep.join((str(ROOT), str(ROOT / "adapters"), os.environ.get("PYTHONPATH", "")))
        own = {"PYTHONPATH": paths, "ORCHESTRATOR_APP": str(self.app), "ORCHESTRATOR_STORE": self.url}
        return {**kept, **own, "PROOF_BOOKS": str(self.folder), **self.settings}

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A verb of the command line, to its end."""
        return subprocess.run(
            [*PROGRAM, *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=2 * START_S,
        )

    def counts(self) -> Counts:
        """What the store holds, read beside the daemon."""

        async def read() -> Counts:
            async with open_store(self.url, read_only=True) as store:
                return await store.counts(time.time())

        return anyio.run(read)

    def open_instances(self) -> int:
        sagas = self.counts().instances.values()
        return sum(saga.get("running", 0) + saga.get("compensating", 0) for saga in sagas)

    def log_lines(self) -> Iterator[dict[str, Any]]:
        """What the daemons logged; what a kill cut off in the middle of a line is left out."""
        for line in self.log.read_bytes().splitlines() if self.log.exists() else ():
            try:
                yield msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.DecodeError:
                continue


class Died(AssertionError):
    """A daemon ended that nobody had ended."""


class Life:
    """One process of `orchestrator run`, killed at the end of the block if it still runs then."""

    def __init__(self, place: Place, *words: str) -> None:
        """Start it."""
        self.place = place
        self.told: list[bytes] = []
        name = f"saga-proof-{os.getpid()}-{next(_numbers)}"
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind("\0" + name)
        self._notices.setblocking(False)
        self.began = time.monotonic()
        with place.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*place.program, "run", "--log", "json", *words],
                cwd=place.folder,
                env={**place.environment, "NOTIFY_SOCKET": "@" + name},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def __enter__(self) -> Life:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self._notices.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.began

    def has_said(self, word: bytes) -> bool:
        """Whether it told its supervisor so."""
        while True:
            try:
                self.told.append(self._notices.recv(4096))
            except BlockingIOError:
                return any(told.startswith(word) for told in self.told)

    def says(self, word: bytes, seconds: float = START_S) -> bool:
        """Wait until it says so, at most so long. Errors: Died."""
        ends = time.monotonic() + seconds
        while not self.has_said(word):
            left = ends - time.monotonic()
            if left <= 0:
                return False
            self.lives(min(left, LOOK_S))
        return True

    def lives(self, seconds: float) -> None:
        """Leave it alone for so long. Errors: Died, if it ends by itself meanwhile."""
        try:
            code = self.process.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            return
        raise Died(f"a daemon ended by itself, with {code}, {self.age:.2f} s after its start")

    def is_ready(self) -> Life:
        """Wait until it serves. Errors: Died, or AssertionError if it takes too long."""
        assert self.says(READY), f"a daemon did not serve within {START_S:g} s"
        return self

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def end(self, seconds: float = STOP_S) -> int | None:
        """The exit code, once it has ended; None if it does not in time."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def terminate(self) -> int | None:
        """SIGTERM, and the exit code."""
        self.send(signal.SIGTERM)
        return self.end()

    @property
    def holds_the_store(self) -> bool:
        """Whether it has come as far as taking the store's lock."""
        lock = self.place.store.with_name(self.place.store.name + ".lock")
        return lock.exists() and lock.read_text().strip() == str(self.pid)

    @property
    def pong(self) -> dict[str, Any]:
        """What it says of itself; empty if it does not answer."""
        return client.ping(self.place.store) or {}


def until(condition: Callable[[], object], seconds: float = START_S) -> bool:
    """Wait until something is true, at most so long. Whether it is."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(LOOK_S)
    return True
