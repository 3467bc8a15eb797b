"""Where a setting comes from: a flag, the environment, a file found upwards, or the default."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import Struct

from ..config import Limits, Settings, WebhookSettings
from ..errors import ConfigError
from ..nearest import nearest
from ..topics import TopicSettings

CONFIG_FILE = "orchestrator.toml"
ENVIRONMENT_PREFIX = "ORCHESTRATOR_"


def load_settings(
    flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path
) -> tuple[Settings, dict[str, str]]:
    """The settings in force, and for each of them (limits as `limits.mailbox`) where it came from.

    A flag wins over `ORCHESTRATOR_<NAME>`, that over the nearest `orchestrator.toml` (or `[tool.orchestrator]` of a
    pyproject.toml) from `cwd` upwards, that over the default. A flag that is None or empty is not given, and an empty
    variable is not set. What the file says, and the default store where there is a file, is relative to the file's
    directory; all else to `cwd`.
    Errors: ConfigError, naming the setting and where it was read.
    """
    path, table = _nearest_file(cwd)
    layers = [
        _flags(flags),
        _environment(environ),
        _file(path, table) if path is not None else {},
    ]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name in _NAMES:
        given = next((layer[name] for layer in layers if name in layer), None)
        if given is not None:
            values[name], origins[name] = _converted(name, given), given.origin
        else:
            values[name], origins[name] = _defaults(path, cwd)[name], "default"
    if origins["app_dir"] == "default" and path is not None and origins["app"] == str(path):
        values["app_dir"], origins["app_dir"] = str(path.parent), str(path)
    top: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    for prefix, kind in _TABLES.items():
        names = [name for name in values if name.startswith(f"{prefix}.")]
        top[prefix] = kind(**{name.removeprefix(f"{prefix}."): values[name] for name in names})
    return Settings(**top), origins


class _Given(Struct, frozen=True):
    value: object
    origin: str
    strict: bool = False  # numbers are numbers, not text


_TABLES: dict[str, type[Struct]] = {"topics": TopicSettings, "webhooks": WebhookSettings, "limits": Limits}


def _fields() -> dict[str, Any]:
    """The type of every setting, by its full name."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        if field.name in _TABLES:
            inner = msgspec.structs.fields(_TABLES[field.name])
            found |= {f"{field.name}.{each.name}": each.type for each in inner}
        else:
            found[field.name] = field.type
    return found


_TYPES = _fields()
_NAMES = tuple(_TYPES)
_AS_JSON = frozenset({"topics.routes", "topics.plain", "webhooks.allow"})


def _defaults(path: Path | None, cwd: Path) -> dict[str, Any]:
    settings = Settings(app_dir=str(cwd))
    if path is not None:
        settings = msgspec.structs.replace(settings, store=_relative_store(settings.store, path.parent))
    values = msgspec.structs.asdict(settings)
    for table in _TABLES:
        inner = msgspec.structs.asdict(values[table])
        values |= {f"{table}.{name}": value for name, value in inner.items()}
    return values


def _converted(name: str, given: _Given) -> object:
    try:
        if isinstance(given.value, str) and name in _AS_JSON:
            return msgspec.json.decode(given.value, type=_TYPES[name])
        return msgspec.convert(given.value, _TYPES[name], strict=given.strict)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{name} = {_shown(given.value)} in {given.origin}: {error}") from None
    except UnicodeEncodeError:
        raise ConfigError(f"{name} = {_shown(given.value)} in {given.origin} is not UTF-8") from None


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:
        return "a number"  # with more digits than Python writes
    return text if len(text) <= 80 else text[:77] + "..."


def _flags(flags: Mapping[str, object]) -> dict[str, _Given]:
    _check_names(flags, "the flags")
    return {
        name: _Given(value, f"--{name.replace('_', '-')}") for name, value in flags.items() if value not in (None, "")
    }


def _environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    """What the environment sets. Others may use the prefix too (as service links of containers do), so only a name
    that looks like one of ours written wrong is an error.
    """
    names = {ENVIRONMENT_PREFIX + name.replace(".", "__").upper(): name for name in _NAMES}
    found: dict[str, _Given] = {}
    for variable, value in environ.items():
        if variable in names:
            if value:
                found[names[variable]] = _Given(value, variable)
        elif variable.startswith(ENVIRONMENT_PREFIX):
            wrong = variable.removeprefix(ENVIRONMENT_PREFIX)
            near = nearest(wrong, [known.removeprefix(ENVIRONMENT_PREFIX) for known in names], likeness=0.75)
            if near:
                raise ConfigError(f"{variable} is not a setting; did you mean {ENVIRONMENT_PREFIX}{near[0]}?")
    return found


def _nearest_file(cwd: Path) -> tuple[Path | None, dict[str, Any]]:
    start = cwd.absolute()
    for directory in (start, *start.parents):
        path = directory / CONFIG_FILE
        if path.is_file():
            return path, _parsed(path)
        path = directory / "pyproject.toml"
        if path.is_file():
            table = _table(_table(_parsed(path), "tool"), "orchestrator")
            if table is not None:
                return path, table
    return None, {}


def _table(table: dict[str, Any] | None, name: str) -> dict[str, Any] | None:
    found = (table or {}).get(name)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def _parsed(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error}") from None
    except ValueError as error:  # TOMLDecodeError, or Python's own for a number of thousands of digits
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is not valid TOML: it is nested too deeply") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _file(path: Path, table: dict[str, Any]) -> dict[str, _Given]:
    flat = {name: value for name, value in table.items() if name not in _TABLES}
    for name, example in (("topics", 'prefix = "shop."'), ("webhooks", "http = true"), ("limits", "mailbox = 500")):
        inner = _table(table, name) if name in table else {}
        if inner is None:
            raise ConfigError(f"{name} in {path} is not a table: write [{name}] and a line for each, as `{example}`")
        flat |= {f"{name}.{key}": value for key, value in inner.items()}
    _check_names(flat, str(path))
    return {name: _Given(_relative(name, value, path.parent), str(path), strict=True) for name, value in flat.items()}


def _check_names(names: Iterable[str], origin: str) -> None:
    for name in names:
        if name not in _TYPES:
            near = nearest(name, _NAMES)
            remedy = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_NAMES)}"
            raise ConfigError(f"{name!r} in {origin} is not a setting; {remedy}")


def _relative(name: str, value: object, directory: Path) -> object:
    if not isinstance(value, str):
        return value
    if name == "store":
        return _relative_store(value, directory)
    if name == "app_dir":
        return str(directory / value)
    return value


def _relative_store(url: str, directory: Path) -> str:
    """`sqlite:///name.db` with the directory put before the name; what is absolute, or another store, as it is."""
    place = url.removeprefix("sqlite:///")
    if place == url or not place or place.startswith(("/", ":", "?")):
        return url
    return f"sqlite:///{directory / place}"
