"""Whether what one schema describes fits another: of the schemas that this package makes, not of any there is."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, cast

import msgspec
from msgspec import Struct

from ..codec import SECRET
from .schemas import DATETIMES, DECIMAL, MAX_BYTES, MIN_BYTES, OMITS_DEFAULTS, TIMES, Schema

SHOWN_CHARS = 60  # of a value, in a sentence


class Reader(Enum):
    """Who reads what was written.

    OURS    our codec: fields it does not know are passed over; a number is read as a Decimal, a bare value as a Secret
    THEIRS  anybody else, by the schema; and a field that was there may be counted on
    """

    OURS = "ours"
    THEIRS = "theirs"


class Misfit(Struct, frozen=True):
    """Where something written would not be read as before, and why, as somebody says it who changed the one that is
    read by us, or written to them. `kind` is one of a few words, for programs.
    """

    path: str
    kind: str
    why: str


def misfits(written: Schema, read: Schema, by: Reader) -> list[Misfit]:
    """Where values of the schema `written` may not fit the schema `read`; none: every one of them does."""
    return list(dict.fromkeys(_Fitting(written, read, by).compared(written, read, "")))


class _Fitting:
    """Two whole schemas, and who reads."""

    def __init__(self, written: Schema, read: Schema, by: Reader) -> None:
        self._written = written.get("$defs", {})
        self._read = read.get("$defs", {})
        self._by = by
        self._seen: set[tuple[int, int]] = set()

    def compared(self, written: Any, read: Any, path: str) -> Iterator[Misfit]:
        """The misfits of two parts, at a path."""
        yield from self._resolved(_target(written, self._written), _target(read, self._read), path)

    def _resolved(self, written: Schema, read: Schema, path: str) -> Iterator[Misfit]:
        if _is_any(read):
            return
        if _is_any(written):
            yield self._changed(written, read, path)
        elif "anyOf" in written:
            for option in written["anyOf"]:
                wrong = list(self.compared(option, read, path))
                is_whole = [(it.path, it.kind) for it in wrong] == [(path, "changed type")]
                yield from [self._option(_target(option, self._written), path)] if is_whole else wrong
        elif "anyOf" in read:
            yield from self._any_of(written, read, path)
        elif "enum" in written:
            yield from self._values(written["enum"], read, path)
        elif "enum" in read:
            yield self._changed(written, read, path)
        elif self._by is Reader.OURS and _is_secret(read) and not _is_secret(written):
            yield from self.compared(written, read["properties"][SECRET], path)
        else:
            yield from self._same_type(written, read, path)

    def _any_of(self, written: Schema, read: Schema, path: str) -> Iterator[Misfit]:
        """One of the options takes it whole; else what is wrong with the one that is most like it."""
        options = [_target(option, self._read) for option in read["anyOf"]]
        if "enum" in written:
            for value in written["enum"]:
                yield from self._any_of_values(value, options, path)
            return
        found: list[list[Misfit]] = []
        for option in options:
            seen = set(self._seen)
            wrong = list(self._resolved(written, option, path))
            if not wrong:
                return
            self._seen = seen
            if option.get("type") == written.get("type") and _tag(option) == _tag(written):
                found.append(wrong)
        yield from found[0] if len(found) == 1 else [self._changed(written, read, path)]

    def _any_of_values(self, value: Any, options: list[Schema], path: str) -> Iterator[Misfit]:
        if all(list(self._resolved({"enum": [value]}, option, path)) for option in options):
            yield self._value(value, path)

    def _values(self, values: list[Any], read: Schema, path: str) -> Iterator[Misfit]:
        for value in values:
            if "enum" in read:
                if not any(_same(value, other) for other in read["enum"]):
                    yield self._value(value, path)
            else:
                of_value = _schema_of_value(value)
                if of_value is None or list(self._resolved(of_value, read, path)):
                    yield self._value(value, path)

    def _same_type(self, written: Schema, read: Schema, path: str) -> Iterator[Misfit]:
        was, now = written["type"], read["type"]
        if self._by is Reader.OURS and read.get("pattern") == DECIMAL and was in ("integer", "number"):
            return
        if was != now and (was, now) != ("integer", "number"):
            yield self._changed(written, read, path)
            return
        if "title" in written and "title" in read:
            pair = (id(written), id(read))
            if pair in self._seen:  # they hold themselves, or are compared elsewhere
                return
            self._seen.add(pair)
        match now:
            case "integer" | "number":
                yield from self._bounds(written, read, path)
            case "string":
                yield from self._texts(written, read, path)
            case "array":
                yield from self._arrays(written, read, path)
            case "object":
                yield from self._objects(written, read, path)
            case _:
                return

    def _arrays(self, written: Schema, read: Schema, path: str) -> Iterator[Misfit]:
        yield from self._lengths(written, read, path, "minItems", "maxItems")
        if self._by is Reader.THEIRS and read.get("uniqueItems") and not written.get("uniqueItems"):
            yield Misfit(path, "widened type", "may hold an element twice now")
        for at in range(max(len(written.get("prefixItems", ())), len(read.get("prefixItems", ())))):
            one, other = _item(written, at), _item(read, at)
            if one is not False and other is not False:  # else its length says it
                yield from self.compared(one, other, f"{path}[{at}]")
        rest, their_rest = written.get("items", {}), read.get("items", {})
        if rest is not False and their_rest is not False:
            yield from self.compared(rest, their_rest, f"{path}[...]")

    def _objects(self, written: Schema, read: Schema, path: str) -> Iterator[Misfit]:
        if _is_mapping(written) or _is_mapping(read):
            yield from self._mappings(written, read, path)
            return
        ours, theirs = written.get("properties", {}), read.get("properties", {})
        sure = _sure(written, self._by)
        for name, schema in theirs.items():
            at = f"{path}.{name}"
            if name in ours:
                yield from self.compared(ours[name], schema, at)
                if name in read.get("required", ()) and name not in sure:
                    yield self._unsure(at)
            elif self._by is Reader.THEIRS:
                yield Misfit(at, "removed field", "is not there any more")
            elif name in read.get("required", ()):
                yield Misfit(at, "new required field", "is new and has no default")
        if read.get("additionalProperties") is False:
            for name in sorted(ours.keys() - theirs.keys()):
                yield Misfit(f"{path}.{name}", "removed field", "is refused now")

    def _mappings(self, written: Schema, read: Schema, path: str) -> Iterator[Misfit]:
        if not _is_mapping(read):
            yield self._changed(written, read, path)
            return
        if not _is_mapping(written):
            if self._by is Reader.THEIRS or "propertyNames" in read or "minProperties" in read:
                yield self._changed(written, read, path)
                return
            values: list[Any] = list(written.get("properties", {}).values())
        else:
            values = [written["additionalProperties"]]
            names = {"type": "string", **_target(written.get("propertyNames", {}), self._written)}
            their_names = {"type": "string", **_target(read.get("propertyNames", {}), self._read)}
            for wrong in self._resolved(names, their_names, path):
                yield Misfit(path, wrong.kind, f"its keys: {wrong.why}")
            yield from self._lengths(written, read, path, "minProperties", "maxProperties")
        for value in values:
            yield from self.compared(value, read["additionalProperties"], f"{path}[...]")

    def _bounds(self, written: Schema, read: Schema, path: str) -> Iterator[Misfit]:
        step, their_step = written.get("multipleOf"), read.get("multipleOf")
        if their_step is not None and (step is None or step % their_step):
            yield self._limited(path, f"a multiple of {their_step}")
        for inclusive, exclusive, sign in (("minimum", "exclusiveMinimum", 1), ("maximum", "exclusiveMaximum", -1)):
            low, their_low = _limit(written, inclusive, exclusive, sign), _limit(read, inclusive, exclusive, sign)
            if their_low is not None and (low is None or low < their_low):
                yield self._limited(
                    path, f"bounded: {inclusive if their_low[1] == 0 else exclusive} {sign * their_low[0]}"
                )

    def _texts(self, written: Schema, read: Schema, path: str) -> Iterator[Misfit]:
        pattern, theirs = written.get("pattern"), read.get("pattern")
        if theirs is not None and pattern != theirs and (pattern, theirs) not in _WITHIN:
            yield self._changed(written, read, path)
            return
        yield from self._lengths(written, read, path, "minLength", "maxLength")
        yield from self._lengths(written, read, path, MIN_BYTES, MAX_BYTES)

    def _lengths(self, written: Schema, read: Schema, path: str, least: str, most: str) -> Iterator[Misfit]:
        if read.get(least, 0) > written.get(least, 0):
            yield self._limited(path, f"of a length of at least {read[least]}")
        if most in read and (most not in written or read[most] < written[most]):
            yield self._limited(path, f"of a length of at most {read[most]}")

    # What is said: of what we read, the reader changed; of what they read, the writer.

    def _limited(self, path: str, limit: str) -> Misfit:
        if self._by is Reader.OURS:
            return Misfit(path, "narrowed type", f"must be {limit} now")
        return Misfit(path, "widened type", f"was {limit}, and need not be now")

    def _changed(self, written: Schema, read: Schema, path: str) -> Misfit:
        was, now = (written, read) if self._by is Reader.OURS else (read, written)
        return Misfit(path, "changed type", f"was {_said(was)}, is {_said(now)} now")

    def _value(self, value: Any, path: str) -> Misfit:
        if self._by is Reader.OURS:
            return Misfit(path, "removed value", f"may not be {_shown(value)} any more")
        return Misfit(path, "new value", f"may be {_shown(value)} now")

    def _option(self, option: Schema, path: str) -> Misfit:
        if self._by is Reader.OURS:
            return Misfit(path, "narrowed type", f"may not be {_said(option)} any more")
        return Misfit(path, "widened type", f"may be {_said(option)} now")

    def _unsure(self, path: str) -> Misfit:
        if self._by is Reader.OURS:
            return Misfit(path, "new required field", "has lost its default, without which it may not be there")
        return Misfit(path, "removed field", "may be missing now")


def _target(schema: Any, definitions: dict[str, Schema]) -> Schema:
    """What a reference refers to; `true` is a schema, too."""
    if schema is True:
        return {}
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    return cast("Schema", schema)


def _is_any(schema: Schema) -> bool:
    return not schema.keys() & {"type", "anyOf", "enum"}


def _is_secret(schema: Schema) -> bool:
    return list(schema.get("properties", ())) == [SECRET]


def _is_mapping(schema: Schema) -> bool:
    return isinstance(schema.get("additionalProperties"), dict)


def _item(schema: Schema, at: int) -> Any:
    """The schema of an element."""
    first = schema.get("prefixItems", ())
    return first[at] if at < len(first) else schema.get("items", {})


def _tag(schema: Schema) -> Any:
    """The value that tells one object of a union from the others."""
    fixed = [part["enum"] for part in schema.get("properties", {}).values() if len(part.get("enum", ())) == 1]
    return fixed[0] if fixed else None


def _sure(written: Schema, by: Reader) -> frozenset[str]:
    """The fields that are always there. We write all of them; what others send us, or an older class of ours has
    written, may be without those that have a default.
    """
    is_whole = by is Reader.THEIRS and not written.get(OMITS_DEFAULTS)
    return frozenset(written.get("properties", ()) if is_whole else written.get("required", ()))


def _limit(schema: Schema, inclusive: str, exclusive: str, sign: int) -> tuple[float, int] | None:
    """A bound that compares as it narrows."""
    found = [(sign * schema[name], rank) for rank, name in enumerate((inclusive, exclusive)) if name in schema]
    return max(found, default=None)


_WITHIN = {(table[part], table[None]) for table in (DATETIMES, TIMES) for part in (True, False)}


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and value == other


def _schema_of_value(value: Any) -> Schema | None:
    match value:
        case None:
            return {"type": "null"}
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer", "minimum": value, "maximum": value}
        case str():
            return {"type": "string", "minLength": len(value), "maxLength": len(value)}
        case _:
            return None


def _said(schema: Schema) -> str:
    """A schema in a few words."""
    if "enum" in schema:
        return f"one of {', '.join(_shown(value) for value in schema['enum'])}"
    if "anyOf" in schema:
        return " or ".join(_said(_named(option)) for option in schema["anyOf"])
    if "title" in schema:
        return str(schema["title"])
    kind = str(schema.get("type", "anything"))
    if kind == "array" and isinstance(schema.get("items"), dict) and schema["items"]:
        return f"an array of {_said(_named(schema['items']))}"
    form = schema.get("format") or _FORMS.get(schema.get("pattern", "")) or schema.get("contentEncoding")
    if form is None and "pattern" in schema:
        form = schema["pattern"]
    return f"{kind} ({form})" if form else kind


_FORMS = {pattern: name for table, name in ((DATETIMES, "date-time"), (TIMES, "time")) for pattern in table.values()}


def _named(schema: Schema) -> Schema:
    """A reference by its name."""
    return {"title": schema["$ref"].rpartition("/")[2]} if "$ref" in schema else schema


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."
