"""systemd's notify protocol, against a socket of our own."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.operate.notify import Notifier


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


def test_ready_alive_stopping(supervisor: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": supervisor.getsockname()})
    notifier.ready("serving shop\nREADY=0")
    notifier.alive()
    notifier.stopping()
    assert supervisor.recv(4096).split(b"\n")[:2] == [b"READY=1", b"STATUS=serving shop READY=0"]
    assert supervisor.recv(4096) == b"WATCHDOG=1"
    assert supervisor.recv(4096).startswith(b"STOPPING=1")


def test_the_abstract_namespace() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0orchestrator-test-{os.getpid()}")
        Notifier({"NOTIFY_SOCKET": f"@orchestrator-test-{os.getpid()}"}).alive()
        assert listener.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all"])
def test_without_a_supervisor_nothing_happens(address: str) -> None:
    Notifier({"NOTIFY_SOCKET": address}).ready("serving")


def test_a_supervisor_that_does_not_read_stops_nobody(supervisor: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": supervisor.getsockname()})
    for _ in range(2000):
        notifier.alive()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_how_long_the_daemon_may_be_silent(environment: dict[str, str], expected: float | None) -> None:
    assert Notifier(environment).watchdog_s == expected
