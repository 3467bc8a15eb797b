"""JSON for messages and states: one encoder, a decoder a class, and what must not be shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import Any, Generic, TypeVar, cast, get_args, get_origin

import msgspec
import msgspec.inspect as mi
from msgspec import Raw, Struct
from typing_extensions import TypeIs

from .errors import BadMessage

V = TypeVar("V", covariant=True)
T = TypeVar("T")

SECRET = "$secret"
SHOWN_CHARS = 400  # of what is wrong, in the text of an error: it may hold the value


class Secret(Generic[V]):
    """A value that is stored and sent but never shown: `Secret[str]`. It prints as `***`; `reveal()` gives it.

    Its JSON is `{"$secret": value}`, so that whoever shows stored data can mask it without knowing the class; the
    bare value is accepted too.
    """

    __slots__ = ("_value",)

    def __init__(self, value: V) -> None:
        """Keep `value` from being shown."""
        self._value = value

    def reveal(self) -> V:
        """The value itself."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return _is_secret(other) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


def encode(value: object) -> bytes:
    """The JSON of a message or a state: equal values give equal bytes, and decoding them gives an equal value.

    Errors: BadMessage, if a field holds what its annotation does not promise, NaN, infinity, or what JSON cannot carry.
    """
    try:
        data = _encoder.encode(value)
    except _UNWRITABLE as error:
        raise _unwritable(value, error) from error
    _check_readable(value, data)
    return data


def encode_again(value: object, known: Raw) -> Raw:
    """As `encode`; `known` is what a value of this class was encoded to before: the same again is readable, so it is
    not read, and it is given back itself.
    """
    try:
        data = Raw(_encoder.encode(value))
    except _UNWRITABLE as error:
        raise _unwritable(value, error) from error
    if data == known:
        return known
    _check_readable(value, data)
    return data


def decode(cls: type[T], data: bytes | Raw, name: str = "") -> T:
    """The value that `data` holds. Errors: BadMessage, naming the field's path from `name` (default: the class's)."""
    decoder = _decoders.get(cls) or _decoder(cls)
    try:
        value: T = decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadMessage(_with_path(name or cls.__name__, str(error))) from error
    if cls in _with_decimals and (path := _without_number(value)) is not None:
        raise BadMessage(f"{name or cls.__name__}{path}: NaN and infinity are no numbers here")
    return value


def lifted(name: str, lift: Callable[[dict[str, Any]], dict[str, Any]], stored: dict[str, Any]) -> dict[str, Any]:
    """The user's lift of an old payload or state to its next version (R18). Errors: BadMessage, if it raises."""
    try:
        return lift(stored)
    except Exception as error:
        raise BadMessage(f"{name}: {lift.__name__} could not lift an old version: {error!r}") from error


_UNWRITABLE = (TypeError, ValueError, OverflowError, RecursionError)


def _unwritable(value: object, error: Exception) -> BadMessage:
    return BadMessage(f"{type(value).__name__} cannot be stored: {error}")


def _check_readable(value: object, data: bytes | Raw) -> None:
    back = decode(type(value), data)  # what is committed must be readable: better a bug now than a lost instance
    if back != value:
        raise BadMessage(f"{_difference(value, back)} would not come back as it is: give it what its annotation says")


def _decoder(cls: type) -> msgspec.json.Decoder[Any]:
    decoder = _decoders[cls] = msgspec.json.Decoder(cls, dec_hook=_from_json)
    held = repr(mi.type_info(cls))
    if "DecimalType" in held or "CustomType" in held:  # a Secret is of a custom type
        _with_decimals.add(cls)
    return decoder


_decoders: dict[type, msgspec.json.Decoder[Any]] = {}
_with_decimals: set[type] = set()


def _without_number(value: Any, path: str = "") -> str | None:
    """The path of the first Decimal that is NaN or infinite: a JSON text may say so, a JSON number cannot."""
    match value:
        case Decimal():
            return None if value.is_finite() else path
        case Secret():
            return _without_number(value.reveal(), path)
        case tuple() | list() | set() | frozenset():
            parts = ((inner, f"{path}[...]") for inner in cast("Iterable[Any]", value))
        case dict():
            parts = ((inner, f"{path}[...]") for pair in cast("dict[object, object]", value).items() for inner in pair)
        case Struct():
            parts = ((getattr(value, name), f"{path}.{name}") for name in value.__struct_fields__)
        case _ if is_dataclass(value):
            parts = ((getattr(value, field.name), f"{path}.{field.name}") for field in fields(value))
        case _:
            return None
    return next((found for inner, at in parts if (found := _without_number(inner, at)) is not None), None)


def _is_secret(value: object) -> TypeIs[Secret[object]]:
    return isinstance(value, Secret)


def _to_json(value: Any) -> Any:
    if _is_secret(value):
        return {SECRET: value.reveal()}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _from_json(hint: Any, value: Any) -> Any:
    if (get_origin(hint) or hint) is not Secret:
        raise TypeError(f"{hint} has no JSON form")
    if isinstance(value, dict) and SECRET in value:
        value = cast("dict[str, Any]", value)[SECRET]
    [inner] = get_args(hint) or [Any]
    try:
        return Secret(msgspec.convert(value, inner, dec_hook=_from_json))
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None  # msgspec adds the path to a ValueError only


_encoder = msgspec.json.Encoder(enc_hook=_to_json, order="deterministic")


def _with_path(name: str, text: str) -> str:
    what, _, path = text.partition(" - at `$")
    what = what if len(what) <= SHOWN_CHARS else what[:SHOWN_CHARS] + "..."
    return f"{name}{path.rstrip('`')}: {what[:1].lower()}{what[1:]}"


def _difference(value: object, back: object) -> str:
    name = type(value).__name__
    for field in getattr(value, "__struct_fields__", ()):
        if getattr(value, field) != getattr(back, field):
            return f"{name}.{field}, a {type(getattr(value, field)).__name__},"
    return name
