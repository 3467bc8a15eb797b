"""The Kafka bus when things break: the broker, the way to it, a member of the group."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import MessageSizeTooLargeError
from anyio.streams.text import TextReceiveStream

from orchestrator.errors import BusUnavailable
from orchestrator.ports import BusMessage, Delivered, NotTaken, Topic, Topology
from orchestrator.testing.bus_conformance import Reader, message
from orchestrator_adapters.kafka import KafkaBus
from tests.servers.kafka import Kafka, kafka
from tests.servers.process import free_port
from tests.servers.proxy import Proxy

IMPATIENT = "?timeout=2&session_timeout=3&partitions=2"
BOUND_S = 8.0  # of what has to give up after `timeout`, or `timeout` and `session_timeout`
PATIENCE_S = 60.0
WAIT_S = 0.2  # before the engine would try again


@pytest.fixture(scope="module")
def server() -> Iterator[Kafka]:
    """One that stays up."""
    with kafka() as server:
        yield server


@pytest.fixture
def own() -> str:
    return f"t{os.urandom(6).hex()}"


@asynccontextmanager
async def spoilt() -> AsyncGenerator[tuple[Kafka, Proxy]]:
    """A broker that can be reached only through a proxy."""
    port = free_port()
    async with Proxy("127.0.0.1", port) as proxy:
        with kafka(port, proxy.port) as server:
            yield server, proxy


async def publish(bus: KafkaBus, messages: list[BusMessage]) -> None:
    """As the relay does: again, until the bus has them."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            try:
                assert await bus.publish(messages) == [None] * len(messages)
                return
            except BusUnavailable:
                await anyio.sleep(WAIT_S)


async def consume(bus: KafkaBus, topic: str, group: str, wanted: set[bytes], found: list[bytes]) -> None:
    """As the engine does: subscribes anew after BusUnavailable, until all that is wanted was settled."""
    while not wanted <= set(found):
        try:
            async with bus.subscribe([Topic(topic, from_start=True)], group, 50) as subscription:
                while not wanted <= set(found):
                    batch = await anext(subscription)
                    await subscription.ack(batch)
                    found += [each.body for each in batch]
        except BusUnavailable:
            await anyio.sleep(WAIT_S)


async def test_a_broker_that_is_away_is_unavailable_and_works_once_it_is_there(own: str) -> None:
    port = free_port()
    async with KafkaBus.from_url(f"kafka://127.0.0.1:{port}{IMPATIENT}") as bus:
        with anyio.fail_after(BOUND_S):
            with pytest.raises(BusUnavailable, match=f"Kafka at 127.0.0.1:{port}: not reachable"):
                await bus.publish([message(own)])
            with pytest.raises(BusUnavailable, match="not reachable"):
                async with bus.subscribe([Topic(own)], own, 10):
                    pass
            with pytest.raises(BusUnavailable, match="not reachable"):
                await bus.survey(Topology(own, (Topic(own),)))
            assert not await bus.healthy()
        with kafka(port):
            assert await bus.publish([message(own)]) == [None]
            assert await bus.healthy()


async def test_a_bus_that_is_not_open_is_unavailable(server: Kafka, own: str) -> None:
    bus = KafkaBus.from_url(server.url)
    with pytest.raises(BusUnavailable, match="not open"):
        await bus.publish([message(own)])
    async with bus:
        assert await bus.publish([message(own)]) == [None]
    with pytest.raises(BusUnavailable, match="not open"):
        await bus.publish([message(own)])
    assert not await bus.healthy()


async def test_a_broker_that_is_silent_is_unavailable_in_time(own: str) -> None:
    async with spoilt() as (server, proxy), KafkaBus.from_url(server.url + IMPATIENT) as bus:
        assert await bus.publish([message(own, b"1")]) == [None]
        proxy.stall()
        with anyio.fail_after(BOUND_S):
            with pytest.raises(BusUnavailable):
                await bus.publish([message(own, b"2")])
            assert not await bus.healthy()
        proxy.flow()
        await publish(bus, [message(own, b"2")])
        found: list[bytes] = []
        with anyio.fail_after(PATIENCE_S):
            await consume(bus, own, own, {b"1", b"2"}, found)


async def test_what_publish_returned_none_for_is_there_after_any_number_of_cuts(own: str) -> None:
    sent = {b"%d" % n for n in range(2_000)}
    found: list[bytes] = []

    async def cut(proxy: Proxy) -> None:
        while True:
            await anyio.sleep(0.15)
            await proxy.cut()

    async with spoilt() as (server, proxy), KafkaBus.from_url(server.url + IMPATIENT) as bus:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cut, proxy)
            bodies = sorted(sent)
            for n in range(0, len(bodies), 20):
                await publish(bus, [message(own, body, key=body[-1:].decode()) for body in bodies[n : n + 20]])
            tasks.cancel_scope.cancel()
        with anyio.fail_after(PATIENCE_S):
            await consume(bus, own, own, sent, found)
    assert set(found) == sent


async def test_cuts_while_consuming_and_acknowledging_lose_nothing(own: str) -> None:
    sent = {b"%d" % n for n in range(400)}
    found: list[bytes] = []
    async with (
        spoilt() as (server, proxy),
        KafkaBus.from_url(server.url + IMPATIENT) as bus,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(consume, bus, own, own, sent, found)
        for n, body in enumerate(sorted(sent)):
            await publish(bus, [message(own, body)])
            if n % 50 == 0:
                with anyio.fail_after(PATIENCE_S):
                    while body not in found:  # noqa: ASYNC110
                        await anyio.sleep(0.05)
                await proxy.cut()
        with anyio.fail_after(PATIENCE_S):
            while not sent <= set(found):  # noqa: ASYNC110
                await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()
    assert set(found) == sent


async def test_a_subscription_tells_when_the_broker_is_gone(own: str) -> None:
    async with spoilt() as (server, proxy), KafkaBus.from_url(server.url + IMPATIENT) as bus:
        async with Reader(bus, [own], own) as reader:
            await publish(bus, [message(own, b"1"), message(own, b"2")])
            taken = await reader.take(2)
            proxy.refuse()
            await proxy.cut()
            with anyio.fail_after(BOUND_S), pytest.raises(BusUnavailable):
                await anext(reader.subscription)
            with anyio.fail_after(BOUND_S), pytest.raises(BusUnavailable):
                await reader.ack(*taken)
            with anyio.fail_after(BOUND_S), pytest.raises(BusUnavailable):
                await reader.subscription.lag()
            proxy.accept()
        found: list[bytes] = []
        with anyio.fail_after(PATIENCE_S):
            await consume(bus, own, own, {b"1", b"2"}, found)


async def test_a_broker_that_was_killed_and_lost_all_is_used_again(own: str) -> None:
    found: list[bytes] = []
    with kafka() as server:
        async with KafkaBus.from_url(server.url + IMPATIENT) as bus, anyio.create_task_group() as tasks:
            tasks.start_soon(consume, bus, own, own, {b"1", b"2", b"3"}, found)
            await publish(bus, [message(own, b"1")])
            with anyio.fail_after(PATIENCE_S):
                while b"1" not in found:  # noqa: ASYNC110
                    await anyio.sleep(WAIT_S)
            server.kill()
            with anyio.fail_after(BOUND_S), pytest.raises(BusUnavailable):
                await bus.publish([message(own, b"2")])
            server.start()
            await publish(bus, [message(own, b"2")])
            await publish(bus, [message(own, b"3")])
            tasks.cancel_scope.deadline = anyio.current_time() + PATIENCE_S
    assert set(found) == {b"1", b"2", b"3"}


async def test_members_that_come_and_go_lose_nothing(server: Kafka, own: str) -> None:
    sent: set[bytes] = set()
    settled: list[bytes] = []

    async def member(bus: KafkaBus, stay_s: float) -> None:
        """Settles most of what it takes, and leaves with some of it in its hands."""
        with anyio.move_on_after(stay_s):
            async with bus.subscribe([Topic(own, from_start=True)], own, 7) as subscription:
                async for batch in subscription:
                    kept: list[Delivered] = [each for each in batch if sum(each.body) % 5]
                    await subscription.ack(kept)
                    settled.extend(each.body for each in kept)
                    if len(settled) % 3 == 0:
                        await subscription.ack(batch)
                        settled.extend(each.body for each in batch if each not in kept)

    async with KafkaBus.from_url(server.url + "?session_timeout=3") as bus:
        async with anyio.create_task_group() as tasks:
            for stay_s in (6.0, 9.0, 12.0):
                tasks.start_soon(member, bus, stay_s)
            for n in range(60):
                batch = [message(own, b"%d-%d" % (n, m), key=str(m)) for m in range(5)]
                await publish(bus, batch)
                sent |= {each.body for each in batch}
                await anyio.sleep(0.15)
        with anyio.fail_after(PATIENCE_S):
            await consume(bus, own, own, sent - set(settled), settled)
    assert set(settled) == sent


CHILD = """
import anyio, sys
from orchestrator.ports import Topic
from orchestrator_adapters.kafka import KafkaBus

async def main(url, own):
    async with KafkaBus.from_url(url) as bus, bus.subscribe([Topic(own)], own, 10) as subscription:
        print("subscribed", flush=True)
        async for batch in subscription:
            for each in batch:
                print(each.body.decode(), flush=True)

anyio.run(main, *sys.argv[1:])
"""


async def test_what_comes_between_the_first_subscription_and_the_first_ack_survives_a_kill(
    server: Kafka, own: str
) -> None:
    url = server.url + "?timeout=20&session_timeout=3"
    command = [sys.executable, "-c", CHILD, url, own]
    child = await anyio.open_process(command, stdout=subprocess.PIPE, stderr=None, env={**os.environ})
    try:
        async with KafkaBus.from_url(url) as bus:
            assert child.stdout is not None
            lines = TextReceiveStream(child.stdout)
            with anyio.fail_after(PATIENCE_S):
                said = await lines.receive()
                while "\n" not in said:
                    said += await lines.receive()
                await publish(bus, [message(own, b"1", key="k"), message(own, b"2", key="k")])
                while said.count("\n") < 3:
                    said += await lines.receive()
            child.send_signal(signal.SIGKILL)
            await publish(bus, [message(own, b"3", key="k")])
            async with Reader(bus, [own], own) as reader:
                assert await reader.bodies(3) == [b"1", b"2", b"3"]
    finally:
        with anyio.CancelScope(shield=True):
            if child.returncode is None:
                child.kill()
            await child.aclose()


async def test_too_large_for_the_broker_in_a_request_with_others_is_asked_alone(
    server: Kafka, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Strict(AIOKafkaProducer):  # as a broker is that refuses a request for one of its messages
        asked = 0

        async def send(self, topic: str, value: bytes, **others: Any) -> asyncio.Future[Any]:
            Strict.asked += 1
            if Strict.asked <= 3 or value == b"large":
                refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                refused.set_exception(MessageSizeTooLargeError("max.message.bytes"))
                return refused
            sent: asyncio.Future[Any] = await super().send(topic, value, **others)
            return sent

    monkeypatch.setattr("orchestrator_adapters.kafka.bus.AIOKafkaProducer", Strict)
    async with KafkaBus.from_url(server.url) as bus:
        told = await bus.publish([message(own, body, key="k") for body in (b"1", b"large", b"2")])
        assert (told[0], told[2]) == (None, None)
        assert isinstance(told[1], NotTaken) and told[1].is_final and "max.message.bytes" in told[1].reason
        found: list[bytes] = []
        with anyio.fail_after(PATIENCE_S):
            await consume(bus, own, own, {b"1", b"2"}, found)
        assert found == [b"1", b"2"]


async def test_a_topic_that_may_not_be_made_holds_up_no_other(
    server: Kafka, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Strict(AIOKafkaAdminClient):  # as a broker is where an operator makes the topics
        async def create_topics(self, new_topics: list[Any], **others: Any) -> Any:
            made = await super().create_topics([each for each in new_topics if "mine" not in each.name], **others)
            made.topic_errors += [(each.name, 29, "") for each in new_topics if "mine" in each.name]
            return made

    monkeypatch.setattr("orchestrator_adapters.kafka.cluster.AIOKafkaAdminClient", Strict)
    async with KafkaBus.from_url(server.url) as bus:
        told = await bus.publish([message(own + "mine"), message(own)])
        assert isinstance(told[0], NotTaken) and not told[0].is_final and "Authorization" in told[0].reason
        assert told[1] is None
        with pytest.raises(BusUnavailable, match="Authorization"):
            async with bus.subscribe([Topic(own + "mine")], own, 10):
                pass


async def test_a_group_whose_positions_are_not_to_be_had_is_not_taken_for_a_new_one(
    server: Kafka, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loading(AIOKafkaAdminClient):  # as the driver reads the answer of a coordinator that has just started
        async def list_consumer_group_offsets(self, *given: Any, **others: Any) -> dict[Any, Any]:
            return {}

    url = server.url + "?timeout=20&session_timeout=3"
    async with KafkaBus.from_url(url) as bus:
        await publish(bus, [message(own, b"1")])
        found: list[bytes] = []
        with anyio.fail_after(PATIENCE_S):
            await consume(bus, own, own, {b"1"}, found)
        await publish(bus, [message(own, b"2")])
    with monkeypatch.context() as patched:
        patched.setattr("orchestrator_adapters.kafka.cluster.AIOKafkaAdminClient", Loading)
        async with KafkaBus.from_url(url) as bus:
            with pytest.raises(BusUnavailable, match="positions"):
                async with bus.subscribe([Topic(own)], own, 10):
                    pass
    async with KafkaBus.from_url(url) as bus:
        with anyio.fail_after(PATIENCE_S):
            await consume(bus, own, own, {b"2"}, found)
        assert found == [b"1", b"2"]


async def test_a_broker_without_idempotence_is_unavailable_where_it_is_asked_for(server: Kafka, own: str) -> None:
    async with KafkaBus.from_url(server.url + IMPATIENT + "&idempotence=true") as bus:
        with anyio.fail_after(BOUND_S), pytest.raises(BusUnavailable):
            await bus.publish([message(own)])


async def test_nothing_is_left_behind(own: str) -> None:
    before = asyncio.all_tasks()
    async with AsyncExitStack() as ended:
        server, proxy = await ended.enter_async_context(spoilt())
        with anyio.fail_after(PATIENCE_S):
            async with KafkaBus.from_url(server.url + IMPATIENT) as bus:
                with anyio.move_on_after(0.5):
                    async with bus.subscribe([Topic(own)], own, 10):
                        raise AssertionError("no broker lets anybody in so soon")
                async with bus.subscribe([Topic(own)], own + "again", 10):
                    await publish(bus, [message(own, b"1")])
                    proxy.refuse()
                    await proxy.cut()
                    with pytest.raises(BusUnavailable):
                        await bus.publish([message(own, b"2")])
            assert proxy.connections == 0
    assert asyncio.all_tasks() == before
