"""Events on record: what is appended to a stream, what a store gives back, and how users see it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from msgspec import Struct

from .errors import BadMessage
from .messages import Event, decode
from .wire import Envelope

WEBHOOKS = "$webhooks"  # the orchestrator's own stream, of what happens to webhooks


class Append(Struct, frozen=True, gc=False):
    """Events for the end of a stream, as part of a transition. `expected_version`: that of the stream before them (0:
    there is none yet); None: whatever it is. Without events it only asks for that. Of an envelope, id, type, data,
    version, time, user, correlation and causation id and traceparent are kept.
    """

    stream: str
    expected_version: int | None
    events: tuple[Envelope, ...]


class Appended(Struct, frozen=True, gc=False):
    """What became of an append: the version of its stream and the position in the log of the last of its events."""

    version: int
    position: int


class Logged(Struct, frozen=True, gc=False):
    """A row of the log. `version` counts the events of its stream from 1, `position` those of the whole store."""

    position: int
    stream: str
    version: int
    envelope: Envelope


class Stretch(Struct, frozen=True, gc=False):
    """A piece of the log: all rows of the types asked for up to the position `until`, where to go on after. At the end
    of the log `until` is what was asked to read after.
    """

    rows: tuple[Logged, ...]
    until: int


class Cause(Struct, frozen=True, kw_only=True):
    """What events come from: who caused them, the id of the message that led to them, the id that is the same for all
    that follows from one starting message, and the W3C trace it is part of.
    """

    user: str = ""
    correlation_id: str = ""
    causation_id: str = ""
    traceparent: str = ""

    @classmethod
    def of(cls, envelope: Envelope) -> Cause:
        """For what follows from this message."""
        return cls(
            user=envelope.user,
            correlation_id=envelope.correlation_id or envelope.id,
            causation_id=envelope.id,
            traceparent=envelope.traceparent,
        )


NO_CAUSE = Cause()


class Metadata(Cause, frozen=True, kw_only=True):
    """What is known of an event beside what it says: its id, when it was appended (UTC), and its cause."""

    id: str
    time: datetime


class EventTypes:
    """Finds the class of a wire type: among those given, or else among all Event classes that are defined."""

    def __init__(self, known: Mapping[str, type[Event]] | None = None, *, only: bool = False) -> None:
        """`only`: no others than those given."""
        self._known = dict(known or {})
        self._only = only

    def find(self, wire_type: str) -> type[Event]:
        """Errors: BadMessage, if there is no such class, or more than one."""
        found = self._known.get(wire_type)
        if found is None:
            found = self._known[wire_type] = self._defined(wire_type)
        return found

    def _defined(self, wire_type: str) -> type[Event]:
        found = [] if self._only else [cls for cls in all_events() if cls.__wire__.type == wire_type]
        if self._only:
            raise BadMessage(f"{wire_type!r} is not among {', '.join(sorted(self._known))}")
        if not found:
            raise BadMessage(f"no Event class of the wire type {wire_type!r} is defined here: import its module")
        if len(found) > 1:
            names = " and ".join(sorted({f"{cls.__module__}.{cls.__qualname__}" for cls in found}))
            raise BadMessage(f"{wire_type!r} is the wire type of {names}: say which with types=")
        return found[0]


def all_events(base: type[Event] = Event) -> Iterator[type[Event]]:
    """Every Event class that is defined."""
    for cls in base.__subclasses__():
        yield cls
        yield from all_events(cls)


class Recorded:
    """An event as it stands in the log.

    stream, version   its stream, and which of it this is, from 1
    position          its place in the whole log; positions grow in the order of commits and have no gaps
    type, data        wire type, and payload as JSON: readable even if no class of the type is there
    """

    __slots__ = ("_envelope", "_event", "_types", "position", "stream", "version")

    def __init__(self, row: Logged, types: EventTypes) -> None:
        """Made by reading."""
        self.stream = row.stream
        self.version = row.version
        self.position = row.position
        self._envelope = row.envelope
        self._types = types
        self._event: Event | None = None

    @property
    def type(self) -> str:
        """Its wire type."""
        return self._envelope.type

    @property
    def data(self) -> bytes:
        """Its payload as it was stored, JSON of the version it had then."""
        return bytes(self._envelope.data)

    @property
    def event(self) -> Event:
        """The event itself, of an older version lifted by `@upcast`. Errors: BadMessage, if no class of the type is
        defined here, several are, or the payload does not fit it.
        """
        if self._event is None:
            try:
                cls = self._types.find(self.type)
            except BadMessage as error:
                raise BadMessage(f"{self}: {error}") from None
            self._event = decode(cls, self._envelope.data, self._envelope.version)
        return self._event

    @property
    def metadata(self) -> Metadata:
        """Its id, time and cause."""
        envelope = self._envelope
        return Metadata(
            id=envelope.id,
            time=datetime.fromtimestamp(envelope.time, UTC),
            user=envelope.user,
            correlation_id=envelope.correlation_id,
            causation_id=envelope.causation_id,
            traceparent=envelope.traceparent,
        )

    @property
    def cause(self) -> Cause:
        """For what follows from this event."""
        return Cause.of(self._envelope)

    def __repr__(self) -> str:
        return f"{self.stream}@{self.version} ({self.type})"


def by_wire_type(classes: Iterable[type[Event]]) -> dict[str, type[Event]]:
    """The classes under their wire types. Errors: BadMessage, if two have the same."""
    found: dict[str, type[Event]] = {}
    for cls in classes:
        other = found.setdefault(cls.__wire__.type, cls)
        if other is not cls:
            raise BadMessage(f"{other.__qualname__} and {cls.__qualname__} have the same wire type {cls.__wire__.type}")
    return found
