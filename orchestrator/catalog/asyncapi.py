"""An app as an AsyncAPI 3.0 document: its topics, what travels there as CloudEvents, who sends and who receives."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from ..app import App
from ..messages import Failure, type_name
from ..topics import Topics
from .entries import Catalog, MessageEntry, Sort
from .schemas import Schema, Schemas, plain_name

ASYNCAPI = "3.0.0"
CLOUDEVENTS = "application/cloudevents+json"
JSON = "application/json"
ENVELOPE = "cloud-event"  # no class is called so
ANSWERS = "answers"  # the channel of replies to commands that come from others
VERSION_CHARS = 12
FAILURE = type_name(Failure)

_TEXT: Schema = {"type": "string"}
_MOMENT: Schema = {"type": "string", "format": "date-time"}
_ATTRIBUTES: dict[str, Schema] = {
    "specversion": {"enum": ["1.0"]},
    "id": {**_TEXT, "minLength": 1, "description": "The same whenever the message is sent again: the idempotency key."},
    "source": {**_TEXT, "minLength": 1, "format": "uri-reference", "description": "Who sends."},
    "type": {**_TEXT, "minLength": 1},
    "subject": {**_TEXT, "description": "The key of the instance that it is for."},
    "time": _MOMENT,
    "datacontenttype": {**_TEXT, "description": "JSON."},
    "dataversion": {"type": ["integer", "string"], "description": "The version of the payload; without it 1."},
    "correlationid": {**_TEXT, "description": "The same for all that follows from one starting message."},
    "causationid": {**_TEXT, "description": "The id of the message that led to it."},
    "inreplyto": {**_TEXT, "description": "Of a reply: the id of the command that it answers."},
    "sagatype": {**_TEXT, "description": "The saga that it is for."},
    "sagakey": {**_TEXT, "description": "The key of its instance."},
    "messagekind": {"enum": ["event", "command", "yes", "refusal", "failure"], "description": "Without it an event."},
    "attempt": {"type": ["integer", "string"], "description": "Of a command and its reply: which attempt, from 1."},
    "clean": {"type": ["boolean", "string"], "description": "Of a refusal: no earlier run of the command ever began."},
    "undoes": {**_TEXT, "description": "Of a compensation: the id of the command that it undoes."},
    "deadline": {**_MOMENT, "description": "Of a command: when the attempt is given up."},
    "replyto": {**_TEXT, "description": "Of a command: the topic that the answer goes to."},
    "messageuser": {**_TEXT, "description": "Who caused it."},
    "traceparent": {**_TEXT, "description": "The W3C trace that it is part of."},
}
_KINDS = {Sort.COMMAND: "command", Sort.QUERY: "command", Sort.REFUSAL: "refusal", Sort.FAILURE: "failure"}


def asyncapi(app: App[Any], topics: Topics, catalog: Catalog) -> dict[str, Any]:
    """The document. Its version is a hash of its contents: it changes when they do."""
    document = _Document(app, topics, catalog).made()
    written = msgspec.json.encode(document, order="deterministic")
    document["info"]["version"] = hashlib.sha256(written).hexdigest()[:VERSION_CHARS]
    return document


class _Document:
    """A document that grows."""

    def __init__(self, app: App[Any], topics: Topics, catalog: Catalog) -> None:
        self._types = app.types
        self._topics = topics
        self._catalog = catalog
        self._messages = catalog.by_type
        self._schemas = Schemas("#/components/schemas/", tuples_by_items=True)
        self._channels: dict[str, dict[str, Any]] = {}
        self._components: dict[str, dict[str, Any]] = {}
        self._operations: dict[str, dict[str, Any]] = {}
        self._named: dict[str, str] = {}
        told = [saga.publishes for saga in catalog.sagas] + [listener.publishes for listener in catalog.listeners]
        self._published = {name for names in told for name in names}

    def made(self) -> dict[str, Any]:
        """The whole."""
        for message in self._catalog.messages:
            if message.kind in (Sort.COMMAND, Sort.QUERY):
                self._command(message)
            elif message.topic:
                self._event(message)
        self._plain()
        schemas = {ENVELOPE: _envelope(), **self._schemas.definitions()}
        return {
            "asyncapi": ASYNCAPI,
            "info": {
                "title": self._catalog.app,
                "version": "",
                "description": f"The group {self._catalog.group}. Messages are CloudEvents 1.0 in structured mode.",
            },
            "defaultContentType": CLOUDEVENTS,
            "channels": dict(sorted(self._channels.items())),
            "operations": dict(sorted(self._operations.items())),
            "components": {"messages": dict(sorted(self._components.items())), "schemas": schemas},
        }

    def _event(self, message: MessageEntry) -> None:
        channel, name = self._channel(message.topic), self._name(message)
        if message.type in self._published:
            self._operation(f"publish-{name}", "send", channel, self._put(channel, [message]))
        if message.sagas or message.listeners:
            self._operation(f"take-{name}", "receive", channel, self._put(channel, [message]))

    def _command(self, message: MessageEntry) -> None:
        replies = [self._messages[name] for name in (*message.replies, *message.refusals, FAILURE)]
        channel, name = self._channel(message.topic), self._name(message)
        if message.sent:
            answers = self._channel(self._catalog.replies)
            reply = {"channel": _reference("channels", answers), "messages": self._put(answers, replies)}
            self._operation(f"ask-{name}", "send", channel, self._put(channel, [message]), reply)
        if message.received:
            self._channels.setdefault(ANSWERS, {"address": None, "messages": {}})
            reply = {
                "address": {"location": "$message.payload#/replyto"},
                "channel": _reference("channels", ANSWERS),
                "messages": self._put(ANSWERS, replies),
            }
            self._operation(f"carry-out-{name}", "receive", channel, self._put(channel, [message]), reply)

    def _plain(self) -> None:
        """What somebody sends who speaks no CloudEvents: the payload alone."""
        for topic in self._topics.topology().takes:
            plain = self._topics.plain(topic.name)
            if plain is None:
                continue
            taken = [it for it in self._catalog.messages if it.sagas or it.listeners]
            meant = [it for it in taken if plain.type in ("", it.type)]
            channel = self._channel(topic.name)
            if meant:
                references = self._put(channel, meant, is_plain=True)
                self._operation(f"take-plain-{plain_name(topic.name)}", "receive", channel, references)

    def _name(self, message: MessageEntry) -> str:
        """The id of a message."""
        name, number = plain_name(message.type) or "message", 1
        while self._named.setdefault(_numbered(name, number), message.type) != message.type:
            number += 1
        return _numbered(name, number)

    def _channel(self, topic: str) -> str:
        """The id of a topic's channel."""
        name, number = plain_name(topic) or "topic", 1
        while (
            self._channels.setdefault(_numbered(name, number), {"address": topic, "messages": {}})["address"] != topic
        ):
            number += 1
        return _numbered(name, number)

    def _operation(
        self, name: str, action: str, channel: str, messages: list[dict[str, str]], reply: dict[str, Any] | None = None
    ) -> None:
        self._operations[name] = {
            "action": action,
            "channel": _reference("channels", channel),
            "messages": messages,
            **({} if reply is None else {"reply": reply}),
        }

    def _put(self, channel: str, messages: Iterable[MessageEntry], *, is_plain: bool = False) -> list[dict[str, str]]:
        """Messages into a channel: the references to them there."""
        found: list[dict[str, str]] = []
        for message in messages:
            name = self._name(message) + ("-plain" if is_plain else "")
            if name not in self._components:
                self._components[name] = self._component(message, is_plain)
            self._channels[channel]["messages"][name] = _reference("components", "messages", name)
            found.append(_reference("channels", channel, "messages", name))
        return found

    def _component(self, message: MessageEntry, is_plain: bool) -> dict[str, Any]:
        data = self._schemas.reference(self._types[message.type])
        about = {"summary": message.about} if message.about else {}
        common = {"name": message.type, "title": message.type, **about}
        if is_plain:
            return {**common, "contentType": JSON, "payload": data}
        return {
            **common,
            "contentType": CLOUDEVENTS,
            "correlationId": {"location": "$message.payload#/correlationid"},
            "payload": {"allOf": [_reference("components", "schemas", ENVELOPE), _attributes(message, data)]},
        }


def _attributes(message: MessageEntry, data: Schema) -> Schema:
    """What the attributes of this message are, beyond those of any."""
    properties: dict[str, Schema] = {
        "type": {"enum": [message.type]},
        "dataversion": {"enum": [message.version, str(message.version)]},
        "data": data,
    }
    required = ["data"] + (["dataversion"] if message.version > 1 else [])  # without it the version is 1
    kind = _KINDS.get(message.kind) or ("yes" if not message.topic else "")
    if kind:  # an event may be published, and an answer too
        properties["messagekind"] = {"enum": [kind]}
        required.append("messagekind")
    return {"type": "object", "properties": properties, "required": required}


def _envelope() -> Schema:
    return {
        "title": "CloudEvent",
        "description": "CloudEvents 1.0 in JSON, with our extensions.",
        "type": "object",
        "properties": {**_ATTRIBUTES, "data": {}},
        "required": ["specversion", "id", "source", "type"],
    }


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"


def _reference(*path: str) -> dict[str, str]:
    return {"$ref": "#/" + "/".join(path)}
