"""Telling systemd: ready, stopping, still alive (the sd_notify protocol, without a library)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


class Notifier:
    """Sends to the socket that NOTIFY_SOCKET names; does nothing where there is none."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID from the environment."""
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(environment)
        """How long the daemon may be silent, in seconds, before systemd restarts it; None: nobody watches."""

    def ready(self, status: str) -> None:
        """The daemon serves."""
        self._send("READY=1", f"STATUS={_one_line(status)}", f"MAINPID={os.getpid()}")

    def status(self, status: str) -> None:
        """What it is doing, in a phrase."""
        self._send(f"STATUS={_one_line(status)}")

    def alive(self) -> None:
        """The loop and the store have moved since the last time."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """It finishes what is in flight."""
        self._send("STOPPING=1", "STATUS=finishing what is in flight")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender, suppress(OSError):
            sender.setblocking(False)  # a supervisor that does not read must not stop the daemon
            sender.connect(self._address)
            sender.send("\n".join(lines).encode())


def _address(name: str) -> str:
    if name.startswith("@"):
        return "\0" + name[1:]  # the abstract namespace
    return name if name.startswith("/") else ""


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    meant_for = environment.get("WATCHDOG_PID", "")
    if meant_for and meant_for != str(os.getpid()):
        return None
    try:
        watchdog_s = int(environment.get("WATCHDOG_USEC", "")) / 1e6
    except (ValueError, OverflowError):
        return None
    return watchdog_s if watchdog_s > 0 else None


def _one_line(text: str) -> str:
    return " ".join(text.split())
