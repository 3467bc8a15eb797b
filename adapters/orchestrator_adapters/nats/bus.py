# pyright: reportUnknownMemberType=false
"""The bus itself: finds or makes the streams and consumers that topics and groups need."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Self

import anyio
import nats.errors
from anyio.lowlevel import checkpoint
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from orchestrator.errors import BusUnavailable, ConfigError
from orchestrator.ports import BusMessage, NotTaken, Place, Topic, Topology

from .connection import NO_STREAM, Connection, Sent
from .names import message_id, place_name, subject_of
from .notes import consumer_note, stream_note
from .settings import Settings, settings_of
from .subscription import Lane, NatsSubscription

HEALTHY_S = 2.0
_MUST_DELIVER_ALL = 10_101  # the server's code: a work queue that somebody made knows no "from now on"
_NO_JETSTREAM = (None, 10_008, 10_039, 10_076)  # nobody answers; no leader; not for this account; not enabled
_UNLIMITED = -1


class NatsBus:
    """JetStream. A topic is a subject in a stream: in one that takes it already, or else in one of its own, so that
    processes which meet new topics at the same time do not overwrite each other's list of subjects.
    """

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The bus that `nats://HOST:PORT?OPTION=VALUE` names, not opened. Errors: ConfigError."""
        return cls(settings_of(url))

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection = Connection(settings)
        self._streams: dict[str, str] = {}  # topic -> its stream, as last seen

    async def __aenter__(self) -> Self:
        await self._connection.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._connection.__aexit__(*exc)

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        """Send all and wait once for the receipts; None is one that says the stream has it, now or before."""
        if not messages:
            await checkpoint()
            return []
        try:
            with self._connection.bounded():
                told = await self._send(messages)
                if lost := [place for place, answer in enumerate(told) if answer is NO_STREAM]:
                    self._streams.clear()  # somebody removed one since we looked
                    again = await self._send([messages[place] for place in lost])
                    for place, answer in zip(lost, again, strict=True):
                        told[place] = answer
        except BusUnavailable:
            self._streams.clear()
            raise
        return told

    async def _send(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        client = await self._connection.client()
        refused: dict[str, NotTaken] = {}
        for topic in {message.topic for message in messages} - self._streams.keys():
            try:
                await self._make_stream(await self._connection.jetstream(), topic)
            except APIError as error:
                if error.err_code in _NO_JETSTREAM:
                    raise
                refused[topic] = NotTaken(f"no stream for {topic}: {error.description}")
            except ConfigError as error:
                refused[topic] = NotTaken(str(error), is_final=True)
        batch = [refused.get(message.topic) or _sent(message, client.max_payload) for message in messages]
        return await self._connection.send(client, batch)

    @asynccontextmanager
    async def subscribe(self, topics: Sequence[Topic], group: str, prefetch: int) -> AsyncGenerator[NatsSubscription]:
        """Messages of these topics; the consumers stay when the member leaves."""
        with self._connection.bounded():
            jetstream = await self._connection.jetstream()
            lanes = [await self._lane(jetstream, topic, group) for topic in dict.fromkeys(topics)]
        subscription = NatsSubscription(self._connection, lanes, prefetch)
        async with self._connection.following(subscription):
            yield subscription

    async def _lane(self, jetstream: JetStreamContext, topic: Topic, group: str) -> Lane:
        stream = await self._make_stream(jetstream, topic.name)
        consumer = await self._make_consumer(jetstream, stream, topic, group)
        ack_wait_s = consumer.config.ack_wait or self._settings.ack_wait_s
        return Lane(topic.name, subject_of(topic.name), stream, consumer.name, ack_wait_s)

    async def healthy(self) -> bool:
        """Whether JetStream answers within HEALTHY_S."""
        with anyio.move_on_after(HEALTHY_S):
            try:
                await (await self._connection.jetstream()).account_info()
            except (nats.errors.Error, OSError):
                return False
            return True
        return False

    async def survey(self, topology: Topology) -> list[Place]:
        """The stream of each topic and the consumer for each that is taken."""
        taken = [topic.name for topic in topology.takes]
        places: dict[Place, None] = {}  # a stream that somebody made may hold several topics
        with self._connection.bounded():
            jetstream = await self._connection.jetstream()
            for topic in dict.fromkeys([*taken, *topology.sends]):
                stream = await _find_stream(jetstream, topic)
                places[await self._stream_place(jetstream, stream, topic)] = None
                if topic in taken:
                    places[await _consumer_place(jetstream, stream, place_name(topology.group, topic))] = None
        return list(places)

    async def set_up(self, topology: Topology) -> None:
        """Make the streams and consumers that are missing."""
        with self._connection.bounded():
            jetstream = await self._connection.jetstream()
            for topic in topology.takes:
                await self._lane(jetstream, topic, topology.group)
            for name in topology.sends:
                await self._make_stream(jetstream, name)

    async def _make_stream(self, jetstream: JetStreamContext, topic: str) -> str:
        """The name of the stream that takes the topic, made if there is none."""
        found = await _find_stream(jetstream, topic)
        if found is None:
            config = StreamConfig(
                name=place_name(self._settings.stream, topic),
                subjects=[subject_of(topic)],
                storage=StorageType.FILE,
                num_replicas=self._settings.replicas,
                max_age=self._settings.keep_s,
            )
            try:
                found = (await jetstream.add_stream(config)).config.name
            except APIError:  # or somebody was faster
                if (found := await _find_stream(jetstream, topic)) is None:
                    raise
        assert found
        self._streams[topic] = found
        return found

    async def _make_consumer(self, jetstream: JetStreamContext, stream: str, topic: Topic, group: str) -> ConsumerInfo:
        """The group's durable consumer, made if there is none."""
        name = place_name(group, topic.name)
        if (found := await _find_consumer(jetstream, stream, name)) is not None:
            return found
        config = ConsumerConfig(
            name=name,
            durable_name=name,
            filter_subject=subject_of(topic.name),
            deliver_policy=DeliverPolicy.ALL if topic.from_start else DeliverPolicy.NEW,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._settings.ack_wait_s,
            max_ack_pending=_UNLIMITED,  # it would count for the whole group: each member limits itself
        )
        try:
            return await jetstream.add_consumer(stream, config)
        except APIError as error:
            if error.err_code != _MUST_DELIVER_ALL:
                raise
        return await jetstream.add_consumer(stream, config.evolve(deliver_policy=DeliverPolicy.ALL))

    async def _stream_place(self, jetstream: JetStreamContext, stream: str | None, topic: str) -> Place:
        if stream is None:
            return Place("stream", place_name(self._settings.stream, topic), False)
        info = await jetstream.stream_info(stream)
        return Place("stream", stream, True, stream_note(info, self._settings.keep_s))


async def _find_stream(jetstream: JetStreamContext, topic: str) -> str | None:
    try:
        return await jetstream.find_stream_name_by_subject(subject_of(topic))
    except NotFoundError:
        return None


async def _find_consumer(jetstream: JetStreamContext, stream: str, name: str) -> ConsumerInfo | None:
    try:
        found: ConsumerInfo = await jetstream.consumer_info(stream, name)
    except NotFoundError:
        return None
    return found


async def _consumer_place(jetstream: JetStreamContext, stream: str | None, name: str) -> Place:
    found = await _find_consumer(jetstream, stream, name) if stream is not None else None
    return Place("consumer", name, found is not None, consumer_note(found) if found is not None else "")


def _sent(message: BusMessage, max_payload: int) -> Sent | NotTaken:
    """The message as NATS has it; the server would close the connection at one that is too large for it."""
    subject = subject_of(message.topic)
    headers = dict(message.headers)
    try:
        if message.id:
            headers["Nats-Msg-Id"] = message_id(message.id, subject)
        size = len(message.body)
        if headers:
            size += _LINES + sum(len(name) + len(value.encode()) + _LINE for name, value in headers.items())
    except UnicodeEncodeError:
        return NotTaken("half a surrogate pair is no character: no header can hold it", is_final=True)
    if size > max_payload:
        reason = f"{size:,} bytes with its headers, and the server's max_payload is {max_payload:,}"
        return NotTaken(reason, is_final=True)
    return Sent(subject, message.body, headers or None)


_LINE = len(b": \r\n")
_LINES = len(b"NATS/1.0\r\n\r\n")
