"""The bus on SNS and SQS when the service, the network or the subscriber fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from importlib import import_module
from itertools import count

import anyio
import pytest

from orchestrator.errors import BusUnavailable
from orchestrator.ports import BusMessage, NotTaken, Topic, Topology
from orchestrator.testing.bus_conformance import Reader, message
from orchestrator_adapters.sqs import SqsBus

from ..servers.aws import REGION, Aws, aws, bus_url
from ..servers.process import free_port
from ..servers.proxy import Proxy

pytestmark = pytest.mark.anyio
PATIENCE_S = 60.0
VISIBILITY_S = 2
_numbers = count(1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server() -> Iterator[Aws]:
    """One emulation for all tests of this file."""
    with aws() as running:
        yield running


@pytest.fixture
def own() -> str:
    """What the names of this test begin with."""
    return f"faults{next(_numbers)}."


@asynccontextmanager
async def through(proxy: Proxy, **options: object) -> AsyncGenerator[SqsBus]:
    """A bus behind the proxy that nobody waits for long."""
    quick = {"timeout": 1.5, "wait": 1, "visibility": VISIBILITY_S} | options
    async with SqsBus.from_url(bus_url(proxy.port, **quick)) as bus:
        yield bus


async def unavailable(bus: SqsBus) -> None:
    """Fail unless every method says within its time that the broker is not there."""
    topology = Topology("group", (Topic("A"),), ("B",))
    assert not await bus.healthy()
    for attempt in (bus.publish([message("A")]), bus.survey(topology), bus.set_up(topology)):
        with anyio.fail_after(5), pytest.raises(BusUnavailable, match=r"SQS at 127\.0\.0\.1"):
            await attempt
    with anyio.fail_after(5), pytest.raises(BusUnavailable):
        async with bus.subscribe([Topic("A")], "group", 1):
            pass


async def publish_all(bus: SqsBus, sent: list[BusMessage]) -> None:
    """Publish, again and again until each is taken."""
    while sent:
        try:
            told = await bus.publish(sent)
        except BusUnavailable:
            await anyio.sleep(0.01)
            continue
        sent = [each for each, refusal in zip(sent, told, strict=True) if refusal is not None]


class Collector:
    """Reads a group for good, subscribing anew whenever the bus is lost."""

    def __init__(self, bus: SqsBus, topic: str, group: str) -> None:
        self.found: set[bytes] = set()
        self.losses = 0
        self._subscribe = lambda: bus.subscribe([Topic(topic)], group, 50)

    async def run(self) -> None:
        while True:
            try:
                async with self._subscribe() as subscription:
                    async for batch in subscription:
                        self.found |= {each.body for each in batch}
                        await subscription.ack(batch)
            except BusUnavailable:
                self.losses += 1
                await anyio.sleep(0.01)

    async def until(self, wanted: set[bytes]) -> None:
        with anyio.fail_after(PATIENCE_S):
            while not wanted <= self.found:  # noqa: ASYNC110 the collector has no event for it
                await anyio.sleep(0.02)


async def test_who_does_not_answer_at_first_is_used_when_he_does(server: Aws, own: str) -> None:
    async with Proxy("127.0.0.1", server.port) as proxy, through(proxy) as bus:
        proxy.refuse()
        await unavailable(bus)
        proxy.accept()
        assert await bus.healthy()
        async with Reader(bus, [own + "A"], own) as reader:
            assert await bus.publish([message(own + "A", b"1")]) == [None]
            assert await reader.bodies(1) == [b"1"]


async def test_nobody_there(own: str) -> None:
    async with SqsBus.from_url(bus_url(free_port(), timeout=1.5)) as bus:
        await unavailable(bus)


async def test_all_who_wait_for_the_first_connection_wait_no_longer_than_one(server: Aws, own: str) -> None:
    async with Proxy("127.0.0.1", server.port) as proxy, through(proxy) as bus:
        proxy.stall()
        refused: list[BusUnavailable] = []

        async def publish() -> None:
            with pytest.raises(BusUnavailable, match=r"no answer within 1\.5 s") as caught:
                await bus.publish([message(own + "A")])
            refused.append(caught.value)

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(publish)
        assert len(refused) == 10


async def test_no_credentials(server: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    async with SqsBus.from_url(bus_url(server.port)) as bus:
        with pytest.raises(BusUnavailable, match="credentials"):
            await bus.publish([message("A")])


async def test_cut_connections_lose_nothing_that_was_taken(server: Aws, own: str) -> None:
    sent = [message(own + "A", b"%d" % n, key=str(n % 7), id=str(n)) for n in range(120)]
    async with (
        Proxy("127.0.0.1", server.port) as proxy,
        through(proxy, visibility=3) as bus,
        anyio.create_task_group() as tasks,
    ):
        await bus.set_up(Topology(own, (Topic(own + "A"),)))
        collector = Collector(bus, own + "A", own)
        tasks.start_soon(collector.run)
        tasks.start_soon(_cut_now_and_then, proxy)
        for start in range(0, len(sent), 20):
            await publish_all(bus, sent[start : start + 20])
        await collector.until({each.body for each in sent})
        tasks.cancel_scope.cancel()


async def _cut_now_and_then(proxy: Proxy) -> None:
    for pause in (0.02, 0.05, 0.1, 0.2, 0.4, 0.3, 0.1):
        await anyio.sleep(pause)
        await proxy.cut()


async def test_a_broker_killed_while_it_is_sent_to(own: str) -> None:
    with aws() as server:
        async with SqsBus.from_url(bus_url(server.port, timeout=1.5)) as bus:
            assert await bus.publish([message(own + "A")]) == [None]
            lost = anyio.Event()

            async def publish() -> None:
                try:
                    while True:
                        sent = [message(own + "A", key=str(n)) for n in range(40)]
                        assert await bus.publish(sent) == [None] * 40
                except BusUnavailable:
                    lost.set()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish)
                await anyio.sleep(0.05)
                await anyio.to_thread.run_sync(server.kill)
                with anyio.fail_after(10):
                    await lost.wait()
            assert not await bus.healthy()
            server.start()
            assert await bus.healthy()
            assert await bus.publish([message(own + "A")]) == [None]


async def test_a_broker_killed_while_it_is_read(own: str) -> None:
    with aws() as server:
        async with SqsBus.from_url(bus_url(server.port, timeout=1.5, wait=1)) as bus:
            async with Reader(bus, [own + "A"], own) as reader:
                await bus.publish([message(own + "A", b"1", expected=True)])
                taken = await reader.next()
                server.kill()
                with anyio.fail_after(10), pytest.raises(BusUnavailable):
                    await anext(reader.subscription)
                with pytest.raises(BusUnavailable):
                    await reader.ack(taken)
                with pytest.raises(BusUnavailable):
                    await reader.subscription.lag()
            server.start()  # it has forgotten everything, so nobody is there for what is expected
            told = await bus.publish([message(own + "A", b"2", expected=True), message(own + "A", b"3")])
            assert isinstance(told[0], NotTaken) and told[1] is None
            async with Reader(bus, [own + "A"], own) as reader:
                assert await bus.publish([message(own + "A", b"4", expected=True)]) == [None]
                assert await reader.bodies(1) == [b"4"]


async def test_a_queue_that_was_removed_is_told_and_made_anew(server: Aws, own: str) -> None:

    session = import_module("aiobotocore.session").AioSession()
    async with (
        session.create_client("sqs", region_name=REGION, endpoint_url=server.endpoint) as sqs,
        SqsBus.from_url(bus_url(server.port, wait=1)) as bus,
    ):
        async with Reader(bus, [own + "A"], own) as reader:
            for url in (await sqs.list_queues(QueueNamePrefix=own.removesuffix(".")))["QueueUrls"]:
                await sqs.delete_queue(QueueUrl=url)
            with anyio.fail_after(10), pytest.raises(BusUnavailable):
                await anext(reader.subscription)
        async with Reader(bus, [own + "A"], own) as reader:
            await bus.publish([message(own + "A", b"1")])
            assert await reader.bodies(1) == [b"1"]


async def test_a_silent_connection_is_told_within_its_time(server: Aws, own: str) -> None:
    async with Proxy("127.0.0.1", server.port) as proxy, through(proxy) as bus:
        async with Reader(bus, [own + "A"], own) as reader:
            await bus.publish([message(own + "A", b"1")])
            taken = await reader.next()
            proxy.stall()
            with anyio.fail_after(10), pytest.raises(BusUnavailable, match="no answer within"):
                await bus.publish([message(own + "A", b"2")])
            with anyio.fail_after(10), pytest.raises(BusUnavailable, match="no answer within"):
                await anext(reader.subscription)
            with anyio.fail_after(10), pytest.raises(BusUnavailable, match="no answer within"):
                await reader.ack(taken)
            proxy.flow()
        async with Reader(bus, [own + "A"], own) as reader:
            assert await reader.bodies(1) == [b"1"]


async def test_what_a_dead_subscriber_had_comes_again(server: Aws, own: str) -> None:
    async with (
        Proxy("127.0.0.1", server.port) as proxy,
        through(proxy) as bus,
        Reader(bus, [own + "A"], own) as reader,
    ):
        await bus.publish([message(own + "A", b"%d" % n) for n in range(3)])
        await reader.take(3)
        proxy.refuse()
        await proxy.cut()
    async with SqsBus.from_url(bus_url(server.port)) as bus, Reader(bus, [own + "A"], own) as reader:
        assert sorted(await reader.bodies(3)) == [b"0", b"1", b"2"]


async def test_what_is_unsettled_stays_with_a_slow_subscriber(server: Aws, own: str) -> None:
    url = bus_url(server.port, visibility=VISIBILITY_S)
    async with SqsBus.from_url(url) as bus, Reader(bus, [own + "A"], own, prefetch=100) as reader:
        await bus.publish([message(own + "A", b"%d" % n) for n in range(35)])
        taken = await reader.take(35)
        assert await reader.silent(VISIBILITY_S * 2.5)
        await reader.ack(*taken)
        assert await reader.subscription.lag() == 0


async def test_a_poll_that_was_left_behind_gives_back_what_it_gets(server: Aws, own: str) -> None:
    async with SqsBus.from_url(bus_url(server.port, visibility=300)) as bus:
        for n in range(3):
            async with Reader(bus, [own + "A"], own) as reader:
                await bus.publish([message(own + "A", b"%d" % n)])
                assert await reader.bodies(1) == [b"%d" % n]
        async with Reader(bus, [own + "A"], own, 1) as reader:
            await bus.publish([message(own + "A", b"last")])
            assert await reader.bodies(1) == [b"last"]


async def test_nothing_is_left_behind(server: Aws, own: str, caplog: pytest.LogCaptureFixture) -> None:
    before = asyncio.all_tasks()
    with caplog.at_level(logging.INFO):
        async with Proxy("127.0.0.1", server.port) as proxy, through(proxy, wait=20) as bus:
            async with Reader(bus, [own + "A"], own) as reader:
                await bus.publish([message(own + "A", b"%d" % n) for n in range(30)])
                await reader.take(5)
                await proxy.cut()
            with anyio.move_on_after(0.05):
                async with Reader(bus, [own + "A"], own) as reader:
                    await reader.take(100)
    assert asyncio.all_tasks() <= before
    assert caplog.messages == []


async def test_a_cancelled_bus_ends(server: Aws, own: str) -> None:
    with anyio.fail_after(10), anyio.move_on_after(1) as scope:
        async with SqsBus.from_url(bus_url(server.port)) as bus, Reader(bus, [own + "A"], own) as reader:
            await reader.next()
    assert scope.cancelled_caught


async def test_what_goes_wrong_within_is_not_wrapped(server: Aws, own: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with SqsBus.from_url(bus_url(server.port)) as bus, Reader(bus, [own + "A"], own):
            raise ZeroDivisionError
