"""What people write: the configuration, the environment, flags, URLs, SAGA/KEY, steps, lengths of time, apps."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import click
import msgspec

from orchestrator.app import load_app
from orchestrator.config import Settings
from orchestrator.errors import AppError, ConfigError
from orchestrator.operate.cli import acting
from orchestrator.operate.cli.session import ADDRESS, DURATION
from orchestrator.operate.notify import _watchdog_s
from orchestrator.operate.output import hidden_password
from orchestrator.operate.places import store_file
from orchestrator.operate.settings import _TABLES, CONFIG_FILE, ENVIRONMENT_PREFIX, load_settings
from orchestrator.urls import open_store
from orchestrator.wire import Address
from orchestrator_adapters.sqlite import SQLiteStore
from orchestrator_adapters.sqlite.store import _path_of

from .cases import Parser, Wrong
from .choices import LITERALS, NASTY, WORDS, Choices

_TOML_VALUES = (
    *(
        "500",
        "1",
        "1.5",
        "'text'",
        '"info"',
        "0",
        "-1",
        "true",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1e9",
        "1e11",
        "[]",
        "{}",
    ),
    *("0x" + "f" * 16, "0x" + "f" * 5_000, "9" * 5_000, "1_000", "9223372036854775807", "9223372036854775808"),
    *("1000000000", "1000000001", "2026-01-31T12:00:00Z", "2026-13-01", "12:00:60", '"""x\n"""', "'a\nb'", '"\\u0000"'),
    *(
        '"\\ud800"',
        '"\\x1b"',
        "[" * 100 + "]" * 100,
        "[" * 1_500,
        "{a=" * 1_500,
        '"sqlite:///x.db"',
        '"memory://"',
        '"%00"',
    ),
)
_FIELDS = tuple(Settings.__struct_fields__)
_LIMITS = tuple(msgspec.structs.asdict(Settings().limits))
_HALF = re.compile("[\ud800-\udfff]")
_WEBHOOKS = {"allow": '["10.0.0.0/8"]', "http": "true"}
_TOPICS = {"prefix": '"shop."', "group": '"shop"', "routes": '{"*" = "all"}', "plain": '{ "x" = { type = "X" } }'}
_GOOD = {"limits": "", "log": '"json"', "level": '"debug"'}


def _good(name: str) -> str:
    return _GOOD.get(name, '"memory://"' if name in ("store", "bus") else '"shop"')


@cache
def _folder() -> Path:
    memory = "/dev/shm"  # a file a case: a disk would be most of the time
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if os.path.isdir(memory) else None))


def configuration(c: Choices) -> tuple[int, int]:
    """Settings within their bounds that can be written and read again, or ConfigError."""
    lines = [f"{name} = {_value(c, _good(name))}" for name in _FIELDS if name not in _TABLES and c.one_in(3)]
    if c.one_in(8):
        lines.append(f"{c.pick(('stor', 'limits', 'x', json.dumps(c.text())))} = {c.pick(_TOML_VALUES)}")
    if c.one_in(2):
        lines += ["[limits]", *(f"{name} = {_value(c, '7')}" for name in _LIMITS if c.one_in(4))]
    if c.one_in(3):
        lines += ["[webhooks]", *(f"{name} = {_value(c, good)}" for name, good in _WEBHOOKS.items() if c.one_in(2))]
    if c.one_in(3):
        lines += ["[topics]", *(f"{name} = {_value(c, good)}" for name, good in _TOPICS.items() if c.one_in(2))]
    if c.one_in(8):
        lines += [c.pick(("[limits]", "[limits.x]", "[[limits]]", "[x", "limits.mailbox = 5", '"limits.mailbox" = 5'))]
    content = "\n".join(lines)
    content = c.bytes_like(content.encode()) if c.one_in(4) else content.encode()
    (_folder() / CONFIG_FILE).write_bytes(content)
    environ, flags = _environment(c), {name: c.text(WORDS) for name in ("store", "app", "bus") if c.one_in(8)}
    try:
        settings, origins = load_settings(flags, environ, _folder())
    except ConfigError as error:
        if not str(error):
            raise Wrong("it says nothing about what is wrong") from None
        return 1, 0
    if len(origins) != len(_FIELDS) - len(_TABLES) + sum(len(kind.__struct_fields__) for kind in _TABLES.values()):
        raise Wrong(f"it tells where {len(origins)} come from")
    _check_limits(settings)
    if c.one_in(2):
        _check_written(settings)
    return 1, 1


def _value(c: Choices, good: str) -> str:
    return c.pick(_TOML_VALUES) if c.one_in(6) else good


def _environment(c: Choices) -> dict[str, str]:
    environ: dict[str, str] = {}
    for _ in range(c.pick((0, 0, 1, 2))):
        name = c.pick(
            (
                "STORE",
                "LIMITS__MAILBOX",
                "TOPICS__PLAIN",
                "TOPICS__PREFIX",
                "LIMITS__DRAIN_S",
                "LOG",
                "STOR",
                "X",
                "LIMITS__",
                "limits__mailbox",
            )
        )
        environ[ENVIRONMENT_PREFIX + name] = c.pick(("5", "0x5", "json", "", "1e3", c.text(WORDS), c.pick(LITERALS)))
    return environ


def _check_limits(settings: Settings) -> None:
    for name, value in msgspec.structs.asdict(settings.limits).items():
        if not (math.isfinite(value) and 0 < value <= 1e10):
            raise Wrong(f"limits.{name} = {value}")


def _check_written(settings: Settings) -> None:
    """The same settings, written as TOML, are the same settings; a name that is not UTF-8 has no place in TOML."""
    top = msgspec.structs.asdict(settings)
    tables = {name: msgspec.to_builtins(top.pop(name)) for name in _TABLES}
    if _HALF.search("".join(top.values()) + json.dumps(tables, ensure_ascii=False)):
        return
    written = [f"{name} = {_toml(value)}" for name, value in top.items() if value]
    for table, values in tables.items():
        written += [f"[{table}]", *(f"{name} = {_toml(value)}" for name, value in values.items())]
    (_folder() / CONFIG_FILE).write_text("\n".join(written), encoding="utf-8")
    again, _ = load_settings({}, {}, _folder())
    absolute = msgspec.structs.replace(settings, app_dir=again.app_dir, store=again.store)
    if again != absolute:
        raise Wrong(f"{settings} comes back as {again}")


def _toml(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{_toml(name)} = {_toml(inner)}" for name, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


# URLs.

_PARTS = (
    "sqlite:///",
    "shop.db",
    "/",
    "a",
    "%20",
    "%00",
    "%FF",
    "?",
    "#",
    ":memory:",
    "..",
    "memory://",
    "sqlite://",
    ":",
)


def url(c: Choices) -> tuple[int, int]:
    """A store, or ConfigError; what says where its file is agrees with the store itself; no password shows."""
    parts = [c.pick(("sqlite:///", "sqlite:///", "sqlite:////", "", "memory:", "x://u:"))]
    parts += [c.pick(_PARTS) if c.one_in(2) else c.text(WORDS) for _ in range(1 + c.below(3))]
    text = "".join(parts)
    hidden_password(text)
    if "hunter2" in hidden_password(f"x://{c.pick(('u', '', 'u.v'))}:hunter2@host/{text}"):
        raise Wrong("the password shows")
    place = store_file(text)
    try:
        (open_store if c.one_in(32) else SQLiteStore.from_url)(text)
        path = _path_of(text) if text.startswith("sqlite") else None
    except ConfigError as error:
        str(error).encode(errors="backslashreplace")
        return 1, 0
    if path != place:
        raise Wrong(f"{text!r} is {path} to the store and {place} to the rest")
    return 1, 1


# Words of a command line.


def words(c: Choices) -> tuple[int, int]:
    """SAGA/KEY, a step, a length of time, a reply: a value that says the same again, or a usage error."""
    try:
        match c.below(4):
            case 0:
                text = c.pick(("Order/", "", "/", "Order")) + c.text(WORDS)
                address = ADDRESS.convert(text, None, None)
                if str(address) != text or not (address.saga and address.key) or "/" in address.saga:
                    raise Wrong(f"{text!r} is {address!r}")
                if ADDRESS.convert(address, None, None) != address or Address(*text.split("/", 1)) != address:
                    raise Wrong(f"{text!r} is {address!r}")
            case 1:
                text = c.pick(("90", "1.5", "0", "1e3", "9" * 30, "-1", "nan", "inf", "1_0", "\u0662", *NASTY))
                text += c.pick(("s", "m", "h", "d", "w", "", "S", " s", "ss"))
                seconds = DURATION.convert(text, None, None)
                if not (math.isfinite(seconds) and 0 <= seconds < 1e10):
                    raise Wrong(f"{text!r} is {seconds} s")
            case 2:
                text = c.pick(("reserve", c.text(WORDS))) + c.pick(
                    ("", "[2]", "[", "[-1]", f"[{'9' * 5_000}]", "[\u0662]")
                )
                name, element = acting._step(text)
                if (f"{name}[{element}]" if element >= 0 else name) != text and text.isascii() and "[0" not in text:
                    raise Wrong(f"{text!r} is {name!r}, {element}")
            case _:
                raw = bytes(acting._json(c.literal()))
                msgspec.json.decode(raw)
    except click.UsageError as error:
        error.format_message()
        return 1, 0
    _watchdog_s({"WATCHDOG_USEC": c.pick(("1000", "9" * 400, "9" * 5_000, "-1", "x", ""))})
    return 1, 1


# Apps.

_PLACES = (
    "shop.py",
    "missing",
    "shop",
    "a/b.py",
    "~/x.py",
    "~nobody-is-called-so/x.py",
    "/x.py",
    "x" * 300 + ".py",
    ".shop",
)


@cache
def _apps() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    name = f"fuzzed_{os.getpid()}"
    (folder / f"{name}.py").write_text("from orchestrator.app import App\napp = App('a')\nother = 1\n")
    return folder


def app_path(c: Choices) -> tuple[int, int]:
    """An app, or AppError. Only names that nothing has are looked for: an import runs what it finds."""
    name = f"fuzzed_{os.getpid()}"
    place = c.pick((name, f"{name}.py", name, c.pick(_PLACES), f"no-{c.text(WORDS)}", f"./{c.text(WORDS)}/x.py"))
    spec = place + c.pick(("", ":app", ":other", ":", f":{c.text(WORDS)}", "::", " "))
    before = list(sys.path)
    try:
        load_app(spec, _apps())
    except AppError as error:
        str(error).encode(errors="backslashreplace")
        return 1, 0
    finally:
        sys.path[:] = before
    return 1, 1


PARSERS: tuple[Parser, ...] = (
    Parser("configuration", configuration),
    Parser("store URL", url),
    Parser("words of a verb", words),
    Parser("app path", app_path),
)
