"""`orchestrator emit`: events from outside, one or many."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import click
from msgspec import Struct

from ...errors import BadMessage
from ...machine.transition import Outcome
from ..protocol import Answer, Emit, Problem, Taken, Target, raised
from .options import common_options
from .reach import reached
from .session import Session, with_session


class Fate(StrEnum):
    """What became of an event."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicates"  # it was in already
    WAITING = "waiting"  # in the waiting room, until its instance starts
    DEAD = "dead letters"  # it was for an instance that could not use it
    BAD = "bad"


class BadLine(Struct, frozen=True):
    """A line that was not taken: its number from 1, and why."""

    line: int
    reason: str


@click.command
@click.argument("type", metavar="[TYPE]", default="")
@click.argument("event", metavar="[JSON | @FILE | -]", default="")
@click.option("--file", "-f", "file", type=click.Path(path_type=Path), help="Many events: NDJSON, one a line.")
@common_options
@with_session
def emit(session: Session, type: str, event: str, file: Path | None) -> None:
    """Send one event of TYPE, or with --file (or - for stdin) one a line.

    An event is its payload as JSON, or a CloudEvent, which says its type itself: then TYPE can be left out. Its id,
    or else a hash of its line, makes it harmless to send it again; to say the same a second time, give it an id:
    {"type": TYPE, "id": ID, "data": PAYLOAD}. When this ends, what was accepted is on disk.

    Of a file the good lines go in; every bad one is named with its number and reason, and the exit code is 1. Ctrl-C
    reads no further: what was read goes in and is counted. A second one leaves at once.

    JSON: accepted, duplicates, waiting, dead_letters, bad, problems (line, reason).
    """
    if not event and (type == "-" or type.startswith(("{", "@"))):
        type, event = "", type
    if not (type or event or file):
        raise click.UsageError("what? TYPE and its JSON, @FILE, --file FILE, or - for stdin")
    if file is not None:
        if event:
            raise click.UsageError(f"--file and {event!r}: give one of them")
        with _opened(file) as stream:
            _emit_many(session, type, stream)
    elif event == "-":
        _emit_many(session, type, sys.stdin.buffer)
    else:
        _emit_one(session, type, _payload(event, session.settings.limits.body_bytes))


# One event.


def _payload(event: str, limit: int) -> bytes:
    """The event, or enough of a file to see that it is larger than the limit."""
    if not event.startswith("@"):
        return event.encode(errors="surrogateescape") or b"{}"
    with _opened(Path(event[1:])) as stream:
        return stream.read(limit + 1)


def _emit_one(session: Session, type: str, payload: bytes) -> None:
    if len(payload) > session.settings.limits.body_bytes:
        raise BadMessage(_too_large(session.settings.limits.body_bytes))
    with reached(session, may_create=True) as desk:
        (answer,) = desk.ask_all([Emit(payload, type)])
    if not isinstance(answer, Taken):
        raise _problem(answer)
    fate = fate_of(answer)
    if session.output.as_json:
        session.output.json({"id": answer.id, "fate": fate, "targets": list(answer.targets)})
        return
    session.output.line(_SAID[fate])
    for target in answer.targets:
        session.output.line(f"  {target.target}: {target.outcome}{_behind_bug(session, target)}")


_SAID = {
    Fate.ACCEPTED: "accepted",
    Fate.DUPLICATE: "duplicate: it was in already (a second one like it needs an id of its own)",
    Fate.WAITING: "accepted: it waits for its instance",
    Fate.DEAD: "accepted, but nothing could use it: see `orchestrator dead list`",
}


def _behind_bug(session: Session, target: Target) -> str:
    if target.outcome is not Outcome.QUEUED:
        return ""
    return f", the saga's own code failed: see `{session.command('why', target.target)}`"


def fate_of(taken: Taken) -> Fate:
    """One word for what may have gone to several."""
    outcomes = {target.outcome for target in taken.targets}
    if Outcome.DEAD in outcomes:
        return Fate.DEAD
    if Outcome.WAITING in outcomes:
        return Fate.WAITING
    return Fate.DUPLICATE if outcomes == {Outcome.DUPLICATE} else Fate.ACCEPTED


# Many events.


def _emit_many(session: Session, type: str, stream: BinaryIO) -> None:
    report = _Report()
    with ExitStack() as stack:
        advance = stack.enter_context(_progress(stream))
        desk = stack.enter_context(reached(session, may_create=True))
        reading = _Reading(stream, type, report, session.settings.limits.body_bytes)
        stack.enter_context(_stopped_by_interrupt(reading))
        try:
            for answer in desk.ask_all(reading.asks()):
                number, offset = reading.asked.popleft()
                report.add(number, answer)
                advance(offset)
        finally:
            stack.close()  # the progress bar is gone before the summary comes
            report.show(session)
            if reading.asked:
                session.output.note(f"{len(reading.asked)} more were sent and are not answered: they may be in too")
    if reading.is_stopped:
        raise KeyboardInterrupt
    if report.bad:
        raise click.exceptions.Exit(1)


@contextmanager
def _stopped_by_interrupt(reading: _Reading) -> Generator[None]:
    """Have a first SIGINT end the reading alone, so that what is under way is still answered."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # a shell's job in the background
        yield
        return
    signal.signal(signal.SIGINT, reading.stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Reading:
    """The lines of a file as asks, of at most `limit` bytes. `asked`: line number, and offset of the line's end, of
    those without an answer. `is_stopped`: there may be more, which is not read.
    """

    def __init__(self, stream: BinaryIO, type: str, report: _Report, limit: int) -> None:
        self.asked: deque[tuple[int, int]] = deque()
        self.is_stopped = False
        self._waits = False  # for the next line, perhaps for long
        self._stream = stream
        self._type = type
        self._report = report
        self._limit = limit

    def asks(self) -> Iterator[Emit]:
        """One for each line that is not empty; a line over the limit is reported and passed over."""
        offset = 0
        number = 0
        while line := self._next(self._limit + 2):
            number += 1
            offset += len(line)
            text = line.strip()
            is_whole = line.endswith(b"\n") or len(line) < self._limit + 2
            if not is_whole or len(text) > self._limit:
                while not line.endswith(b"\n") and (line := self._next(self._limit)):
                    offset += len(line)
                self._report.add(number, Problem(BadMessage.__name__, _too_large(self._limit)))
            elif text:
                self.asked.append((number, offset))
                yield Emit(text, self._type)

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Take no more lines, as a signal's handler; a second time give up what is under way. Errors: KeyboardInterrupt
        out of the wait for a line, where it is caught, and the second time wherever it is.
        """
        is_second, self.is_stopped = self.is_stopped, True
        if self._waits or is_second:
            raise KeyboardInterrupt

    def _next(self, limit: int) -> bytes:
        """The next line, or so much of it; empty when there is none any more."""
        if self.is_stopped:
            return b""
        self._waits = True
        try:
            return self._stream.readline(limit)
        except KeyboardInterrupt:
            return b""
        finally:
            self._waits = False


class _Report:
    """How many of what, and every bad line."""

    def __init__(self) -> None:
        self.counts: Counter[Fate] = Counter()
        self.bad: list[BadLine] = []

    def add(self, number: int, answer: Answer) -> None:
        """Note what became of a line. Errors: whatever is not the line's own fault."""
        if isinstance(answer, Taken):
            self.counts[fate_of(answer)] += 1
        elif isinstance(answer, Problem) and answer.error == BadMessage.__name__:
            self.counts[Fate.BAD] += 1
            self.bad.append(BadLine(number, answer.text))
        else:
            raise _problem(answer)

    def show(self, session: Session) -> None:
        """The summary on stdout, the bad lines on stderr."""
        self.bad.sort(key=lambda bad: bad.line)
        if session.output.as_json:
            counts = {fate.replace(" ", "_"): self.counts[fate] for fate in Fate}
            session.output.json({**counts, "problems": self.bad})
            return
        for bad in self.bad:
            session.output.note(f"line {bad.line}: {bad.reason}")
        shown = [fate for fate in Fate if self.counts[fate] or fate is not Fate.DEAD]
        session.output.line(", ".join(f"{self.counts[fate]} {fate}" for fate in shown))


@contextmanager
def _progress(stream: BinaryIO) -> Generator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal; what it gives is told the offset that has been reached."""
    if not sys.stderr.isatty():
        yield _nothing
        return
    from rich.console import Console  # only now: it takes longer to import than many a verb takes
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("emit", total=_size(stream))
        yield lambda offset: bar.update(task, completed=offset)


def _nothing(offset: int) -> None:
    pass


def _size(stream: BinaryIO) -> int | None:
    try:
        return os.fstat(stream.fileno()).st_size or None
    except OSError:
        return None


# Small things.


@contextmanager
def _opened(path: Path) -> Generator[BinaryIO]:
    try:
        stream = path.open("rb")
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from None
    with stream:
        yield stream


def _too_large(limit: int) -> str:
    return f"it has more bytes than limits.body_bytes, {limit:,}"


def _problem(answer: Answer) -> Exception:
    return raised(answer) if isinstance(answer, Problem) else ConnectionError(f"an answer that does not fit: {answer}")
