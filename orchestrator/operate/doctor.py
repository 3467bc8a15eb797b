"""What can be wrong around a store and an app: one finding a check, each with what to do."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from ..errors import ConfigError
from ..urls import open_sender
from ..webhooks import Webhook, shown_url
from .output import size
from .view import ProjectionView

LEAST_ROOM_BYTES = 1 << 30
LEAST_FILES = 1024
CLOCK_SLACK_S = 60.0
WAL_RESET_MENDED = (3, 51, 3)


class Health(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Finding(Struct, frozen=True):
    """What a check found; `detail` says what to do where it is not ok."""

    check: str
    health: Health
    detail: str


def machine() -> Iterator[Finding]:
    """Python, SQLite, and how many files a process may have open."""
    yield Finding("python", Health.OK, sys.version.split(" ")[0])
    note = (
        "" if sqlite3.sqlite_version_info >= WAL_RESET_MENDED else " (only one process writes: its WAL bug is kept off)"
    )
    yield Finding("sqlite", Health.OK, sqlite3.sqlite_version + note)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY or files >= LEAST_FILES:
        yield Finding("open files", Health.OK, "no limit" if files == resource.RLIM_INFINITY else f"up to {files}")
    else:
        yield Finding("open files", Health.WARNING, f"only {files} a process: raise it, ulimit -n {LEAST_FILES}")


def place(path: Path) -> Iterator[Finding]:
    """The file of a store, and where it lies."""
    others = stat.S_IMODE(path.stat().st_mode) & 0o077
    if others:
        yield Finding("permissions", Health.WARNING, f"others may open {path}: chmod 600 {path}")
    else:
        yield Finding("permissions", Health.OK, f"{path} is its owner's only")
    if not os.access(path.parent, os.W_OK):
        yield Finding(
            "directory", Health.WARNING, f"{path.parent} cannot be written by this user: no daemon can run here"
        )
    room = shutil.disk_usage(path.parent).free
    if room < max(LEAST_ROOM_BYTES, path.stat().st_size):
        yield Finding("disk", Health.WARNING, f"{size(room)} left beside {path}: make room")
    else:
        yield Finding("disk", Health.OK, f"{size(room)} left")


def projection(it: ProjectionView) -> Finding:
    """Whether a projection gets on."""
    if it.problem is not None:
        what = "building it anew has stopped" if it.state == "live" else "stopped"
        return Finding(f"projection {it.name}", Health.FAILED, f"{what}: {it.problem.headline}")
    if it.paused is not None:
        return Finding(f"projection {it.name}", Health.WARNING, f"paused by {it.paused.by}, {it.behind} events behind")
    return Finding(f"projection {it.name}", Health.OK, f"{it.state}, {it.behind} events behind")


def webhooks(found: Iterable[Webhook], command: Callable[..., str]) -> Iterator[Finding]:
    """Webhooks, and whether what sends them is installed. `command` gives a command line of theirs."""
    for webhook in found:
        name = f"webhook {webhook.name}"
        if webhook.paused_at is not None:
            why = f": {webhook.why}" if webhook.why else ""
            yield Finding(name, Health.WARNING, f"paused{why}; `{command('resume', webhook.name)}` lets it go on")
        elif webhook.failing is not None:
            what = f"failing: {webhook.failing.error}; `{command('test', webhook.name)}` tries it now"
            yield Finding(name, Health.WARNING, what)
        elif webhook.url.startswith("http:"):
            yield Finding(name, Health.WARNING, "http: everybody on the way can read and change what it gets")
        else:
            yield Finding(name, Health.OK, shown_url(webhook.url))
    try:
        open_sender(lambda address: False)
    except ConfigError as error:
        yield Finding("webhooks", Health.FAILED, str(error))


def clock(now: float, newest: float) -> Finding:
    """Whether the clock has gone back behind what is stored (seconds since 1970)."""
    if newest > now + CLOCK_SLACK_S:
        return Finding("clock", Health.FAILED, f"it is {newest - now:.0f} s behind what is stored: set it right")
    return Finding("clock", Health.OK, "not behind what is stored")
