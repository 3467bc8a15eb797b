"""What is asked of a Kafka cluster, and its errors said as the port says them: the one place that knows both."""

# The driver comes without types: what it returns is Any, and stays in this package.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any

import anyio
from aiokafka import TopicPartition  # type: ignore[import-untyped]
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic  # type: ignore[import-untyped]
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType  # type: ignore[import-untyped]
from anyio.abc import TaskGroup

from orchestrator.errors import BusUnavailable

from .options import Options

STOP_S = 60.0
LOOK_AGAIN_S = 0.05  # at a topic just made, which has no leader yet
MAX_NAMES = 10_000  # of topics, remembered
MOST_REPLICAS = 3
DAY_MS = 86_400_000
DRIVER_ERRORS = (kafka_errors.KafkaError, kafka_errors.ConsumerStoppedError, OSError)


class Cluster:
    """The brokers of one URL. `tasks` end the clients that are done with; without it nothing is asked."""

    def __init__(self, options: Options, login: Mapping[str, Any]) -> None:
        self.options = options
        self.login = login
        self.tasks: TaskGroup | None = None
        self.asker = Client(lambda: AIOKafkaAdminClient(request_timeout_ms=ms(options.timeout_s), **login))
        self._name = f"Kafka at {','.join(login['bootstrap_servers'])}"
        self._there: set[str] = set()  # topics that were there when we looked

    @contextmanager
    def asking(self, *clients: Client, seconds: float = 0.0) -> Generator[None]:
        """Bound what is asked, and raise BusUnavailable in place of what the driver raises.

        After an error the clients that were asked are given up, and the next ones start from the URL: the brokers may
        have new addresses.
        """
        bound = seconds or self.options.timeout_s
        if self.tasks is None:
            raise BusUnavailable(f"the bus at {self._name} is not open")
        try:
            with anyio.fail_after(bound):
                yield
        except DRIVER_ERRORS as error:
            self._there.clear()
            for client in clients:
                self.give_up(client)
            raise BusUnavailable(f"{self._name}: {_why(error, bound)}") from error

    def give_up(self, client: Client) -> None:
        """The next to ask starts another; this one ends as soon as the brokers let it."""
        if self.tasks is not None and (gone := client.take()) is not None:
            self.tasks.start_soon(stop, gone)

    async def provide(self, names: Collection[str]) -> dict[str, Exception]:
        """Make the topics that are missing; says why, of those that the brokers refuse to make."""
        if self._there.issuperset(names):
            return {}
        missing = sorted(set(names) - (await self.describe()).keys())
        refused = await self._make(missing) if missing else {}
        if len(self._there) > MAX_NAMES:
            self._there.clear()
        self._there.update(set(names) - refused.keys())
        return refused

    async def _make(self, names: Iterable[str]) -> dict[str, Exception]:
        asker = await self.asker.get()
        told = await asker.describe_cluster()
        if told["controller_id"] < 0:
            raise kafka_errors.NotControllerError("the brokers are choosing who makes topics")
        replicas = self.options.replication or min(MOST_REPLICAS, len(told["brokers"]))
        made = await asker.create_topics([NewTopic(name, self.options.partitions, replicas) for name in names])
        errors = {name: kafka_errors.for_code(code)(name) for name, code, *_ in made.topic_errors}
        fine = (kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError)
        return {name: error for name, error in errors.items() if not isinstance(error, fine)}

    async def partitions(self, names: Collection[str]) -> list[Any]:
        """All partitions of these topics, which are made where they are missing."""
        for error in (await self.provide(names)).values():
            raise error
        there = await self.describe(names)
        while not there.keys() >= set(names):
            await anyio.sleep(LOOK_AGAIN_S)
            there = await self.describe(names)
        return [partition for name in names for partition in there[name]]

    async def describe(self, names: Collection[str] | None = None) -> dict[str, list[Any]]:
        """Topics and their partitions; all there are, if no names are given: many a broker makes what is asked for."""
        told = await (await self.asker.get()).describe_topics(None if names is None else list(names))
        return {
            each["topic"]: [TopicPartition(each["topic"], one["partition"]) for one in each["partitions"]]
            for each in told
            if not each["error_code"] and each["partitions"]
        }

    async def committed(self, group: str, partitions: Collection[Any]) -> dict[Any, int]:
        """The group's positions, in the partitions where it has one."""
        if not partitions:
            return {}
        asker = await self.asker.get()
        found = await asker.list_consumer_group_offsets(group, partitions=list(partitions))
        if not found.keys() >= set(partitions):  # the driver does not see the error that came in their place
            raise kafka_errors.GroupLoadInProgressError(f"the positions of {group} are not to be had now")
        return {partition: at.offset for partition, at in found.items() if at.offset >= 0}

    async def notes(self, names: Collection[str]) -> dict[str, str]:
        """What a person should know of topics that are there."""
        if not names:
            return {}
        asker = await self.asker.get()
        replicas = {
            each["topic"]: min((len(one["replicas"]) for one in each["partitions"]), default=0)
            for each in await asker.describe_topics(list(names))
        }
        told = await asker.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
        settings = {one[3]: {each[0]: each[1] for each in one[4]} for answer in told for one in answer.resources}
        return {name: _note(replicas.get(name, 0), settings.get(name, {})) for name in names}


class Client:
    """A client of the driver: started when first needed, once for all who wait for it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._lock = anyio.Lock()
        self._client: Any = None

    async def get(self) -> Any:
        """The client, connected."""
        if self._client is None:
            async with self._lock:
                if self._client is None:
                    self._client = await started(self._make())
        return self._client

    def take(self) -> Any:
        """The client, which is not here any more."""
        client, self._client = self._client, None
        return client


async def started(client: Any) -> Any:
    """The client, connected, or stopped where that fails."""
    async with AsyncExitStack() as starting:
        starting.push_async_callback(stop, client)
        await client.start()
        starting.pop_all()
    return client


async def stop(client: Any) -> None:
    """End it; the driver waits for requests under way, which have their time limit."""
    with anyio.CancelScope(shield=True), suppress(*DRIVER_ERRORS):
        ending = asyncio.ensure_future(client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())
        await asyncio.wait([ending], timeout=STOP_S)
        if ending.done() and not ending.cancelled():
            ending.result()
            return
        # A consumer waits for a fetch that it has cancelled, ends itself by that, and does not get to its connections.
        ending.cancel()
        await client._client.close()  # pyright: ignore[reportPrivateUsage]


def ms(seconds: float) -> int:
    """Whole milliseconds."""
    return max(1, round(seconds * 1_000))


def _why(error: Exception, bound: float) -> str:
    if isinstance(error, kafka_errors.KafkaConnectionError) and "bootstrap" in str(error):
        return "not reachable, or it does not let us in with this user, sasl and tls"
    if isinstance(error, kafka_errors.ConsumerStoppedError):
        return "the subscription was left"
    if type(error) is TimeoutError:
        return f"no answer within {bound:g} s"
    return str(error) or type(error).__name__


def _note(replicas: int, settings: Mapping[str, str | None]) -> str:
    """Settings that lose messages."""
    notes: list[str] = []
    if replicas == 1:
        notes.append("replication factor 1: what the disk of one broker loses is lost")
    elif settings.get("min.insync.replicas") == "1":
        notes.append("min.insync.replicas 1: what one broker alone has counts as taken")
    if "compact" in (settings.get("cleanup.policy") or ""):
        notes.append("cleanup.policy compact: of each key only the last message is kept")
    retention = int(settings.get("retention.ms") or -1)
    if retention >= 0:
        notes.append(f"retention.ms: what is older than {retention / DAY_MS:.3g} days is gone, read or not")
    return "; ".join(notes)
