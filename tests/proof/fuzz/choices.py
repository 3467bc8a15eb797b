"""What to try, decided by a string of bytes, so that Hypothesis draws quickly and shrinks by shortening it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

Pairs = Sequence[tuple[str, str]]
"""An object as JSON texts of its keys and values, so that it can hold a key twice."""

NASTY = (
    *("", "a", " ", "%00", "%ed%a0%80", "~", "/", "#", "a/b~c/d#1", "..", "'", '"', "\\", "$(x)", "`x`", "x" * 1_025),
    *("\x00", "\x01", "\x07", "\x08", "\t", "\n", "\r", "\x0b", "\x1b[31m", "\x1b]0;title\x07", "\x7f", "\x80", "\x85"),
    *(
        "\x9b31m",
        "\x9d",
        "\xa0",
        "\xad",
        "\u00e9",
        "e\u0301",
        "\u0130",
        "\u061c",
        "\u200b",
        "\u200e",
        "\u2028",
        "\u2029",
    ),
    *("\u202a", "\u202b", "\u202c", "\u202d", "\u202e", "\u2066", "\u2067", "\u2068", "\u2069", "\ufeff", "\ufffe"),
    *("\ufffd", "\ue000", "\U0001f600", "\U000e0041", "\U0010ffff", "<b>x</b>", "</text><script>x</script>", "&lt;"),
    *("]]>", "<!--", "-->", "NaN", "null", "1e999", "-1", "9" * 30, "=cmd()", "--help", "-x", "{}", "[2]", "\u0662"),
)
"""Texts that some reader, terminal, log or page takes for more than a text; all of them can be encoded."""

WORDS = (*NASTY, "\udcff", "a\udcffb")
"""The same with bytes that are not UTF-8, as Python hands them on from a command line and the environment."""

TEXTS = (*NASTY, "\ud800", "\udfff", "\udcff", "a\udcffb")
"""The same with lone surrogates of every kind, as a careless program writes them."""

_DEEP = tuple(opened * depth + shut * depth for depth in (60, 63, 64, 65, 300, 900, 3_000) for opened, shut in ("[]",))
_DEEP_OBJECTS = tuple('{"a":' * depth + "1" + "}" * depth for depth in (62, 63, 64, 65, 900))

LITERALS = (
    *("0", "null", "true", "false", "1", "-1", "-0", "1.0", "0.5", "-0.0", "1e3", "1E+2", "1e-400", "1e400", "-1e309"),
    *("NaN", "-Infinity", "01", "+1", ".5", "1.", "0x10", "1_0", "9223372036854775807", "9223372036854775808"),
    *("-9223372036854775808", "-9223372036854775809", "18446744073709551616", "9" * 30, "9" * 5_000, "1e18", "1e19"),
    *('""', '"1"', '"1.0"', '"2"', '"0"', '"-1"', '"1e400"', f'"{"9" * 5_000}"', '"NaN"', '"sNaN"', '"-Infinity"'),
    *('"\\u0000"', '"\\\\u0000"', '"\\\\\\u0000"', '"\\ud800"', '"\\udc00"', '"\\ud83d\\ude00"', '"\\ud800\\u0041"'),
    *('"\x00"', '"\x1b"', '"\\u001b[31m"', '"\\u202e"', '"\\x"', '"\\u12"', '"', "'a'", f'"{"x" * 5_000}"'),
    *('"2026-01-31T12:00:00Z"', '"2026-01-31T12:00:00"', '"0001-01-01T00:00:00+23:59"', '"2016-12-31T23:59:60Z"'),
    *('"9999-12-31T23:59:59-23:59"', '"9999-12-31T23:59:59.999999Z"', '"0001-01-01T00:00:00Z"', '"P999999999D"'),
    *('"-P1D"', '"PT1e5S"', '"1e999999"', '"1E-999999"', '"AAAA"', '"AAA"', '"=="', "[]", "{}", "[1,]", '{"a":}'),
    *('{"a":1,"a":2}', '{"a":{"b":1,"\\u0062":2}}', '{"$secret":"x"}', '{"$secret":{"$secret":"x"}}', "[[1],[2]]"),
    *('{"$secret":"\\u0000"}', '["a","b"]', '["a","a"]', '"application/json"', '"text/xml"', '"event"', '"timer"'),
    *_DEEP,
    *_DEEP_OBJECTS,
)
"""JSON values, and what looks like them."""

_PIECES = ("{", "}", "[", "]", ",", ":", "\r\n", "\\", '\\"', "\\u", "e", "-", ".", "//", "/*")
SNIPPETS = (
    *(text.encode("utf-8", "surrogatepass") for text in (*TEXTS, *LITERALS, *_PIECES)),
    *(b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80", b"\xef\xbb\xbf", b"\x00", b"\xff\xfe{"),
)


class Choices:
    """Reads decisions off the bytes one after the other; behind their end every decision is the first, the plainest."""

    def __init__(self, data: bytes) -> None:
        """Decide by these bytes."""
        self._data = data
        self._at = 0

    def below(self, number: int) -> int:
        """A number from 0."""
        value = 0
        room = number
        while room > 1:
            value = value * 256 + (self._data[self._at] if self._at < len(self._data) else 0)
            self._at += 1
            room = (room + 255) // 256
        return value % number

    def one_in(self, number: int) -> bool:
        """True once in so many."""
        return self.below(number) == number - 1

    def pick(self, of: Sequence[T]) -> T:
        """One of these."""
        return of[self.below(len(of))]

    def text(self, of: Sequence[str] = NASTY) -> str:
        """Up to four nasty pieces one behind the other."""
        return "".join(self.pick(of) for _ in range(1 + self.below(4)))

    def json_text(self, of: Sequence[str] = NASTY) -> str:
        """Such a text as JSON, escaped or not."""
        return json.dumps(self.text(of), ensure_ascii=not self.one_in(2))

    def literal(self) -> str:
        """A JSON value, or what looks like one."""
        return self.json_text(TEXTS) if self.one_in(4) else self.pick(LITERALS)

    def object(self, pairs: Pairs) -> str:
        """An object like this one, with at most a few things wrong with it."""
        them = list(pairs)
        for _ in range(self.pick((0, 0, 0, 1, 0, 1, 1, 2, 3))):
            at = self.below(len(them)) if them else 0
            match self.below(5):
                case 0 if them:
                    them[at] = (them[at][0], self.literal())
                case 1 if them:
                    del them[at]
                case 2 if them:
                    them.append((them[at][0], self.literal()))
                case 3:
                    them.insert(at, (self.json_text(TEXTS), self.literal()))
                case _:
                    them.reverse()
        space = " " if self.one_in(8) else ""
        return "{" + f",{space}".join(f"{key}:{space}{value}" for key, value in them) + "}"

    def bytes_like(self, data: bytes, most: int = 3) -> bytes:
        """These bytes, of which half the time a few are flipped, cut, put in, doubled or lost."""
        if not self.one_in(2):
            return data
        for _ in range(1 + self.below(most)):
            at = self.below(len(data) + 1)
            match self.below(6):
                case 0:
                    data = data[:at] + self.pick(SNIPPETS) + data[at:]
                case 1 if data:
                    at = min(at, len(data) - 1)
                    data = data[:at] + bytes([data[at] ^ (1 << self.below(8))]) + data[at + 1 :]
                case 2:
                    data = data[:at] + data[at + 1 + self.below(16) :]
                case 3:
                    data = data[:at]
                case 4:
                    data = data[:at] + data[max(0, at - self.below(32)) :]
                case _:
                    data = self.pick((b" ", b"\n", b"\xef\xbb\xbf", b"\t", b"\x00")) + data
        return data
