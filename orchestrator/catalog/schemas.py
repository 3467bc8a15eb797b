"""JSON Schema (2020-12) of what our codec writes: a message, a saga's state, and all that is in them."""

from __future__ import annotations

import re
from inspect import getdoc
from types import UnionType
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec
import msgspec.inspect as mi
from msgspec import Struct, structs

from ..codec import SECRET, Secret

Schema = dict[str, Any]
T = TypeVar("T")

DIALECT = "https://json-schema.org/draft/2020-12/schema"

# What a text of each kind looks like as we write it. `format` alone is a remark to most validators, and its `duration`
# knows neither fractions nor a sign.
_DATE = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
_OFFSET = "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
DECIMAL = r"^-?[0-9]+(\.[0-9]+)?(E[+-]?[0-9]+)?$"
DATE = f"^{_DATE}$"
DURATION = r"^-?P([0-9]+D)?(T[0-9]+(\.[0-9]{1,6})?S)?$"
UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
DATETIMES = {True: f"^{_DATE}T{_TIME}{_OFFSET}$", False: f"^{_DATE}T{_TIME}$", None: f"^{_DATE}T{_TIME}{_OFFSET}?$"}
TIMES = {True: f"^{_TIME}{_OFFSET}$", False: f"^{_TIME}$", None: f"^{_TIME}{_OFFSET}?$"}

MIN_BYTES, MAX_BYTES = "x-min-bytes", "x-max-bytes"  # of what is written as base64
OMITS_DEFAULTS = "x-omits-defaults"  # of an object: a field that holds its default may not be there

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")


def schema_of(cls: type) -> Schema:
    """The schema of one class, complete in itself. Every value that the codec writes of the class fits it. The codec
    reads more than that: fields that it does not know, a Decimal as a number, a Secret bare.
    """
    schemas = Schemas()
    found = schemas.inline(cls)
    definitions = schemas.definitions()
    return {"$schema": DIALECT, **found} | ({"$defs": definitions} if definitions else {})


class Schemas:
    """The schemas of several classes; one that others hold stands once among `definitions`, and is referred to by
    `prefix` and its name. `tuples_by_items`: as JSON Schema had it up to draft 07.
    """

    def __init__(self, prefix: str = "#/$defs/", *, tuples_by_items: bool = False) -> None:
        """Of no class yet."""
        self._prefix = prefix
        self._tuples_by_items = tuples_by_items
        self._names: dict[Any, str] = {}
        self._found: dict[str, Schema] = {}

    def definitions(self) -> dict[str, Schema]:
        """By name: every class that was referred to so far."""
        return dict(sorted(self._found.items()))

    def inline(self, cls: type) -> Schema:
        """The schema of a class, not among the definitions itself unless it holds itself."""
        return self._made(mi.type_info(cls))

    def reference(self, cls: type) -> Schema:
        """A reference to the schema of a class, which is among the definitions from now on."""
        return self._of(mi.type_info(cls))

    def _of(self, it: mi.Type) -> Schema:
        if not isinstance(it, _NAMED) or get_origin(it.cls) is _Held:
            return self._made(it)
        name = self._names.get(it.cls)
        if name is None:
            name = self._names[it.cls] = self._new_name(it.cls)
            self._found[name] = {}  # before it is made: it may hold itself
            self._found[name] = self._made(it)
        return {"$ref": self._prefix + name}

    def _new_name(self, cls: Any) -> str:
        name = plain_name(title_of(cls))
        if name in self._found:
            name = plain_name(f"{cls.__module__}.{getattr(cls, '__qualname__', title_of(cls))}")
        number = 2
        while name in self._found:
            name, number = f"{name.removesuffix(f'_{number - 1}')}_{number}", number + 1
        return name

    def _made(self, it: mi.Type) -> Schema:
        match it:
            case mi.Metadata():
                return {**self._of(it.type), **_extra(it)}
            case mi.AnyType() | mi.RawType():
                return {}
            case mi.NoneType():
                return {"type": "null"}
            case mi.BoolType():
                return {"type": "boolean"}
            case mi.IntType() | mi.FloatType():
                return _number(it)
            case mi.LiteralType(values=values):
                return {"enum": list(values)}
            case mi.EnumType(cls=cls):
                return {"title": cls.__name__, **_about(cls), "enum": [member.value for member in cls]}
            case mi.UnionType(types=types):
                return {"anyOf": sorted((self._of(part) for part in types), key=_place)}
            case mi.StructType(cls=cls, fields=fields) if get_origin(cls) is _Held:
                held = {SECRET: self._of(fields[0].type)}
                return {"title": "Secret", "type": "object", "properties": held, "required": [SECRET]}
            case _:
                text = _text(it)
                return self._container(it) if text is None else text

    def _container(self, it: mi.Type) -> Schema:
        match it:
            case mi.TupleType(item_types=types):
                return self._tuple([self._of(part) for part in types], len(types))
            case mi.CollectionType(item_type=item):
                lengths = _given(minItems=it.min_length, maxItems=it.max_length)
                unique = {"uniqueItems": True} if isinstance(it, mi.SetType | mi.FrozenSetType) else {}
                return {"type": "array", "items": self._of(item), **lengths, **unique}
            case mi.DictType(key_type=key, value_type=value):
                lengths = _given(minProperties=it.min_length, maxProperties=it.max_length)
                names = {"propertyNames": self._of(key)}
                return {"type": "object", **names, "additionalProperties": self._of(value), **lengths}
            case mi.NamedTupleType(cls=cls, fields=fields):
                needed = sum(field.required for field in fields)
                return {"title": cls.__name__, **self._tuple(self._fields(it), needed)}
            case mi.StructType(array_like=True, cls=cls, fields=fields):
                tag = [] if it.tag is None else [{"enum": [it.tag]}]
                needed = max((at + 1 for at, field in enumerate(fields) if field.required), default=0)
                open_ended = self._tuple([*tag, *self._fields(it)], len(tag) + needed, is_open=True)
                return {"title": title_of(cls), **_about(cls), **open_ended}
            case mi.StructType() | mi.DataclassType() | mi.TypedDictType():
                return self._object(it)
            case _:
                raise TypeError(f"{it} has no JSON form")

    def _tuple(self, items: list[Schema], needed: int, *, is_open: bool = False) -> Schema:
        lengths: Schema = {"minItems": needed} | ({} if is_open else {"maxItems": len(items)})
        if self._tuples_by_items:
            return {"type": "array", **({"items": items, "additionalItems": is_open} if items else {}), **lengths}
        return {"type": "array", **({"prefixItems": items} if items else {}), "items": is_open, **lengths}

    def _object(self, it: mi.StructType | mi.DataclassType | mi.TypedDictType) -> Schema:
        tag, is_closed, omits = None, False, False
        if isinstance(it, mi.StructType):
            tag, is_closed = it.tag_field, it.forbid_unknown_fields
            omits = bool(it.cls.__struct_config__.omit_defaults)
        elif isinstance(it, mi.TypedDictType):
            omits = True
        omits = omits or any(field.default is msgspec.UNSET for field in it.fields)
        properties = {} if tag is None else {tag: {"enum": [cast("mi.StructType", it).tag]}}
        names = [field.encode_name for field in it.fields]
        properties |= dict(zip(names, self._fields(it), strict=True))
        required = ([] if tag is None else [tag]) + [field.encode_name for field in it.fields if field.required]
        return {
            "title": title_of(it.cls),
            **_about(it.cls),
            "type": "object",
            "properties": properties,
            **({"required": required} if required else {}),
            **({"additionalProperties": False} if is_closed else {}),
            **({OMITS_DEFAULTS: True} if omits and len(required) < len(properties) else {}),
        }

    def _fields(self, it: _WithFields) -> list[Schema]:
        types = _types(it)
        return [{**self._of(types[field.name]), **_default(field)} for field in it.fields]


_WithFields = mi.StructType | mi.DataclassType | mi.NamedTupleType | mi.TypedDictType
_NAMED = (mi.StructType, mi.DataclassType, mi.NamedTupleType, mi.TypedDictType, mi.EnumType)


class _Held(Struct, Generic[T], rename={"value": SECRET}):
    """What stands for `Secret[T]` here: msgspec's own view of a class keeps Secret, and not of what."""

    value: T


def _types(it: _WithFields) -> dict[str, mi.Type]:
    """The types of its fields."""
    if "CustomType" not in repr([field.type for field in it.fields]):
        return {field.name: field.type for field in it.fields}
    if isinstance(it, mi.StructType):
        hints: dict[str, Any] = {field.name: field.type for field in structs.fields(it.cls)}
    else:
        hints = get_type_hints(it.cls, include_extras=True)
    return {field.name: mi.type_info(_with_secrets(hints[field.name])) for field in it.fields}


def _with_secrets(hint: Any) -> Any:
    """The same type, with `_Held` for every Secret in it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Secret:
        return _Held[Any]
    if not arguments or origin is Literal:
        return hint
    if origin is Annotated:
        return Annotated[(_with_secrets(arguments[0]), *arguments[1:])]
    inner = tuple(argument if argument is ... else _with_secrets(argument) for argument in arguments)
    if origin in (Union, UnionType):
        return Union[inner]  # noqa: UP007
    return (_Held if origin is Secret else origin)[inner]


def plain_name(text: str) -> str:
    """A text as the name of a component."""
    return _NOT_IN_NAMES.sub("_", text).strip("_")


def title_of(cls: Any) -> str:
    """What a class is called, with its arguments if it is a generic one's."""
    origin = get_origin(cls)
    if origin is None:
        return str(cls.__name__)
    return f"{origin.__name__}[{', '.join(getattr(arg, '__name__', str(arg)) for arg in get_args(cls))}]"


def about(cls: Any) -> str:
    """What a class says of itself, and not its base of it."""
    cls = get_origin(cls) or cls
    own = cls.__dict__.get("__doc__") or ""
    is_made = own.startswith(f"{cls.__name__}(") or own == "An enumeration."
    return "" if is_made or not own else (getdoc(cls) or "")


def _about(cls: Any) -> Schema:
    said = about(cls)
    return {"description": said} if said else {}


def _number(it: mi.IntType | mi.FloatType) -> Schema:
    kind = "integer" if isinstance(it, mi.IntType) else "number"
    bounds = _given(
        minimum=it.ge, exclusiveMinimum=it.gt, maximum=it.le, exclusiveMaximum=it.lt, multipleOf=it.multiple_of
    )
    return {"type": kind, **bounds}


def _text(it: mi.Type) -> Schema | None:
    match it:
        case mi.StrType():
            return {
                "type": "string",
                **_given(minLength=it.min_length, maxLength=it.max_length, pattern=it.pattern),
            }
        case mi.BytesType() | mi.ByteArrayType() | mi.MemoryViewType():
            sizes = {MIN_BYTES: it.min_length, MAX_BYTES: it.max_length}
            return {"type": "string", "contentEncoding": "base64", "pattern": BASE64, **_given(**sizes)}
        case mi.DecimalType():
            return {"type": "string", "format": "decimal", "pattern": DECIMAL}
        case mi.DateTimeType(tz=tz):
            return {"type": "string", **({"format": "date-time"} if tz else {}), "pattern": DATETIMES[tz]}
        case mi.TimeType(tz=tz):
            return {"type": "string", **({"format": "time"} if tz else {}), "pattern": TIMES[tz]}
        case mi.DateType():
            return {"type": "string", "format": "date", "pattern": DATE}
        case mi.TimeDeltaType():
            return {"type": "string", "pattern": DURATION}
        case mi.UUIDType():
            return {"type": "string", "format": "uuid", "pattern": UUID}
        case _:
            return None


def _place(option: Schema) -> tuple[bool, bytes]:
    """Where an option of a union stands: always the same, whatever order msgspec gives; null last."""
    return option == {"type": "null"}, msgspec.json.encode(option)


def _extra(it: mi.Metadata) -> Schema:
    return cast("Schema", it.extra_json_schema or {})  # pyright: ignore[reportUnknownMemberType]


def _given(**keywords: Any) -> Schema:
    return {name: value for name, value in keywords.items() if value is not None}


def _default(field: mi.Field) -> Schema:
    """The default, as the codec writes it; none that holds a Secret, which is never shown."""
    is_made = field.default_factory in (list, dict, set)
    value: Any = field.default_factory() if is_made else field.default
    if value is msgspec.NODEFAULT or value is msgspec.UNSET:
        return {}
    try:
        written = msgspec.json.encode(value, enc_hook=_not_shown, order="deterministic")
    except _NotShown:
        return {}
    return {"default": msgspec.json.decode(written)}


class _NotShown(Exception):
    """A Secret is in it."""


def _not_shown(value: object) -> object:
    raise _NotShown
