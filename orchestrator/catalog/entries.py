"""What a catalog holds: plain data, the same read from a file as made from an app."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from ..errors import BadMessage

FORMAT = 1


class Sort(StrEnum):
    """What a message is."""

    EVENT = "event"
    REFUSAL = "refusal"
    FAILURE = "failure"
    COMMAND = "command"
    QUERY = "query"


class Taken(Struct, frozen=True):
    """A saga that takes an event: by which of its fields the instance is found, and whether it starts one."""

    saga: str
    keys: tuple[str, ...]
    starts: bool = False


class MessageEntry(Struct, frozen=True, kw_only=True):
    """A message, by its wire type.

    lifts         the older versions that an @upcast lifts, each to the next
    topic         where it travels on a bus; of a reply empty: it goes where its command says
    sent          this app sends it to others: publishes an event, asks by a command, answers by a reply
    received      this app gets it from others
    appended      it is kept for ever: in the streams of aggregates
    boundary      of an event: webhooks get it, and others build on it
    sagas         of an event: who takes it; listeners likewise
    participant   of a command: who carries it out, behind a bus; function: who does it here
    replies       of a command: what may come back; refusals likewise
    asked_by      of a command: the sagas that send it
    answers       of a reply: the commands
    """

    type: str
    kind: Sort
    version: int
    schema: dict[str, Any]
    about: str = ""
    lifts: tuple[int, ...] = ()
    topic: str = ""
    sent: bool = False
    received: bool = False
    appended: bool = False
    boundary: bool = False
    sagas: tuple[Taken, ...] = ()
    listeners: tuple[str, ...] = ()
    participant: str = ""
    function: str = ""
    replies: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    asked_by: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()


class StepEntry(Struct, frozen=True, kw_only=True):
    """A step: what it sends (of a waiting one nothing), what its undo sends, which events a waiting one waits for."""

    name: str
    kind: str
    after: tuple[str, ...] = ()
    sends: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    waits_for: tuple[str, ...] = ()
    pivot: bool = False


class SagaEntry(Struct, frozen=True, kw_only=True):
    """A saga. `schema` is that of its stored state, `migrations` the versions that a @migrate lifts."""

    name: str
    version: int
    key: str
    schema: dict[str, Any]
    about: str = ""
    migrations: tuple[int, ...] = ()
    starts: tuple[str, ...] = ()
    steps: tuple[StepEntry, ...] = ()
    publishes: tuple[str, ...] = ()


class ListenerEntry(Struct, frozen=True):
    """A listener: the events it takes, and those it publishes."""

    name: str
    takes: tuple[str, ...] = ()
    publishes: tuple[str, ...] = ()
    about: str = ""


class AggregateEntry(Struct, frozen=True):
    """A class of aggregates: what its streams begin with, and the events in them."""

    name: str
    applies: tuple[str, ...] = ()
    about: str = ""


class Catalog(Struct, frozen=True, kw_only=True):
    """All that an app says, hears and keeps. `group` and `replies` are those of its topics on a bus."""

    version: int = FORMAT
    app: str
    group: str
    replies: str
    messages: tuple[MessageEntry, ...] = ()
    sagas: tuple[SagaEntry, ...] = ()
    listeners: tuple[ListenerEntry, ...] = ()
    aggregates: tuple[AggregateEntry, ...] = ()

    @property
    def by_type(self) -> dict[str, MessageEntry]:
        """The messages by wire type."""
        return {message.type: message for message in self.messages}


def read_catalog(data: bytes) -> Catalog:
    """A catalog from its JSON. Errors: BadMessage, if it is none, or of a later format."""
    try:
        format = msgspec.json.decode(data, type=_Format).version
        if format != FORMAT:
            raise BadMessage(f"this catalog is of format {format}, and this program reads format {FORMAT}")
        return msgspec.json.decode(data, type=Catalog)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadMessage(f"this is no catalog, as `orchestrator catalog --out FILE` writes it: {error}") from None


class _Format(Struct):
    version: int
