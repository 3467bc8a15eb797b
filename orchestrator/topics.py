"""Where on a bus each message goes and comes from: the topics of an app, as its classes and settings say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from .app import App
from .messages import is_command, participant_of, type_name
from .ports import Topic, Topology
from .wire import Outgoing, Route

COMMANDS = "commands."
REPLIES = "replies."
ALL_EVENTS = "*"
BOUNDARY_STREAM = "boundary/"


class Plain(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the plain JSON of a service without CloudEvents means. Give `type`, or `type_field`.

    type         the wire type of every message of the topic
    type_field   the field of the payload that holds the wire type
    id_field     the field that is the same whenever the message is sent again; default: a hash of the message
    key_field    the field that names whose message it is; listeners get the messages of one key in order
    """

    type: str = ""
    type_field: str = ""
    id_field: str = ""
    key_field: str = ""


class TopicSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the topics of a bus are named.

    prefix   stands before every topic of ours
    group    who shares the messages, and whose replies these are; default: the app's name. A worker's has `.work`
             behind it, so that it and the sagas' daemon do not share what both are to get
    routes   wire type of an event or command -> its topic, instead of `TYPE` and `commands.PARTICIPANT`; `*` for all
             other events, so that one topic carries the events of a key in order
    plain    topic (in full) -> what messages there mean that are no CloudEvents
    core     whether events that are no boundary events go to the bus; those that workers' listeners want must
    log      whether boundary events are appended to the store's log too, to the stream `boundary/TYPE`
    """

    prefix: str = ""
    group: str = ""
    routes: dict[str, str] = {}
    plain: dict[str, Plain] = {}
    core: bool = True
    log: bool = False


NO_SETTINGS = TopicSettings()


class Topics:
    """The topics of one app. `group` is its group, `replies` where the answers to its commands go, `source` what the
    messages that it sends say of their sender.
    """

    def __init__(self, app: App[Any], settings: TopicSettings = NO_SETTINGS) -> None:
        """Named as the settings say."""
        self._app = app
        self._settings = settings
        self.group = (settings.group or app.name) + ("" if app.sagas else ".work")
        self.replies = f"{settings.prefix}{REPLIES}{self.group}"
        self.source = f"/orchestrator/{self.group}"
        self._of_command = {name: self._topic_of_command(name) for name, cls in app.types.items() if is_command(cls)}

    def of(self, row: Outgoing) -> str:
        """Where a row of the outbox goes."""
        match row.route:
            case Route.REPLY:
                return row.reply_to
            case Route.COMMAND:
                return self.of_command(row.envelope.type)
            case _:
                return self.of_event(row.envelope.type)

    def of_event(self, wire_type: str) -> str:
        """Where the events of a wire type go and come from."""
        routes = self._settings.routes
        return self._settings.prefix + (routes.get(wire_type) or routes.get(ALL_EVENTS) or wire_type)

    def of_command(self, wire_type: str) -> str:
        """Where the commands of a wire type go and come from."""
        return self._of_command.get(wire_type) or self._topic_of_command(wire_type)

    def key(self, row: Outgoing) -> str:
        """Which messages stay in order: those of the instance that sends them, or that they are for."""
        if row.sender is not None:
            return str(row.sender)
        return row.envelope.key or row.envelope.id

    def is_published(self, wire_type: str) -> bool:
        """Whether events of this type go to the bus."""
        if self._settings.core:
            return True
        return self._app.is_boundary(wire_type)

    def stream(self, wire_type: str) -> str:
        """The stream of the log that events of this type are appended to when they are published, or empty."""
        return BOUNDARY_STREAM + wire_type if self._settings.log and self._app.is_boundary(wire_type) else ""

    def topology(self) -> Topology:
        """What this app needs of a broker."""
        return Topology(self.group, self._taken(), tuple(sorted(self._sent())))

    def plain(self, topic: str) -> Plain | None:
        """What a message of this topic means that is no CloudEvent, if that is known."""
        return self._settings.plain.get(topic)

    def is_shared(self, topic: str) -> bool:
        """Whether a topic may carry types that nobody here wants."""
        return topic in {self._settings.prefix + route for route in self._settings.routes.values()}

    def _topic_of_command(self, wire_type: str) -> str:
        cls = self._app.types.get(wire_type)  # None: the row is older than this code
        participant = participant_of(cls) if cls is not None and is_command(cls) else wire_type
        return self._settings.prefix + (self._settings.routes.get(wire_type) or COMMANDS + participant)

    def _taken(self) -> tuple[Topic, ...]:
        """Events from now on; commands and replies from the first, since somebody waits for what follows from them."""
        events = {self.of_event(wire_type) for wire_type in (*self._app.routes, *self._app.listening)}
        asked = {self.of_command(wire_type) for wire_type in self._app.participants}
        if self._app.missing_participants():
            asked.add(self.replies)
        events |= {topic for topic in self._settings.plain if topic not in asked}
        return tuple(Topic(name) for name in sorted(events)) + tuple(Topic(name, True) for name in sorted(asked))

    def _sent(self) -> Iterable[str]:
        published = {self.of_event(wire_type) for wire_type in self._app.published if self.is_published(wire_type)}
        return published | {self.of_command(type_name(command)) for command in self._app.missing_participants()}
