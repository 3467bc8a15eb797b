"""What all servers have in common: a process that is started, waited for, killed, and never left behind."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

START_S = 60.0
STOP_S = 15.0
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def missing(what: str, remedy: str) -> NoReturn:
    """Skip the test, or all of the module that says so, or fail it where everything is to be there."""
    reason = f"{what} is not on this machine: {remedy}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)


def package_folder(module: str) -> Path | None:
    """Where an installed package lies; it is not imported."""
    spec = find_spec(module)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def needs(driver: str, extra: str) -> None:
    """Skip the test where the driver of a broker is not installed."""
    if package_folder(driver) is None:
        missing(driver, f"pip install 'saga-orchestrator[{extra}]'")


def free_port() -> int:
    """A port of loopback that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


@contextmanager
def folder() -> Iterator[Path]:
    """A short path that is removed afterwards: the path of a unix socket must stay under 108 bytes."""
    path = Path(tempfile.mkdtemp(prefix="srv-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Server:
    """One server process. `kill` is SIGKILL; `start` after it is the same server on the same files and port.

    Started from the main thread: it dies with the thread that forked it.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        is_ready: Callable[[subprocess.Popen[bytes]], bool],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`is_ready` looks once whether it serves."""
        self._command = [str(part) for part in command]
        self._is_ready = is_ready
        self._log = log
        self._environment = dict(environment) if environment is not None else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Return when it serves."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=self._environment, preexec_fn=_die_with_parent
            )
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self._command[0]} exited with {self._process.returncode}:\n{self._tail()}")
            with suppress(OSError, ValueError):
                if self._is_ready(self._process):
                    return
            time.sleep(0.005)
        self.kill()
        raise TimeoutError(f"{self._command[0]} does not serve:\n{self._tail()}")

    def kill(self) -> None:
        """SIGKILL; what it had not written is lost."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-2_000:]


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a killed pytest leaves no server behind
