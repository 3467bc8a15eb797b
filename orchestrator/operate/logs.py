"""The daemon's log: readable lines or one JSON object a line; a thread writes it, so that it never blocks the loop."""

from __future__ import annotations

import logging
import os
import queue
import threading
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from .output import escape, rfc3339

STDERR = 2
MAX_WAITING_LINES = 10_000  # what comes while so many wait to be written is counted and dropped
MAX_TEXT = 4_000  # characters of one message or field
MAX_TRACEBACK_LINES = 60
LAST_WORDS_S = 1.0  # how long leaving waits for a reader that does not read

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "block"}


class LogFormat(StrEnum):
    """How a line looks."""

    TEXT = "text"
    JSON = "json"


@contextmanager
def logging_to(descriptor: int = STDERR, *, style: LogFormat = LogFormat.TEXT, level: str = "info") -> Generator[None]:
    """Send what this process logs from `level` on to a file descriptor until left.

    Fields are given as `extra={...}`; they become keys of the JSON
    object, or `name=value` at the end of a readable line.
    """
    handler = _Handler(descriptor, _JsonLines() if style is LogFormat.JSON else _TextLines())
    root, before = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(level.upper())
    try:
        yield
    finally:
        root.setLevel(before)
        root.removeHandler(handler)
        handler.close()


def announce(logger: logging.Logger, *lines: str, **fields: Any) -> None:
    """Log one event that a person reads as a block of lines and a machine by its fields."""
    logger.info("\n".join(lines), extra={"block": True, **fields})


class _Handler(logging.Handler):
    """Hands each line to a thread. Full (a reader that stands still, a full disk): the line is dropped and counted."""

    def __init__(self, descriptor: int, formatter: logging.Formatter) -> None:
        super().__init__()
        self.formatter = formatter
        self._descriptor = descriptor
        self._lines: queue.Queue[str | None] = queue.Queue(MAX_WAITING_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)  # here: the values it was given may change later
        except Exception:  # noqa: BLE001  a line that cannot be formatted must not stop what it tells of
            self._dropped += 1
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        try:
            self._lines.put(None, timeout=LAST_WORDS_S)
        except queue.Full:
            pass
        else:
            self._thread.join(LAST_WORDS_S)
        super().close()

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
            if self._lines.empty():
                self._tell_of_dropped()
        self._tell_of_dropped()

    def _tell_of_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._write(self.format(_told_of_dropped(dropped)))

    def _write(self, line: str) -> None:
        rest = memoryview((line + "\n").encode(errors="backslashreplace"))
        try:
            while rest:  # not through sys.stderr: its lock, held by a writer that stands still, would stop the exit too
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:  # no room, or nobody reads any more: the daemon goes on without its log
            self._dropped += 1


def _told_of_dropped(count: int) -> logging.LogRecord:
    fields = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
    return logging.makeLogRecord({**fields, "msg": f"{count} log lines were lost: nobody read them fast enough"})


class _TextLines(logging.Formatter):
    """`12:34:56 WARNING message  name=value`: one line, the level where it is not INFO; a traceback indented below."""

    def format(self, record: logging.LogRecord) -> str:
        if getattr(record, "block", False):
            return "\n".join(_bounded(line) for line in record.getMessage().split("\n"))
        time = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        level = f"{record.levelname} " if record.levelno != logging.INFO else ""
        fields = "".join(f"  {escape(name)}={_bounded(str(value))}" for name, value in _fields(record))
        head = f"{time} {level}{_bounded(record.getMessage())}{fields}"
        return "\n".join([head, *(f"    {escape(line)}" for line in _traceback(record))])


class _JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields, the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record)[:MAX_TEXT],
        }
        line.update((name, _plain(value)) for name, value in _fields(record) if name not in line)
        if trace := _traceback(record):
            line["traceback"] = "\n".join(trace)
        return _ascii_json(line)


def _message(record: logging.LogRecord) -> str:
    """Of a block the first line: its fields say the rest."""
    text = record.getMessage()
    return text.split("\n", 1)[0] if getattr(record, "block", False) else text


def _fields(record: logging.LogRecord) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in vars(record).items() if name not in _OWN]


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)[:MAX_TEXT]


def _bounded(text: str) -> str:
    return escape(text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…")


def _traceback(record: logging.LogRecord) -> list[str]:
    """Without the values of the frames: payloads are not logged; the exception's own text is the only data in it."""
    if not record.exc_info or record.exc_info[1] is None:
        return []
    lines = "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n").split("\n")
    if len(lines) <= MAX_TRACEBACK_LINES:
        return lines
    half = MAX_TRACEBACK_LINES // 2
    return [*lines[:half], f"... {len(lines) - 2 * half} lines left out ...", *lines[-half:]]


def _ascii_json(line: dict[str, Any]) -> str:
    """JSON in which nothing is left that a terminal could obey; lone surrogates are shown, not refused."""
    try:
        text = msgspec.json.encode(line).decode()
    except (UnicodeEncodeError, ValueError, OverflowError):  # OverflowError: an integer beyond 64 bits
        text = msgspec.json.encode({escape(name): escape(str(value)) for name, value in line.items()}).decode()
    return text if text.isprintable() else "".join(c if c.isprintable() else _unicode_escape(c) for c in text)


def _unicode_escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
