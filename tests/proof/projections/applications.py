"""Applications for a loan, as the log of the BPI Challenge 2012 has them: events, read models, and the plain counts."""

from __future__ import annotations

import gzip
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from orchestrator import App, Event, Projection, Recorded, project

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("ORCHESTRATOR_DATA") or ROOT.parent / "shared" / "data") / "bpic2012_events.jsonl.gz"
EVENTS, APPLICATIONS = 262_200, 13_087
STORE = "loans.db"


class ApplicationEvent(Event):
    application_id: str
    at: str  # local time, RFC 3339
    resource: str = ""

    @property
    def month(self) -> str:
        """As 2011-10."""
        return self.at[:7]


class ApplicationSubmitted(ApplicationEvent):
    amount: int = 0


class ApplicationAccepted(ApplicationEvent):
    pass


class OfferSent(ApplicationEvent):
    pass


class ApplicationActivated(ApplicationEvent):
    pass


class ApplicationDeclined(ApplicationEvent):
    pass


class ApplicationCancelled(ApplicationEvent):
    pass


class ActivityRecorded(ApplicationEvent):
    """Whatever else happens to an application."""

    activity: str = ""
    lifecycle: str = ""


COLUMNS: dict[str, tuple[type[ApplicationEvent], str]] = {
    "A_SUBMITTED": (ApplicationSubmitted, "submitted"),
    "A_ACCEPTED": (ApplicationAccepted, "accepted"),
    "O_SENT": (OfferSent, "offered"),
    "A_ACTIVATED": (ApplicationActivated, "activated"),
    "A_DECLINED": (ApplicationDeclined, "declined"),
    "A_CANCELLED": (ApplicationCancelled, "cancelled"),
}
NAMES = [name for _, name in COLUMNS.values()]


class Funnel(Projection, version=1):
    """How many applications came how far, by month."""

    tables = "CREATE TABLE funnel (month TEXT PRIMARY KEY, {}) STRICT, WITHOUT ROWID".format(
        ", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in NAMES)
    )

    @project
    def submitted(self, event: ApplicationSubmitted) -> None:
        self._count("submitted", event)

    @project
    def accepted(self, event: ApplicationAccepted) -> None:
        self._count("accepted", event)

    @project
    def offered(self, event: OfferSent) -> None:
        self._count("offered", event)

    @project
    def activated(self, event: ApplicationActivated) -> None:
        self._count("activated", event)

    @project
    def declined(self, event: ApplicationDeclined) -> None:
        self._count("declined", event)

    @project
    def cancelled(self, event: ApplicationCancelled) -> None:
        self._count("cancelled", event)

    def _count(self, name: str, event: ApplicationEvent) -> None:
        sql = f"INSERT INTO funnel (month, {name}) VALUES (?, 1) ON CONFLICT DO UPDATE SET {name} = {name} + 1"
        self.db.execute(sql, (event.month,))


class Progress(Projection):
    """Where each application stands: its last event, how many it had. An event too many or out of turn shows here."""

    tables = """
        CREATE TABLE progress (
            application TEXT PRIMARY KEY, events INTEGER NOT NULL, last TEXT NOT NULL, at TEXT NOT NULL
        ) STRICT, WITHOUT ROWID
    """

    @project
    def moved(
        self,
        event: ApplicationSubmitted
        | ApplicationAccepted
        | OfferSent
        | ApplicationActivated
        | ApplicationDeclined
        | ApplicationCancelled
        | ActivityRecorded,
        at: Recorded,
    ) -> None:
        last = event.activity if isinstance(event, ActivityRecorded) else at.type
        sql = """
            INSERT INTO progress VALUES (?, 1, ?, ?)
            ON CONFLICT DO UPDATE SET events = events + 1, last = excluded.last, at = excluded.at
        """
        self.db.execute(sql, (event.application_id, last, event.at))


app = App("loans", projections=[Funnel, Progress])


def lines(limit: int | None = None) -> Iterator[dict[str, Any]]:
    """The file, line by line."""
    with gzip.open(DATA) as file:
        for number, line in enumerate(file):
            if limit is not None and number >= limit:
                return
            yield msgspec.json.decode(line)


def event_of(line: dict[str, Any]) -> ApplicationEvent:
    """A line as an event."""
    common = {"application_id": line["application_id"], "at": line["at"], "resource": line.get("resource") or ""}
    if line["activity"] == "A_SUBMITTED":
        return ApplicationSubmitted(**common, amount=line["amount_requested"])
    if line["activity"] in COLUMNS:
        return COLUMNS[line["activity"]][0](**common)
    return ActivityRecorded(**common, activity=line["activity"], lifecycle=line["lifecycle"])


def stretches(size: int, limit: int | None = None) -> Iterator[list[tuple[str, list[ApplicationEvent]]]]:
    """The file in its order, cut into pieces; of each the events of every application in it."""
    piece: dict[str, list[ApplicationEvent]] = {}
    for count, line in enumerate(lines(limit), 1):
        piece.setdefault(line["application_id"], []).append(event_of(line))
        if count % size == 0:
            yield list(piece.items())
            piece = {}
    if piece:
        yield list(piece.items())


def counted(limit: int | None = None) -> list[tuple[Any, ...]]:
    """What the funnel must hold, by counting the lines of the file."""
    counts = Counter((line["at"][:7], line["activity"]) for line in lines(limit) if line["activity"] in COLUMNS)
    months = sorted({month for month, _ in counts})
    return [(month, *(counts[month, activity] for activity in COLUMNS)) for month in months]


def progressed(limit: int | None = None) -> list[tuple[Any, ...]]:
    """What the progress must hold."""
    found: dict[str, tuple[int, str, str]] = {}
    for line in lines(limit):
        number = found.get(line["application_id"], (0, "", ""))[0] + 1
        activity = line["activity"]
        last = COLUMNS[activity][0].__name__ if activity in COLUMNS else activity
        found[line["application_id"]] = (number, last, line["at"])
    return [(application, *rest) for application, rest in sorted(found.items())]


def funnel(db: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """The rows of the funnel."""
    return db.execute(f"SELECT month, {', '.join(NAMES)} FROM funnel ORDER BY month").fetchall()


def progress(db: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """The rows of the progress."""
    return db.execute("SELECT application, events, last, at FROM progress ORDER BY application").fetchall()


def key_of(events: Sequence[ApplicationEvent], number: int) -> str:
    """The key of an append: the same in every life of a program."""
    return f"{number}/{events[0].application_id}"
