"""What leaves: nothing unprintable, whole values in a pipe, tables of the terminal's width."""

from __future__ import annotations

import shlex
import subprocess
import unicodedata
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.operate import output
from orchestrator.operate.output import Cell, Output, columns, escape, fit, relative, rfc3339, shell_word, size, span

NASTY = "a\x1b[31m\x00\x07\r\nb\u202e\u200bc\x9bd\u2028\ud800"


def forbidden(text: str) -> set[str]:
    return {character for character in text if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")}


@given(st.text(st.characters(codec=None)))
def test_escaped_text_holds_no_control_character(text: str) -> None:
    assert not forbidden(escape(text))


def test_printable_text_stays_as_it_is() -> None:
    assert escape("Größe 東京 😀 a\\b") == "Größe 東京 😀 a\\b"


def test_escapes_are_readable() -> None:
    assert escape(NASTY) == r"a\x1b[31m\x00\x07\r\nb\u202e\u200bc\x9bd\u2028\ud800"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
def test_a_shell_word_is_printable_and_one_word(text: str) -> None:
    word = shell_word(text)
    assert not forbidden(word)
    if text.isprintable():
        assert shlex.split(word) == [text]


@pytest.mark.parametrize("text", ["a b", "x'y\x1b[0m", "tab\there", "back\\slash\n", "é\u202e", "$HOME;`id`\x07"])
def test_bash_reads_a_shell_word_back(text: str) -> None:
    result = subprocess.run(
        ["bash", "-c", f"printf %s {shell_word(text)}"], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert result.stdout.decode() == text


def test_moments_are_rfc3339_in_utc() -> None:
    assert rfc3339(0.5) == "1970-01-01T00:00:00.500Z"
    assert rfc3339(None) == ""
    assert rfc3339(1e15) == "9999-12-31T23:59:59.000Z"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (5, "5 s"), (99, "99 s"), (100, "2 min"), (7200, "2 h"), (86_400, "24 h"), (259_200, "3 days")],
)
def test_spans_for_people(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_moments_before_and_after_now() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert relative(now - timedelta(minutes=5), now) == "5 min ago"
    assert relative(now + timedelta(seconds=12), now) == "in 12 s"
    assert relative(None, now) == ""


@pytest.mark.parametrize(("count", "text"), [(812, "812 B"), (34_000, "34 kB"), (12_400_000, "12.4 MB")])
def test_sizes_for_people(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://me:s3cret@host:4222", "nats://me:***@host:4222"),
        ("postgresql://me:p@ss@host/db", "postgresql://me:***@host/db"),
        ("sqlite:////var/lib/shop.db", "sqlite:////var/lib/shop.db"),
        ("nats://host:4222", "nats://host:4222"),
    ],
)
def test_a_url_shows_no_password(url: str, shown: str) -> None:
    assert output.hidden_password(url) == shown


@given(st.text(st.characters(codec=None), max_size=30), st.integers(1, 20))
def test_a_fitted_text_has_its_width(text: str, width: int) -> None:
    assert columns(fit(escape(text), width)) == width


def test_wide_characters_count_twice() -> None:
    assert columns("東京") == 4
    assert fit("東京都", 4) == "東… "


def test_a_pipe_gets_whole_values_without_titles(capsys: pytest.CaptureFixture[str]) -> None:
    Output().items(("A", "B"), [[Cell("short", "whole " * 50), Cell("x\ty\n")]], [])
    assert capsys.readouterr().out == "whole " * 50 + "\tx\\ty\\n\n"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")


@pytest.mark.usefixtures("terminal")
def test_a_table_cuts_only_its_last_column_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Output().items(("KEY", "ERROR"), [[Cell("k" * 20), Cell("e" * 80)], [Cell("東京"), Cell("x")]], [])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["KEY", "ERROR"]
    assert lines[1] == "k" * 20 + "  " + "e" * 37 + "…"
    assert lines[2] == "東京" + " " * 18 + "x"


@pytest.mark.usefixtures("terminal")
def test_an_empty_list_says_so_beside_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    Output().items(("KEY",), [], [], nothing="nothing is there")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "nothing is there\n")


def test_json_is_one_versioned_object_that_prints_safely(capsys: pytest.CaptureFixture[str]) -> None:
    value = "a\x1b\x7f\x9b\u202e😀é\U000e0001"
    Output(as_json=True).items((), [], [{"key": value}], next_cursor="c")
    text = capsys.readouterr().out
    assert not forbidden(text.rstrip("\n"))
    assert msgspec.json.decode(text) == {"version": 1, "items": [{"key": value}], "next": "c"}
    assert text.startswith('{"version":1,')


def test_the_cursor_goes_beside_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    Output().items(("A",), [[Cell("1")]], [], next_cursor="12|x")
    captured = capsys.readouterr()
    assert captured.out == "1\n"
    assert captured.err == "there are more: --cursor '12|x'\n"


@pytest.mark.parametrize(
    ("variables", "answer"),
    [({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"FORCE_COLOR": "1"}, True), ({"NO_COLOR": ""}, None)],
)
def test_colour_is_as_the_environment_asks(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], answer: bool | None
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert output.use_colour() is answer
