"""How answers leave: a table on a terminal, tab-separated whole values in a pipe, or one versioned JSON object."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import click
import msgspec
from msgspec import Struct

JSON_VERSION = 1
NARROWEST = 40  # columns; below that a table wraps rather than shows nothing
NARROWEST_COLUMN = 8
BOLD = "bold"
_UNPRINTABLE_LOOK = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_PASSWORD = re.compile(r"(://[^/?#@]*?:)[^/?#]*(@)")
_BEYOND_ASCII = re.compile(r"[^\x20-\x7e]")


def escape(text: str) -> str:
    r"""The text with all that does not print (control, bidi, zero width, lone surrogate) as `\xNN` or `\uNNNN`."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _look(character) for character in text)


def _look(character: str) -> str:
    short = _UNPRINTABLE_LOOK.get(character)
    if short is not None:
        return short
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def shell_word(text: str) -> str:
    """The text as one word to paste into a shell (bash, zsh), with nothing unprintable in it."""
    if text.isprintable():
        return shlex.quote(text)
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + escape(quoted) + "'"


LAST_MOMENT = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


def rfc3339(at: float | None) -> str:
    """Seconds since 1970 as RFC 3339 UTC in milliseconds, the year 9999 for what is beyond; None: an empty text."""
    if at is None:
        return ""
    return datetime.fromtimestamp(min(at, LAST_MOMENT), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def span(seconds: float) -> str:
    """A length of time for people: 0.4 s, 12 s, 3 min, 5 h, 2 days."""
    seconds = abs(seconds)
    if seconds < 1:
        return f"{seconds:.1f} s"
    for unit, size, until in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, 172_800)):
        if seconds < until:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def relative(at: datetime | None, now: datetime) -> str:
    """`3 min ago` or `in 12 s`, or an empty text for None."""
    if at is None:
        return ""
    seconds = (now - at).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(seconds)}"


def moment_words(at: datetime | None, now: datetime) -> str:
    """`2026-01-31 09:00:00 UTC (3 min ago)`, or `at an unknown moment` for None."""
    if at is None:
        return "at an unknown moment"
    return f"{at:%Y-%m-%d %H:%M:%S} UTC ({relative(at, now)})"


def size(count: int) -> str:
    """A number of bytes for people: 812 B, 34 kB, 12 MB."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}" if count < 100 * factor else f"{count / factor:.0f} {unit}"
    return f"{count} B"


def hidden_password(url: str) -> str:
    """A URL with its password as `***`."""
    return _PASSWORD.sub(r"\1***\2", url)


class Cell(Struct, frozen=True):
    """One value of a table: `text` for people, `whole` for pipes where that differs; `style` as for Output.line;
    `right`: a number, its column stands at the right (the first row says so).
    """

    text: str
    whole: str | None = None
    style: str = ""
    right: bool = False


def moment_cell(at: datetime | None, now: datetime) -> Cell:
    """A moment: relative for people, RFC 3339 in a pipe."""
    return Cell(relative(at, now), "" if at is None else rfc3339(at.timestamp()))


def use_colour() -> bool | None:
    """What click is told: False for NO_COLOR or TERM=dumb, True for FORCE_COLOR, else None: as the stream is."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return True if os.environ.get("FORCE_COLOR") else None


def is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()


def screen_width() -> int:
    """The columns of the terminal."""
    return max(NARROWEST, shutil.get_terminal_size().columns)


class Output:
    """The way out for a verb's answer; all that it prints is escaped here. `as_json` is `--json`."""

    def __init__(self, as_json: bool = False) -> None:
        """Look at stdout once: a terminal gets tables, anything else whole values."""
        self.as_json = as_json
        self.on_terminal = is_terminal() and not as_json

    def items(
        self,
        titles: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        views: Sequence[object],
        *,
        next_cursor: str = "",
        nothing: str = "",
        with_titles: bool = True,
        wrap: bool = False,
    ) -> None:
        """A list: `views` are the JSON's `items`, `rows` the table's; `nothing`: what people read when it is empty."""
        if self.as_json:
            self.json({"items": list(views), "next": next_cursor or None})
            return
        if rows:
            self.table(titles if with_titles else (), rows, wrap=wrap)
        elif self.on_terminal and nothing:
            self.note(nothing)
        if next_cursor:
            self.note(f"there are more: --cursor {shell_word(next_cursor)}")

    def json(self, fields: dict[str, Any]) -> None:
        """One object on one line (indented on a terminal), with its version first."""
        try:
            encoded = msgspec.json.encode({"version": JSON_VERSION, **fields})
        except UnicodeEncodeError:  # of an environment or a command line that is not UTF-8
            encoded = msgspec.json.encode(_without_surrogates({"version": JSON_VERSION, **msgspec.to_builtins(fields)}))
        if is_terminal():
            encoded = msgspec.json.format(encoded, indent=2)
        click.echo(_printable_json(encoded.decode()))

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[Cell]], *, wrap: bool = False) -> None:
        """On a terminal aligned, under titles if there are any, the last column cut to its width (or wrapped), columns
        before it left out where it is too narrow for all; else a line a row, tab-separated.
        """
        if not self.on_terminal:
            for row in rows:
                click.echo("\t".join(escape(cell.text if cell.whole is None else cell.whole) for cell in row))
            return
        for line in _aligned(titles, rows, screen_width(), wrap=wrap):
            click.echo(line)

    def line(self, text: str = "", *, style: str = "") -> None:
        """One line for people, in one of click's colours or BOLD."""
        click.echo(_styled(escape(text), style))

    def fields(self, *values: str) -> None:
        """One line of tab-separated whole values."""
        click.echo("\t".join(escape(value) for value in values))

    def raw(self, text: str) -> None:
        """A document of our own making (a graph, a script), as it is."""
        click.echo(text)

    def note(self, text: str) -> None:
        """A remark beside the answer, on stderr."""
        click.echo(escape(text), err=True)


def _without_surrogates(value: Any) -> Any:
    """Builtins with lone surrogates written out, as they are shown to people."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case list():
            return [_without_surrogates(inner) for inner in cast("list[object]", value)]
        case dict():
            fields = cast("dict[str, Any]", value)
            return {_without_surrogates(name): _without_surrogates(inner) for name, inner in fields.items()}
        case _:
            return value


def _printable_json(text: str) -> str:
    """The same JSON with everything that does not print as \\uNNNN; such characters stand only inside its strings."""
    if text.isascii():
        return text.replace("\x7f", "\\u007f")
    return _BEYOND_ASCII.sub(lambda found: _json_escape(found.group()), text)


def _json_escape(character: str) -> str:
    if character == "\n" or character.isprintable():
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _styled(text: str, style: str) -> str:
    if style == BOLD:
        return click.style(text, bold=True)
    return click.style(text, fg=style) if style else text


def _aligned(titles: Sequence[str], rows: Sequence[Sequence[Cell]], width: int, *, wrap: bool) -> list[str]:
    is_right = [cell.right for cell in rows[0]]
    all_rows = [[Cell(title, style=BOLD) for title in titles], *rows] if titles else rows
    widths = [max(columns(escape(row[i].text)) for row in all_rows) for i in range(len(is_right))]
    left_out = _left_out(widths, width)
    if left_out:
        all_rows = [[*row[: -1 - left_out], row[-1]] for row in all_rows]
        widths, is_right = [*widths[: -1 - left_out], widths[-1]], [*is_right[: -1 - left_out], is_right[-1]]
    indent = sum(widths[:-1]) + 2 * (len(widths) - 1)
    widths[-1] = min(widths[-1], max(width - indent, NARROWEST_COLUMN))
    lines: list[str] = []
    for row in all_rows:
        texts = [escape(cell.text) for cell in row]
        rest: list[str] = []
        if wrap and columns(texts[-1]) > widths[-1]:
            texts[-1], *rest = textwrap.wrap(texts[-1], widths[-1], break_on_hyphens=False)
        parts = zip(row, texts, widths, is_right, strict=True)
        lines.append("  ".join(_placed(text, cell.style, w, right) for cell, text, w, right in parts).rstrip())
        lines += [" " * indent + text for text in rest]
    return lines


def _left_out(widths: Sequence[int], width: int) -> int:
    """How many columns before the last have no room: they stand in the order of their worth."""
    left_out = 0
    while (
        left_out < len(widths) - 3 and sum(widths[: -1 - left_out]) + 2 * (len(widths) - 1) + NARROWEST_COLUMN > width
    ):
        left_out += 1
    return left_out


def _placed(text: str, style: str, width: int, right: bool) -> str:
    """The text in its column; the colour ends where the text does."""
    shown = fit(text, width).rstrip() if text else ""
    padding = " " * (width - columns(shown))
    return padding + _styled(shown, style) if right else _styled(shown, style) + padding


def columns(text: str) -> int:
    """How many columns of a terminal a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(_columns_of(character) for character in text)


def _columns_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int) -> str:
    """A printable text in exactly so many columns: padded, or cut with an ellipsis."""
    missing = width - columns(text)
    if missing >= 0:
        return text + " " * missing
    kept = ""
    for character in text:
        if columns(kept) + _columns_of(character) > width - 1:
            break
        kept += character
    return kept + "…" + " " * (width - 1 - columns(kept))
