"""The bus itself: publishes, and hands out subscriptions."""

# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import anyio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer  # type: ignore[import-untyped]
from aiokafka import errors as kafka_errors

from orchestrator.errors import BusUnavailable
from orchestrator.ports import BusMessage, NotTaken, Place, Topic, Topology

from .cluster import Client, Cluster, ms, stop
from .options import Options, kafka_name, options_of
from .subscription import KafkaSubscription

HEALTHY_S = 2.0
BATCH_BYTES = 128 * 1024  # of one partition's messages in one request
FETCH_BYTES = 1024 * 1024  # of one partition
FETCH_WAIT_MS = 100  # a partition that was emptied is not asked for before the fetch of the others is answered
FOREVER_MS = 2**31 - 1
TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)
NOT_THIS_ONE = (  # they refuse one topic or message and leave the others alone
    *TOO_LARGE,
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.ClusterAuthorizationFailedError,
    kafka_errors.InvalidTopicError,
    kafka_errors.InvalidPartitionsError,
    kafka_errors.InvalidReplicationFactorError,
    kafka_errors.PolicyViolationError,
)
_log = logging.getLogger("aiokafka")


class KafkaBus:
    """A bus over the brokers of one Kafka cluster: a Kafka topic per topic, a consumer group per group.

    A message is taken when all in-sync replicas have it. Where a new group begins, at the end of a topic or with
    `from_start` at its beginning, is committed before `subscribe` returns.
    """

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The bus that `kafka://user:password@host:9092,host:9092?timeout=10` names. Errors: ConfigError."""
        return cls(*options_of(url))

    def __init__(self, options: Options, login: Mapping[str, Any]) -> None:
        """`login`: how the driver reaches the brokers."""
        self._cluster = Cluster(options, login)
        self._options = options
        self._sender = Client(self._make_sender)

    async def __aenter__(self) -> Self:
        if _log.level == logging.NOTSET:
            _log.setLevel(logging.CRITICAL)  # the driver tells of each attempt; people are told once, by BusUnavailable
        self._cluster.tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        tasks = self._cluster.tasks
        assert tasks is not None
        for client in (self._sender, self._cluster.asker):
            self._cluster.give_up(client)
        self._cluster.tasks = None
        await tasks.__aexit__(None, None, None)  # it would make a group of the exception that passes by

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        """Send all of them in one go; a topic that is missing is made as the URL's options say."""
        if not messages:
            return []
        with self._cluster.asking(self._sender, self._cluster.asker):
            results = await self._send(messages)
            for n, result in enumerate(results):
                if isinstance(result, TOO_LARGE) and len(messages) > 1:  # perhaps only in a request with its neighbours
                    results[n] = (await self._send(messages[n : n + 1]))[0]
            return [_told(message, result) for message, result in zip(messages, results, strict=True)]

    async def _send(self, messages: Sequence[BusMessage]) -> list[Any]:
        """What becomes of each: its place in the log, or an error."""
        names = [kafka_name(message.topic) for message in messages]
        refused = await self._cluster.provide(set(names))
        producer = await self._sender.get()
        futures: list[asyncio.Future[Any]] = []
        try:
            for name, message in zip(names, messages, strict=True):
                futures.append(_failed(refused[name]) if name in refused else await _sending(producer, name, message))
        except BaseException:
            asyncio.gather(*futures, return_exceptions=True).cancel()  # nobody will ask what became of them
            raise
        return await asyncio.gather(*futures, return_exceptions=True)

    @asynccontextmanager
    async def subscribe(self, topics: Sequence[Topic], group: str, prefetch: int) -> AsyncGenerator[KafkaSubscription]:
        """One member of the consumer group. A new one is let in when the others have come to share the partitions,
        which may take as long as a session lasts.
        """
        consumer = self._make_consumer(group)
        member = KafkaSubscription(self._cluster, consumer, topics, group, prefetch)
        try:
            await member.join()
            yield member
        finally:
            member.leave()
            await stop(consumer)

    async def healthy(self) -> bool:
        """Whether a broker answers within two seconds."""
        asker = self._cluster.asker
        with suppress(BusUnavailable), self._cluster.asking(asker, seconds=min(HEALTHY_S, self._options.timeout_s)):
            await (await asker.get()).describe_topics([])
            return True
        return False

    async def survey(self, topology: Topology) -> list[Place]:
        """The topics, with what loses messages there, and whether the group has its position in those that it takes."""
        cluster = self._cluster
        with cluster.asking(cluster.asker):
            there = await cluster.describe()
            names = _names(topology)
            takes = [kafka_name(topic.name) for topic in topology.takes]
            notes = await cluster.notes([name for name in names if name in there])
            taken = [partition for name in takes for partition in there.get(name, ())]
            known = {partition.topic for partition in await cluster.committed(topology.group, taken)}
        topics = [Place("topic", name, name in there, notes.get(name, "")) for name in names]
        return topics + [Place("consumer group", f"{topology.group} {name}", name in known) for name in takes]

    async def set_up(self, topology: Topology) -> None:
        """Make the topics that are missing; join the group for a moment where it has no position yet."""
        with self._cluster.asking(self._cluster.asker):
            await self._cluster.partitions(_names(topology))
        if not all(place.exists for place in await self.survey(topology)):
            async with self.subscribe(topology.takes, topology.group, 1):
                pass

    def _make_sender(self) -> Any:
        return AIOKafkaProducer(
            acks="all",
            enable_idempotence=self._options.idempotence,
            max_request_size=self._options.max_bytes,
            max_batch_size=BATCH_BYTES,
            request_timeout_ms=ms(self._options.timeout_s),
            **self._cluster.login,
        )

    def _make_consumer(self, group: str) -> Any:
        return AIOKafkaConsumer(
            group_id=group,
            enable_auto_commit=False,
            # Where a group begins was committed when it joined. A partition without a position was added later, or its
            # position is lost: rather again than never.
            auto_offset_reset="earliest",
            session_timeout_ms=ms(self._options.session_s),
            heartbeat_interval_ms=ms(self._options.session_s / 5),
            max_poll_interval_ms=FOREVER_MS,  # who has its hands full is alive: the heartbeat says so
            max_partition_fetch_bytes=max(FETCH_BYTES, self._options.max_bytes),
            fetch_max_wait_ms=FETCH_WAIT_MS,
            # A join is answered when all members have come, after a session at the latest.
            request_timeout_ms=ms(self._options.timeout_s + self._options.session_s),
            **self._cluster.login,
        )


def _names(topology: Topology) -> list[str]:
    """Each topic once, as Kafka names it."""
    return list(dict.fromkeys(map(kafka_name, (*(topic.name for topic in topology.takes), *topology.sends))))


async def _sending(producer: Any, name: str, message: BusMessage) -> asyncio.Future[Any]:
    headers = [(header, value.encode()) for header, value in message.headers.items()]
    try:
        sent: asyncio.Future[Any] = await producer.send(
            name, message.body, key=message.key.encode() or None, headers=headers
        )
    except NOT_THIS_ONE as error:
        return _failed(error)
    return sent


def _failed(error: Exception) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future


def _told(message: BusMessage, result: Any) -> NotTaken | None:
    if not isinstance(result, BaseException):
        return None
    if isinstance(result, NOT_THIS_ONE):
        return NotTaken(f"{message.topic}: {result}", is_final=isinstance(result, TOO_LARGE))
    raise result
