"""RabbitMQ when it is killed, cut off, silent, full or not there: nothing taken is lost, nobody waits for ever."""

from __future__ import annotations

import asyncio
import logging
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager

import aio_pika
import anyio
import pytest

from orchestrator.errors import BusUnavailable
from orchestrator.ports import BusMessage, Delivered, NotTaken, Topic, Topology
from orchestrator_adapters.rabbitmq import RabbitBus
from tests.servers.process import free_port
from tests.servers.proxy import Proxy
from tests.servers.rabbitmq import RabbitMQ, rabbitmq

pytestmark = pytest.mark.anyio
PATIENCE_S = 60.0
SLOW_S = 6.0
GROUP = "shop"


@pytest.fixture(scope="module")
def server() -> Generator[RabbitMQ]:
    with rabbitmq(f"consumer_timeout = {SLOW_S * 1000:.0f}") as server:
        yield server


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
async def nothing_is_left_behind(anyio_backend: str, caplog: pytest.LogCaptureFixture) -> AsyncGenerator[None]:
    """No task, and nothing said by the driver: the engine tells people."""
    before = asyncio.all_tasks()
    yield
    after = asyncio.all_tasks() - before
    assert [task for task in after if "TestRunner" not in repr(task)] == []
    said = [record for when in ("setup", "call") for record in caplog.get_records(when)]
    assert [record.getMessage() for record in said if record.levelno >= logging.WARNING] == []


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def messages(topic: str, first: int, count: int = 50) -> list[BusMessage]:
    return [BusMessage(topic, b"%d" % n, id=str(n), expected=True) for n in range(first, first + count)]


class Sent:
    """Publishes batch by batch, and remembers what was taken."""

    def __init__(self, bus: RabbitBus, topic: str) -> None:
        self.taken: set[bytes] = set()
        self.failures = 0
        self._bus = bus
        self._topic = topic
        self._next = 0

    async def batch(self) -> None:
        batch = messages(self._topic, self._next)
        try:
            told = await self._bus.publish(batch)
        except BusUnavailable:
            self.failures += 1
            return
        assert told == [None] * len(batch)
        self.taken |= {each.body for each in batch}
        self._next += len(batch)

    async def run(self) -> None:
        while True:
            await self.batch()
            await anyio.sleep(0.001)

    async def fails(self, times: int) -> None:
        with anyio.fail_after(PATIENCE_S):
            while self.failures < times:  # noqa: ASYNC110 the publisher is at work beside
                await anyio.sleep(0.005)

    async def goes_on(self, count: int = 200) -> None:
        wanted = len(self.taken) + count
        with anyio.fail_after(PATIENCE_S):
            while len(self.taken) < wanted:  # noqa: ASYNC110
                await anyio.sleep(0.005)


class Got:
    """Reads as the engine does: subscribes anew after each loss, acknowledges half of a batch at once."""

    def __init__(self, bus: RabbitBus, topic: str) -> None:
        self.bodies: set[bytes] = set()
        self.losses = 0
        self._bus = bus
        self._topic = topic

    async def run(self) -> None:
        while True:
            try:
                async with self._bus.subscribe([Topic(self._topic)], GROUP, 64) as subscription:
                    async for batch in subscription:
                        self.bodies |= {each.body for each in batch}
                        await subscription.ack(batch[::2])
                        await subscription.ack(batch[1::2])
            except BusUnavailable:
                self.losses += 1
                await anyio.sleep(0.05)

    async def all_of(self, sent: Sent) -> None:
        with anyio.fail_after(PATIENCE_S):
            while not self.bodies >= sent.taken:  # noqa: ASYNC110
                await anyio.sleep(0.01)


async def take(bus: RabbitBus, topic: str, count: int) -> set[bytes]:
    """So many different messages, acknowledged; subscribes anew after a loss."""
    got = Got(bus, topic)
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(got.run)
            while len(got.bodies) < count:  # noqa: ASYNC110
                await anyio.sleep(0.005)
            tasks.cancel_scope.cancel()
    return got.bodies


async def made(bus: RabbitBus, topic: str) -> None:
    await bus.set_up(Topology(GROUP, (Topic(topic),)))


@asynccontextmanager
async def proxied(server: RabbitMQ, options: str = "?timeout=2") -> AsyncGenerator[tuple[Proxy, RabbitBus]]:
    async with (
        Proxy("127.0.0.1", server.port) as proxy,
        RabbitBus.from_url(server.url_at(proxy.port, options)) as bus,
    ):
        yield proxy, bus


async def test_a_broker_killed_under_load_loses_nothing_that_it_took(server: RabbitMQ, topic: str) -> None:
    async with RabbitBus.from_url(server.url) as bus, anyio.create_task_group() as tasks:
        await made(bus, topic)
        server.remember()
        sent, got = Sent(bus, topic), Got(bus, topic)
        tasks.start_soon(sent.run)
        tasks.start_soon(got.run)
        for _ in range(2):
            await sent.goes_on()
            failures = sent.failures
            server.kill()
            await sent.fails(failures + 1)
            server.start()
        await sent.goes_on()
        assert got.losses >= 2
        await got.all_of(sent)
        tasks.cancel_scope.cancel()


async def test_what_was_unsettled_when_the_broker_was_killed_comes_again(server: RabbitMQ, topic: str) -> None:
    async with RabbitBus.from_url(server.url) as bus:
        await made(bus, topic)
        server.remember()
        async with bus.subscribe([Topic(topic)], GROUP, 10) as subscription:
            await bus.publish(messages(topic, 0, 3))
            held: list[Delivered] = []
            while len(held) < 3:
                held += await anext(subscription)
            server.kill()
            with anyio.fail_after(PATIENCE_S), pytest.raises(BusUnavailable, match="RabbitMQ at 127"):
                await anext(subscription)
            with pytest.raises(BusUnavailable):
                await subscription.ack(held)
            with pytest.raises(BusUnavailable):
                await subscription.lag()
        server.start()
        assert await take(bus, topic, 3) == {b"0", b"1", b"2"}


async def test_connections_cut_while_publishing_and_reading_lose_nothing(server: RabbitMQ, topic: str) -> None:
    async with proxied(server) as (proxy, bus), anyio.create_task_group() as tasks:
        await made(bus, topic)
        sent, got = Sent(bus, topic), Got(bus, topic)
        tasks.start_soon(sent.run)
        tasks.start_soon(got.run)
        for n in range(10):
            await sent.goes_on(60)
            await anyio.sleep(0.003 * n)  # so that each cut hits another moment of a batch
            await proxy.cut()
        await sent.goes_on()
        assert sent.failures and got.losses
        await got.all_of(sent)
        tasks.cancel_scope.cancel()


async def test_cancelling_at_any_moment_loses_nothing_and_leaves_the_bus_fit_for_use(
    server: RabbitMQ, topic: str
) -> None:
    async with RabbitBus.from_url(server.url) as bus:
        await made(bus, topic)
        taken: set[bytes] = set()
        found: set[bytes] = set()
        for n in range(60):
            with anyio.move_on_after(n * 0.0005):
                async with bus.subscribe([Topic(topic)], GROUP, 10) as subscription:
                    while True:
                        batch = await anext(subscription)
                        await subscription.ack(batch)
                        found |= {each.body for each in batch}
            batch_sent = messages(topic, n * 50)
            with anyio.move_on_after(n * 0.0005):
                assert await bus.publish(batch_sent) == [None] * 50
                taken |= {each.body for each in batch_sent}
            with anyio.move_on_after(n * 0.0001):
                await bus.healthy()
        assert await bus.publish(messages(topic, 10_000)) == [None] * 50
        last = {each.body for each in messages(topic, 10_000)}
        got = Got(bus, topic)
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(got.run)
                while not got.bodies | found >= taken | last:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()


async def test_a_broker_that_is_not_there_is_said_so_and_used_when_it_is(server: RabbitMQ, topic: str) -> None:
    async with proxied(server) as (proxy, bus):
        proxy.refuse()
        with anyio.fail_after(PATIENCE_S):
            for call in (bus.publish(messages(topic, 0, 1)), made(bus, topic), bus.survey(Topology(GROUP))):
                with pytest.raises(BusUnavailable, match=f"RabbitMQ at 127.0.0.1:{proxy.port}: "):
                    await call
            with pytest.raises(BusUnavailable):
                async with bus.subscribe([Topic(topic)], GROUP, 10):
                    pass
            assert not await bus.healthy()
            proxy.accept()
            assert await bus.healthy()
            await made(bus, topic)
            assert await bus.publish(messages(topic, 0, 1)) == [None]
        assert await take(bus, topic, 1) == {b"0"}


async def test_nobody_listens_at_the_port() -> None:
    async with RabbitBus.from_url(f"amqp://me:sesame@127.0.0.1:{free_port()}") as bus:
        with (
            anyio.fail_after(PATIENCE_S),
            pytest.raises(BusUnavailable, match=r"Connect call failed|Connection refused") as error,
        ):
            await bus.publish(messages("A", 0, 1))
        assert "sesame" not in str(error.value)


async def test_all_who_wait_for_one_attempt_to_connect_fail_with_it(server: RabbitMQ, topic: str) -> None:
    async with proxied(server, "?timeout=1") as (proxy, bus):
        proxy.stall()
        failed: list[str] = []

        async def publish() -> None:
            with pytest.raises(BusUnavailable) as error:
                await bus.publish(messages(topic, 0, 1))
            failed.append(str(error.value))

        with anyio.fail_after(1.8):  # one after the other they would need twenty seconds
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(publish)
        assert failed == [f"RabbitMQ at 127.0.0.1:{proxy.port}: no answer for 1 s"] * 20


async def test_a_wrong_password_is_said_so_and_not_shown(server: RabbitMQ) -> None:
    url = server.url.replace("guest:guest", "guest:sesame")
    async with RabbitBus.from_url(url) as bus:
        with anyio.fail_after(PATIENCE_S), pytest.raises(BusUnavailable, match="ACCESS_REFUSED") as error:
            await bus.publish(messages("A", 0, 1))
        assert "sesame" not in str(error.value)


async def test_a_virtual_host_that_is_not_there_is_named(server: RabbitMQ) -> None:
    async with RabbitBus.from_url(server.url + "a%2Fb") as bus:
        with anyio.fail_after(PATIENCE_S), pytest.raises(BusUnavailable, match="virtual host"):
            await bus.publish(messages("A", 0, 1))


async def test_a_silent_broker_ends_a_publish_within_its_time(server: RabbitMQ, topic: str) -> None:
    async with proxied(server, "?timeout=1") as (proxy, bus):
        await made(bus, topic)
        await bus.publish(messages(topic, 0, 1))
        proxy.stall()
        with anyio.fail_after(1.8), pytest.raises(BusUnavailable, match="no answer for 1 s"):
            await bus.publish(messages(topic, 0))
        with anyio.fail_after(PATIENCE_S):
            assert not await bus.healthy()
        proxy.flow()
        assert await bus.publish(messages(topic, 1, 1)) == [None]
        assert await take(bus, topic, 2) >= {b"0", b"1"}


async def test_a_broker_that_does_not_read_holds_up_who_publishes(server: RabbitMQ, topic: str) -> None:
    """What is not sent yet is not in memory a second time."""
    body, many = b"x" * 1_000_000, 60
    async with proxied(server, "?timeout=1") as (proxy, bus):
        await made(bus, topic)
        assert await bus.publish([BusMessage(topic, body)]) == [None]  # from now on it is known to fit
        proxy.stall()
        tracemalloc.start()
        try:
            with anyio.fail_after(PATIENCE_S), pytest.raises(BusUnavailable, match="no answer for 1 s"):
                await bus.publish([BusMessage(topic, body) for _ in range(many)])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < len(body) * many / 4
        proxy.flow()


async def test_messages_that_come_without_a_pause_are_signs_of_life(server: RabbitMQ, topic: str) -> None:
    """A broker that sends messages sends no heartbeats, and the driver gives up one that is silent for six seconds."""
    async with RabbitBus.from_url(server.url + "?heartbeat=1") as bus, anyio.create_task_group() as tasks:
        await made(bus, topic)
        sent, got = Sent(bus, topic), Got(bus, topic)
        tasks.start_soon(sent.run)
        tasks.start_soon(got.run)
        await anyio.sleep(8)
        assert sent.failures == got.losses == 0
        await got.all_of(sent)
        tasks.cancel_scope.cancel()


async def test_a_silent_broker_ends_a_subscription(server: RabbitMQ, topic: str) -> None:
    async with proxied(server, "?timeout=1&heartbeat=1") as (proxy, bus):
        async with bus.subscribe([Topic(topic)], GROUP, 10) as subscription:
            await bus.publish(messages(topic, 0, 1))
            await anext(subscription)
            proxy.stall()
            with anyio.fail_after(PATIENCE_S), pytest.raises(BusUnavailable, match="RabbitMQ at"):
                await anext(subscription)
        proxy.flow()
        assert await take(bus, topic, 1) == {b"0"}


async def test_a_driver_that_gives_up_first_does_not_cancel_us(server: RabbitMQ, topic: str) -> None:
    async with RabbitBus.from_url(server.url + "?timeout=60&heartbeat=1") as bus:
        await made(bus, topic)
        await bus.publish(messages(topic, 0, 1))
        async with bus.subscribe([Topic(topic)], GROUP, 10) as subscription:
            await anext(subscription)
            failed: list[str] = []

            async def fails(name: str, call: Callable[[], Awaitable[object]]) -> None:
                with pytest.raises(BusUnavailable):
                    await call()
                failed.append(name)

            server.freeze()
            try:
                with anyio.fail_after(30):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(fails, "publish", lambda: bus.publish(messages(topic, 1)))
                        tasks.start_soon(fails, "lag", subscription.lag)
                        tasks.start_soon(fails, "anext", lambda: anext(subscription))
            finally:
                server.thaw()
        assert sorted(failed) == ["anext", "lag", "publish"]


async def test_a_bus_is_left_in_moments_while_the_broker_is_silent(server: RabbitMQ, topic: str) -> None:
    async with Proxy("127.0.0.1", server.port) as proxy:
        with anyio.fail_after(15):
            url = server.url_at(proxy.port, "?timeout=1")
            async with RabbitBus.from_url(url) as bus, bus.subscribe([Topic(topic)], GROUP, 10):
                await bus.publish(messages(topic, 0, 1))
                proxy.stall()


async def test_one_who_holds_a_message_for_too_long_is_told_and_gets_it_again(server: RabbitMQ, topic: str) -> None:
    """RabbitMQ before 3.12 cannot be told to be patient: after half an hour, here after seconds, it comes again."""
    async with RabbitBus.from_url(server.url) as bus:
        async with bus.subscribe([Topic(topic)], GROUP, 10) as subscription:
            await bus.publish(messages(topic, 0, 1))
            held = await anext(subscription)
            with anyio.fail_after(PATIENCE_S), pytest.raises(BusUnavailable, match="timed out"):
                await anext(subscription)
            with pytest.raises(BusUnavailable):
                await subscription.ack(held)
        assert await take(bus, topic, 1) == {b"0"}


async def test_a_queue_deleted_under_a_subscription_ends_it(server: RabbitMQ, topic: str) -> None:
    async with RabbitBus.from_url(server.url) as bus, native(server) as channel:
        async with bus.subscribe([Topic(topic)], GROUP, 10) as subscription:
            await channel.queue_delete(f"{GROUP}@orchestrator/{topic}")
            with anyio.fail_after(PATIENCE_S), pytest.raises(BusUnavailable, match="its queue was deleted"):
                await anext(subscription)
        assert isinstance((await bus.publish(messages(topic, 0, 1)))[0], NotTaken)
        await made(bus, topic)
        assert await bus.publish(messages(topic, 0, 1)) == [None]


async def test_an_exchange_deleted_under_a_publisher_is_made_again(server: RabbitMQ, topic: str) -> None:
    async with RabbitBus.from_url(server.url + "?exchange=gone") as bus, native(server) as channel:
        assert await bus.publish([BusMessage(topic, b"")]) == [None]
        await channel.exchange_delete("gone")
        with anyio.fail_after(PATIENCE_S), pytest.raises(BusUnavailable, match="no exchange 'gone'"):
            await bus.publish([BusMessage(topic, b"")])
        assert await bus.publish([BusMessage(topic, b"")]) == [None]


async def test_a_full_queue_takes_no_more_and_loses_nothing(server: RabbitMQ, topic: str) -> None:
    async with RabbitBus.from_url(server.url) as bus:
        await made(bus, topic)
        await anyio.to_thread.run_sync(
            server.control, "set_policy", "small", topic, '{"max-length": 2}', "--apply-to", "queues"
        )
        told: list[NotTaken | None] = []
        for n in range(20):  # it notices a little late that it is full
            told += await bus.publish(messages(topic, n, 1))
        assert told[0] is None
        refused = [each for each in told if each is not None]
        assert refused and all("full" in each.reason and not each.is_final for each in refused)
        taken = {b"%d" % n for n, each in enumerate(told) if each is None}
        assert await take(bus, topic, len(taken)) == taken
        with anyio.fail_after(PATIENCE_S):
            while await bus.publish(messages(topic, 99, 1)) != [None]:  # noqa: ASYNC110
                await anyio.sleep(0.05)


async def test_a_queue_that_does_not_confirm_holds_up_no_other(server: RabbitMQ, topic: str) -> None:
    queue = f'whereis(list_to_atom("%2F_{GROUP}@orchestrator/{topic}"))'
    other = topic + ".other"
    async with RabbitBus.from_url(server.url + "?timeout=1") as bus:
        await made(bus, topic)
        await made(bus, other)
        await bus.publish(messages(topic, 0, 1))
        await anyio.to_thread.run_sync(server.control, "eval", f"sys:suspend({queue}).")
        with anyio.fail_after(PATIENCE_S):
            told = await bus.publish(messages(topic, 1, 1) + messages(other, 0, 2))
        await anyio.to_thread.run_sync(server.control, "eval", f"sys:resume({queue}).")
        assert told[1:] == [None, None]
        assert isinstance(told[0], NotTaken) and "not confirmed for 1 s" in told[0].reason and not told[0].is_final
        assert await bus.publish(messages(topic, 1, 2)) == [None, None]
        assert await take(bus, other, 2) == {b"0", b"1"}
        assert await take(bus, topic, 3) == {b"0", b"1", b"2"}


async def test_a_broker_without_memory_still_hears_what_is_acknowledged(server: RabbitMQ, topic: str) -> None:
    alarm = "rabbit_alarm:{}_alarm({{{{resource_limit, memory, node()}}, []}})."
    raised, lifted = alarm.format("set"), "rabbit_alarm:clear_alarm({resource_limit, memory, node()})."
    async with (
        RabbitBus.from_url(server.url + "?timeout=1") as bus,
        bus.subscribe([Topic(topic)], GROUP, 10) as subscription,
    ):
        await bus.publish(messages(topic, 0, 1))
        held = await anext(subscription)
        await anyio.to_thread.run_sync(server.control, "eval", raised)
        with anyio.fail_after(PATIENCE_S), pytest.raises(BusUnavailable, match="no answer for 1 s"):
            await bus.publish(messages(topic, 1, 1))
        await subscription.ack(held)
        with anyio.fail_after(PATIENCE_S):
            while await subscription.lag():  # noqa: ASYNC110
                await anyio.sleep(0.05)
        await anyio.to_thread.run_sync(server.control, "eval", lifted)
        with anyio.fail_after(PATIENCE_S):
            assert await bus.publish(messages(topic, 2, 1)) == [None]


@asynccontextmanager
async def native(server: RabbitMQ) -> AsyncGenerator[aio_pika.abc.AbstractChannel]:
    """A channel of a client that knows nothing of us."""
    connection = await aio_pika.connect(server.url)
    async with connection:
        yield await connection.channel()
