"""JSON from outside, read strictly: what passes here is safe in every store and means the same to every reader."""

from __future__ import annotations

import json
import re
from typing import Any, cast

import msgspec

from .errors import BadMessage

BODY_BYTES = 1024 * 1024
DEPTH = 64
INT_BITS = 63


def strict_json(raw: bytes, limit: int = BODY_BYTES, depth: int = DEPTH) -> Any:
    """The builtins that one JSON text stands for.

    Refused, because a store, a driver or another reader would choke on it or read it differently: more than `limit`
    bytes or `depth` levels, NaN and infinities, numbers over a float's range, integers of 2**63 and more, lone
    surrogates, NUL characters, a key twice in one object, a byte order mark, bytes that are not UTF-8, and anything
    behind the value. Errors: BadMessage, a sentence that says which.
    """
    if len(raw) > limit:
        raise BadMessage(f"it has {len(raw):,} bytes, the limit is {limit:,}")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise BadMessage("it begins with a byte order mark: write UTF-8 without one")
    if raw.count(b"[") + raw.count(b"{") > depth and _is_deeper(raw, depth):
        raise BadMessage(f"it is nested deeper than {depth} levels")
    if b"\\u0000" in raw and _NUL.search(raw):
        raise BadMessage("it holds the NUL character \\u0000, which not every database can store")
    try:
        value = _checked(raw)
        if type(value) is dict and msgspec.json.encode(value) == raw and not _LONG_NUMBER.search(raw):
            return cast("dict[str, Any]", value)  # what is written again byte for byte has no key twice
        return _unique_keys.decode(raw.decode())
    except RecursionError:  # `depth` may be more than Python reads
        raise BadMessage("it is nested too deeply") from None


_LONG_NUMBER = re.compile(rb"[:,\[]-?[0-9]{19}")  # in an object without blanks; 2**63 has as many digits
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_HALF = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?P<rest>.{0,5})\Z", re.DOTALL)
_SECOND_BEGUN = re.compile(rb"(\\(u([dD]([c-fC-F][0-9a-fA-F]?)?)?)?)?")
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.?)*+"?|[\[{]|[\]}]', re.DOTALL)  # a text without end goes to the end: linear


def _is_deeper(raw: bytes, depth: int) -> bool:
    """Whether brackets outside of texts nest deeper; without recursion, before anything is decoded."""
    level = 0
    for match in _BRACKETS.finditer(raw):
        token = match[0]
        if token in (b"[", b"{"):
            level += 1
            if level > depth:
                return True
        elif token in (b"]", b"}"):
            level -= 1
    return False


def _checked(raw: bytes) -> Any:
    """msgspec is strict about syntax, NaN, the range of numbers, UTF-8 and surrogates."""
    try:
        return msgspec.json.decode(raw)
    except UnicodeDecodeError as error:
        raise BadMessage(f"it is not UTF-8: {error.reason} at byte {error.start} of a text") from None
    except msgspec.DecodeError as error:
        raise BadMessage(_sentence(raw, str(error))) from None


def _sentence(raw: bytes, error: str) -> str:
    if error == "Input data was truncated":
        if _ends_in_half_a_pair(raw):
            return "it holds half a surrogate pair, which is no character"
        return "it is not JSON: it ends too early" if raw.strip() else "it is empty"
    if "surrogate" in error:
        return f"it holds half a surrogate pair, which is no character: {error.removeprefix('JSON is malformed: ')}"
    if "out of range" in error:
        return "it holds a number that is out of range: integers are below 2**63, others within a 64-bit float"
    return f"it is not JSON: {error.removeprefix('JSON is malformed: ')}"


def _ends_in_half_a_pair(raw: bytes) -> bool:
    """Whether the first half of a surrogate pair stands near the end, and what follows does not begin the second."""
    half = _HALF.search(raw)
    return half is not None and _SECOND_BEGUN.fullmatch(half["rest"]) is None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadMessage(f"it has the key {twice[:80]!r} twice in one object")
    return found


def _integer(text: str) -> int:
    number = int(text)
    if not -(2**INT_BITS) <= number < 2**INT_BITS:
        raise BadMessage(f"it holds the integer {text}, which does not fit into 64 bits with sign")
    return number


_unique_keys = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)
