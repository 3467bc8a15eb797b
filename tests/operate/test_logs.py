"""The daemon's log: one line an event, nothing a terminal obeys, and it never holds anybody up."""

import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.operate import logs
from orchestrator.operate.logs import LogFormat, announce, logging_to

log = logging.getLogger("orchestrator.test")


def written(path: Path, style: LogFormat, *calls: Any) -> list[str]:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        with logging_to(descriptor, style=style):
            for call in calls:
                call()
    finally:
        os.close(descriptor)
    return path.read_text().splitlines()


def fail() -> None:
    try:
        raise ValueError("no\x1b[31m")
    except ValueError:
        log.exception("it failed")


def test_one_json_object_a_line(tmp_path: Path) -> None:
    lines = written(
        tmp_path / "log",
        LogFormat.JSON,
        lambda: log.info("parked %s", "Order/1", extra={"saga": "Order", "attempt": 3, "at": None}),
        fail,
    )
    first, second = (json.loads(line) for line in lines)
    assert first["time"].endswith("Z")
    assert first | {"time": ""} == {
        "time": "",
        "level": "info",
        "logger": "orchestrator.test",
        "message": "parked Order/1",
        "saga": "Order",
        "attempt": 3,
        "at": None,
    }
    assert second["level"] == "error"
    assert "ValueError" in second["traceback"]


def test_readable_lines(tmp_path: Path) -> None:
    first, second, *trace = written(
        tmp_path / "log", LogFormat.TEXT, lambda: log.info("parked", extra={"saga": "Order"}), fail
    )
    assert first[8:] == " parked  saga=Order"
    assert second[8:] == " ERROR it failed"
    assert all(line.startswith("    ") for line in trace)


@pytest.mark.parametrize("style", list(LogFormat))
def test_no_line_can_be_forged_and_no_terminal_told_what_to_do(tmp_path: Path, style: LogFormat) -> None:
    evil = "a\n{}\r\x1b]0;x\x07\u202e\u2028\x9b\ud800"
    lines = written(tmp_path / "log", style, lambda: log.info("%s", evil, extra={"key": evil}), fail)
    assert all(line.isprintable() for line in lines)
    assert len([line for line in lines if line[:1] not in " "]) == 2
    if style is LogFormat.JSON:
        assert "\\ud800" in json.loads(lines[0])["message"]


def test_a_block_is_lines_for_people_and_fields_for_machines(tmp_path: Path) -> None:
    def say() -> None:
        announce(log, "serves shop", "  store x\x1b", app="shop")

    assert written(tmp_path / "text", LogFormat.TEXT, say) == ["serves shop", "  store x\\x1b"]
    (line,) = written(tmp_path / "json", LogFormat.JSON, say)
    said = json.loads(line)
    assert (said["message"], said["app"]) == ("serves shop", "shop")


def test_a_long_text_is_cut(tmp_path: Path) -> None:
    (line,) = written(tmp_path / "log", LogFormat.TEXT, lambda: log.info("x" * 100_000))
    assert len(line) < logs.MAX_TEXT + 100


def test_less_than_the_level_is_not_written(tmp_path: Path) -> None:
    assert written(tmp_path / "log", LogFormat.TEXT, lambda: log.debug("no")) == []


def test_what_cannot_be_formatted_harms_nobody(tmp_path: Path) -> None:
    record = logging.makeLogRecord({"msg": "%d", "args": ("no number",), "levelno": logging.INFO})
    first, second = written(
        tmp_path / "log", LogFormat.TEXT, lambda: logging.getLogger().handlers[-1].emit(record), lambda: log.info("yes")
    )
    assert "yes" in first
    assert "1 log lines were lost" in second


def test_a_pipe_that_nobody_reads_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_WAITING_LINES", 100)
    monkeypatch.setattr(logs, "LAST_WORDS_S", 0.05)
    reading, writing = os.pipe()
    began = time.monotonic()
    with logging_to(writing):
        for _ in range(2000):
            log.info("x" * 1000)
    assert time.monotonic() - began < 2
    os.close(reading)  # the thread that writes gets EPIPE, and the end


def test_lost_lines_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_WAITING_LINES", 100)
    reading, writing = os.pipe()
    with os.fdopen(reading) as stream, ThreadPoolExecutor(1) as pool:
        with logging_to(writing):
            for _ in range(500):
                log.info("x" * 1000)
            said = pool.submit(stream.readlines)
        os.close(writing)
        lines = said.result()
    assert 100 < len(lines) < 500
    assert f"{501 - len(lines)} log lines were lost" in lines[-1]
