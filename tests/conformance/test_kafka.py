"""The Kafka bus keeps the contract.

A broker lets seconds pass before it lets a member into a group, and every fact needs groups of its own. So all facts of
the suite are found out at the same time, and each test asks for the outcome of one.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from orchestrator.errors import ConfigError
from orchestrator.ports import BusMessage, Delivered, NotTaken, Topology
from orchestrator.testing.bus_conformance import ODD_TOPICS, PATIENCE_S, BusConformance, Reader, message
from orchestrator.urls import open_bus
from orchestrator_adapters.kafka import KafkaBus
from orchestrator_adapters.kafka.options import MAX_NAME, kafka_name, options_of
from tests.servers.kafka import kafka

OPTIONS = "?timeout=20&session_timeout=6&partitions=2"


class OneByOne(KafkaBus):
    """Publishes each message in a request of its own: asked where a topic ends, this server counts the last request as
    one message.
    """

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        told: list[NotTaken | None] = []
        for each in messages:
            told += await super().publish([each])
        return told


ASKS_WHERE_A_TOPIC_ENDS = {
    "test_lag_is_what_was_not_acknowledged",
    "test_a_new_group_begins_at_the_end",
    "test_an_unsettled_message_holds_the_position_back",
    "test_a_new_member_takes_over_what_is_unsettled",
}


class Suite(BusConformance):
    """How the suite opens a bus, and what it may expect; and facts that are Kafka's own."""

    pause_s = 1.0
    keeps_log = True
    too_large = 1_048_577
    hold_s = 7.0  # longer than a session

    def __init__(self, url: str) -> None:
        self._url = url

    def open_bus(self, kind: type[KafkaBus] = KafkaBus) -> KafkaBus:
        return kind.from_url(self._url)

    async def test_a_hundred_at_a_time(self, bus: KafkaBus, own: str) -> None:
        async with Reader(bus, [own], own, 1_000) as reader:
            sent = [message(own, b"%d" % n, key=str(n % 7)) for n in range(1_000)]
            for n in range(0, 1_000, 100):
                assert await bus.publish(sent[n : n + 100]) == [None] * 100
            assert sorted(await reader.bodies(1_000)) == sorted(each.body for each in sent)

    async def test_a_new_group_begins_at_the_end(self, bus: KafkaBus, own: str) -> None:
        await bus.publish([message(own, b"before %d" % n) for n in range(5)])
        async with Reader(bus, [own], own) as reader:
            await bus.publish([message(own, b"after")])
            assert await reader.bodies(1) == [b"after"]

    async def test_an_unsettled_message_holds_the_position_back(self, bus: KafkaBus, own: str) -> None:
        async with Reader(bus, [own], own) as reader:
            await bus.publish([message(own, b"%d" % n, key="same") for n in range(4)])
            taken = await reader.take(4)
            await reader.ack(taken[0], taken[2], taken[3])
            assert await reader.subscription.lag() == 3
            await reader.ack(taken[1])
            assert await reader.subscription.lag() == 0

    async def test_what_a_native_client_sends_to_a_topic_of_its_own(self, bus: KafkaBus, own: str) -> None:
        async with self.native() as (admin, producer):
            await admin.create_topics([NewTopic(own, 5, 1)])
            async with Reader(bus, [own], own) as reader:
                headers = [("Odd", b"\xff"), ("none", None)]
                await producer.send_and_wait(own, b'{"id": 1}', partition=4, headers=headers)
                await producer.send_and_wait(own, None, key=b"deleted", partition=4)
                first, second = await reader.take(2)
                assert (first.topic, first.body) == (own, b'{"id": 1}')
                assert first.headers == {"odd": "\ufffd", "none": ""}
                assert second.body == b""

    @property
    def login(self) -> dict[str, Any]:
        return {"bootstrap_servers": self._url.removeprefix("kafka://").partition("?")[0]}

    @asynccontextmanager
    async def native(self) -> AsyncGenerator[tuple[AIOKafkaAdminClient, AIOKafkaProducer]]:
        admin = AIOKafkaAdminClient(**self.login)
        await admin.start()
        try:
            async with AIOKafkaProducer(**self.login) as producer:
                yield admin, producer
        finally:
            await admin.close()

    async def test_a_partition_that_was_added_is_read_from_its_start(self, bus: KafkaBus, own: str) -> None:
        async with self.native() as (admin, producer):
            await admin.create_topics([NewTopic(own, 2, 1)])
            await producer.send_and_wait(own, b"in the old one", partition=0)
            await producer.send_and_wait(own, b"in the new one", partition=1)
            old = TopicPartition(own, 0)
            async with AIOKafkaConsumer(group_id=own, enable_auto_commit=False, **self.login) as consumer:
                consumer.assign([old])
                await consumer.commit({old: 1})
        async with Reader(bus, [own], own) as reader:
            assert await reader.bodies(1) == [b"in the new one"]
            assert await reader.silent(self.pause_s)

    async def test_a_survey_tells_of_one_replica(self, bus: KafkaBus, own: str) -> None:
        await bus.set_up(Topology(own, sends=(own + "A",)))
        (place,) = await bus.survey(Topology(own, sends=(own + "A",)))
        assert "replication factor 1" in place.note

    async def test_a_new_member_takes_over_what_is_unsettled(self, bus: KafkaBus, own: str) -> None:
        sent = {b"%d" % n for n in range(20)}
        found: set[bytes] = set()

        async def take(reader: Reader, kept: list[Delivered]) -> None:
            with anyio.move_on_after(self.pause_s):
                while True:
                    kept.append(await reader.next())

        async with Reader(bus, [own], own, 100) as one:
            await bus.publish([message(own, body, key=body.decode()) for body in sorted(sent)])
            before: list[Delivered] = await one.take(20)
            async with Reader(bus, [own], own, 100) as two:
                ones: list[Delivered] = []
                twos: list[Delivered] = []
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(take, one, ones)
                    tasks.start_soon(take, two, twos)
                assert {each.body for each in ones} | {each.body for each in twos} == sent  # each with one of them
                assert len(ones) + len(twos) == 20 and ones and twos
                await one.ack(*before)  # of before the rebalance: nothing is settled by it
                await one.ack(*ones)
                found |= {each.body for each in ones}
            found |= {each.body for each in await one.take(len(twos))}
            assert found == sent
            assert await one.subscription.lag() == len(twos)


class Fact:
    """One test of the suite, with one set of its parameters."""

    def __init__(self, method: str, given: dict[str, Any]) -> None:
        self.name = "-".join([method.removeprefix("test_"), *given.values()])
        self._method = method
        self._given = given
        self._known = anyio.Event()
        self._error: BaseException | None = None

    async def find_out(self, suite: Suite) -> None:
        method = getattr(suite, self._method)
        try:
            async with suite.open_bus(OneByOne if self._method in ASKS_WHERE_A_TOPIC_ENDS else KafkaBus) as bus:
                given = {"bus": bus, "own": f"t{os.urandom(6).hex()}.", **self._given}
                await method(**{name: given[name] for name in inspect.signature(method).parameters})
        except (Exception, pytest.skip.Exception) as error:
            self._error = error
        self._known.set()

    async def ask(self) -> None:
        with anyio.fail_after(3 * PATIENCE_S):
            await self._known.wait()
        if self._error is not None:
            raise self._error


def facts() -> Iterator[Fact]:
    for name, method in inspect.getmembers(Suite, inspect.isfunction):
        if name.startswith("test_"):
            parameters = [mark.args for mark in getattr(method, "pytestmark", ()) if mark.name == "parametrize"]
            for sets in parameters:
                yield from (Fact(name, {sets[0]: value}) for value in sets[1])
            if not parameters:
                yield Fact(name, {})


FACTS = tuple(facts())


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with kafka() as server:
        yield server.url + OPTIONS


@pytest.fixture(scope="module")
async def suite(url: str) -> AsyncGenerator[Suite]:
    suite = Suite(url)
    async with anyio.create_task_group() as tasks:
        for fact in FACTS:
            tasks.start_soon(fact.find_out, suite)
        yield suite
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.name)
async def test_conformance(suite: Suite, fact: Fact) -> None:
    await fact.ask()


def test_all_of_the_suite_is_found_out() -> None:
    names = {name.removeprefix("test_") for name in vars(BusConformance) if name.startswith("test_")}
    assert {fact.name.partition("-")[0] for fact in FACTS} >= names
    assert len(FACTS) >= len(names) + len(ODD_TOPICS) - 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("OrderPlaced", "OrderPlaced"),
        ("user.registered", "user.registered"),
        ("commands.ware-house_1", "commands.ware-house_1"),
        ("a b", "a_x20b"),
        ("é", "_xc3_xa9"),
        ("a_x20b", "a_x5fx20b"),
        (".", "_x2e"),
        ("..", "_x2e."),
        ("...", "..."),
        ("__consumer_offsets", "_x5f_consumer_offsets"),
    ],
)
def test_a_topic_in_the_alphabet_of_kafka(name: str, expected: str) -> None:
    assert kafka_name(name) == expected


@pytest.mark.parametrize("odd", ODD_TOPICS)
def test_any_topic_is_written_in_the_alphabet_of_kafka(odd: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,249}", kafka_name(odd)) and kafka_name(odd) not in (".", "..")


def test_long_topics_stay_apart() -> None:
    names = {kafka_name("x" * 300 + end) for end in ("", "y", "z", " ")}
    assert len(names) == 4
    assert all(len(name) == MAX_NAME for name in names)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("kafka:", "kafka://host:9092,host:9092"),
        ("kafka:///topic", "kafka://host:9092,host:9092"),
        ("kafka://host/topic", "kafka://host:9092,host:9092"),
        ("kafka://me@host", "a user comes with a password"),
        ("kafka://:secret@host", "a user comes with a password"),
        ("kafka://host?timeuot=3", "the options are timeout"),
        ("kafka://host?timeout=0", "timeout"),
        ("kafka://host?partitions=many", "partitions"),
        ("kafka://me:secret@host?sasl=md5", "sasl"),
        ("kafka://me:secret@host?tls=true&ca=/no/such/file", "ca=/no/such/file: .*No such file"),
        ("kafka://host?timeout", "bad query field"),
    ],
)
def test_a_wrong_url_says_what_is_right(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        KafkaBus.from_url(url)
    assert "secret" not in str(caught.value)


def test_without_its_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("orchestrator_adapters.kafka")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiokafka", None)
    with pytest.raises(ConfigError, match=r"pip install 'saga-orchestrator\[kafka\]'"):
        open_bus("kafka://localhost")


def test_what_a_url_says() -> None:
    url = "kafka://me:p%40ss@one,two:19092?timeout=2.5&partitions=8&replication=2&idempotence=true&sasl=scram-sha-512"
    options, login = options_of(url)
    assert (options.timeout_s, options.partitions, options.replication, options.idempotence) == (2.5, 8, 2, True)
    assert login == {
        "bootstrap_servers": ["one:9092", "two:19092"],
        "security_protocol": "SASL_PLAINTEXT",
        "ssl_context": None,
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "me",
        "sasl_plain_password": "p@ss",
    }
    assert options_of("kafka://host?tls=true")[1]["security_protocol"] == "SSL"
