"""The NATS bus when the server, or what lies between, fails."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress

import anyio
import pytest
from nats import connect

from orchestrator.errors import BusUnavailable
from orchestrator.ports import Bus, BusMessage, NotTaken, Topic, Topology
from orchestrator.testing.bus_conformance import Reader, message
from orchestrator_adapters.nats import NatsBus

from ..servers.nats import Nats, nats
from ..servers.proxy import Proxy

PATIENCE_S = 30.0
BATCH = 20


@pytest.fixture(scope="module")
def server() -> Iterator[Nats]:
    """One that runs all the time."""
    with nats() as server:
        yield server


@pytest.fixture
def doomed() -> Iterator[Nats]:
    """One of the test's own, to be killed."""
    with nats() as server:
        yield server


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic that no other test uses."""
    return str(request.node.originalname)


def bus_of(server: Nats, options: str = "ack_wait=1", *, port: int = 0) -> NatsBus:
    """A bus by way of a proxy's `port`, if there is one."""
    return NatsBus.from_url(server.url_at(port or server.port, options))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another task brings about."""
    with anyio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 there is no event to wait for
            await anyio.sleep(0.01)


async def insist(act: Callable[[], Awaitable[object]]) -> None:
    """Do it again until the bus is there, as the engine does."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            with suppress(BusUnavailable):
                await act()
                return
            await anyio.sleep(0.05)


async def publish_all(bus: Bus, topic: str, bodies: Sequence[bytes]) -> None:
    """In batches, each again until the broker has it."""
    for start in range(0, len(bodies), BATCH):
        batch = [BusMessage(topic, body, id=body.decode()) for body in bodies[start : start + BATCH]]

        async def send(batch: Sequence[BusMessage] = batch) -> None:
            assert await bus.publish(batch) == [None] * len(batch)

        await insist(send)


async def take_into(found: list[bytes], bus: Bus, topic: str) -> None:
    """Take and settle for ever, subscribing anew when the bus was away."""
    while True:
        with suppress(BusUnavailable):
            async with bus.subscribe([Topic(topic, from_start=True)], "group", 50) as mine:
                async for batch in mine:
                    found.extend(each.body for each in batch)
                    await mine.ack(batch)
        await anyio.sleep(0.05)


async def traffic(bus: Bus, topic: str, harm: Callable[[], Awaitable[object]], times: int = 4) -> list[bytes]:
    """What is delivered of 2,000 messages while harm is done in between; all that was published is."""
    bodies = [b"%d" % n for n in range(2_000)]
    found: list[bytes] = []
    async with anyio.create_task_group() as taking:
        taking.start_soon(take_into, found, bus, topic)
        async with anyio.create_task_group() as publishing:
            publishing.start_soon(publish_all, bus, topic, bodies)
            for n in range(1, times + 1):
                await until(lambda n=n: len(set(found)) > n / (times + 1) * len(bodies))  # type: ignore[misc]
                await harm()
        await until(lambda: set(found) == set(bodies))
        taking.cancel_scope.cancel()
    return found


async def test_nothing_is_lost_when_the_server_is_killed_under_load(doomed: Nats, topic: str) -> None:
    async def restart() -> None:
        doomed.kill()
        await anyio.sleep(0.1)
        doomed.start()

    async with bus_of(doomed) as bus:
        await traffic(bus, topic, restart)


async def test_nothing_is_lost_when_the_connection_is_cut_under_load(server: Nats, topic: str) -> None:
    async with Proxy("127.0.0.1", server.port) as proxy, bus_of(server, port=proxy.port) as bus:
        await traffic(bus, topic, proxy.cut, times=10)


async def test_nothing_is_lost_when_the_connection_goes_silent_under_load(server: Nats, topic: str) -> None:
    async def silence() -> None:
        proxy.stall()
        await anyio.sleep(0.2)
        proxy.flow()

    async with Proxy("127.0.0.1", server.port) as proxy, bus_of(server, "ack_wait=1&timeout=1", port=proxy.port) as bus:
        await traffic(bus, topic, silence, times=1)


async def test_what_was_sent_before_the_server_was_killed_is_there_after_it(doomed: Nats, topic: str) -> None:
    bodies = [b"%d" % n for n in range(300)]
    async with bus_of(doomed) as bus:
        await publish_all(bus, topic, bodies)
        doomed.kill()
        doomed.start()
        await insist(bus.healthy)
        async with Reader(bus, [Topic(topic, from_start=True)], "group", 300) as reader:
            assert await reader.bodies(300) == bodies


async def test_a_lost_connection_leaves_what_is_held_with_its_holder(server: Nats, topic: str) -> None:
    async with (
        Proxy("127.0.0.1", server.port) as proxy,
        bus_of(server, "ack_wait=2", port=proxy.port) as bus,
        Reader(bus, [topic], "group") as reader,
    ):
        await bus.publish([message(topic, b"held"), message(topic, b"settled meanwhile")])
        held, settled = await reader.take(2)
        proxy.refuse()
        await proxy.cut()
        await reader.ack(settled)
        proxy.accept()
        await insist(lambda: bus.publish([message(topic, b"new")]))
        assert await reader.bodies(1) == [b"new"]
        assert await reader.silent(4.5)  # more than twice ack_wait
        await reader.ack(held)
        with anyio.fail_after(PATIENCE_S):
            while await reader.subscription.lag():  # noqa: ASYNC110 only the server knows when
                await anyio.sleep(0.01)


async def test_a_server_that_is_not_there_is_unavailable_within_the_time_limit(topic: str) -> None:
    with nats(is_started=False) as server:
        async with bus_of(server, "ack_wait=1&timeout=1") as bus:
            for act in (
                lambda: bus.publish([message(topic)]),
                lambda: Reader(bus, [topic], "group").__aenter__(),
                lambda: bus.survey(Topology("group")),
                lambda: bus.set_up(Topology("group")),
            ):
                with anyio.fail_after(5), pytest.raises(BusUnavailable, match=f"127.0.0.1:{server.port}: not reached"):
                    await act()
            assert not await bus.healthy()
            server.start()
            await insist(lambda: bus.publish([message(topic)]))
            assert await bus.healthy()


async def test_a_reader_is_told_when_the_server_goes_away_and_reads_on_when_it_is_back(
    doomed: Nats, topic: str
) -> None:
    async with bus_of(doomed, "timeout=2") as bus, Reader(bus, [topic], "group") as reader:
        doomed.kill()
        with anyio.fail_after(5), pytest.raises(BusUnavailable):
            await anext(reader.subscription)
        doomed.start()
        await insist(lambda: bus.publish([message(topic, b"1")]))
        assert await reader.bodies(1) == [b"1"]


async def test_a_silent_connection_is_noticed(server: Nats, topic: str) -> None:
    async with (
        Proxy("127.0.0.1", server.port) as proxy,
        bus_of(server, "ack_wait=1&timeout=2", port=proxy.port) as bus,
        Reader(bus, [topic], "group") as reader,
    ):
        assert await bus.publish([message(topic, b"1")]) == [None]
        assert await reader.bodies(1) == [b"1"]
        proxy.stall()
        with anyio.fail_after(5), pytest.raises(BusUnavailable, match="no answer within 2 s"):
            await bus.publish([message(topic, b"x" * 500_000) for _ in range(40)])  # more than the buffers hold
        assert not await bus.healthy()
        with anyio.fail_after(20), pytest.raises(BusUnavailable):
            await anext(reader.subscription)
        proxy.flow()
        await insist(lambda: bus.publish([message(topic, b"2")]))
        while await reader.bodies(1) != [b"2"]:
            pass


async def test_what_a_dead_member_held_goes_to_another(server: Nats, topic: str) -> None:
    async with (
        Proxy("127.0.0.1", server.port) as proxy,
        bus_of(server, port=proxy.port) as dying,
        bus_of(server) as bus,
        Reader(dying, [topic], "group") as dead,
    ):
        await bus.publish([message(topic, b"1")])
        await dead.next()
        proxy.stall()
        async with Reader(bus, [topic], "group") as heir:
            assert await heir.bodies(1) == [b"1"]


async def test_a_member_that_is_stuck_holds_up_no_other(server: Nats, topic: str) -> None:
    async with bus_of(server) as bus, Reader(bus, [topic], "group", 5) as stuck:
        await bus.publish([message(topic, b"%d" % n) for n in range(5)])
        await stuck.take(5)
        async with Reader(bus, [topic], "group", 5) as other:
            await bus.publish([message(topic, b"%d" % n) for n in range(5, 20)])
            assert await other.bodies(15) == [b"%d" % n for n in range(5, 20)]


async def test_a_message_as_large_as_the_server_takes_and_one_byte_more(server: Nats, topic: str) -> None:
    def sized(size: int) -> BusMessage:
        fields = {"headers": {"ce_type": "é"}, "id": "42"}
        overhead = len(f"NATS/1.0\r\nce_type: é\r\nNats-Msg-Id: 42 {topic}\r\n\r\n".encode())
        return message(topic, b"x" * (size - overhead), **fields)

    async with Proxy("127.0.0.1", server.port) as proxy, bus_of(server, port=proxy.port) as bus:
        too_large = 1024 * 1024 + 1
        taken, refused = await bus.publish([sized(too_large - 1), sized(too_large)])
        assert taken is None
        assert isinstance(refused, NotTaken) and refused.is_final and "max_payload is 1,048,576" in refused.reason
        await bus.publish([message(topic)])
        assert proxy.connections == 1


async def test_a_backlog_of_large_messages_comes_in_portions() -> None:
    with nats("max_pending: 16MB") as server:  # who is further behind is cut off
        async with bus_of(server, "ack_wait=300") as bus:
            for _ in range(20):
                assert await bus.publish([message("Large", b"x" * 1_000_000)] * 2) == [None, None]
            async with Reader(bus, [Topic("Large", from_start=True)], "group", 100) as reader:
                await reader.next()
                time.sleep(0.5)  # noqa: ASYNC251 the whole process is busy
                assert len(await reader.take(39)) == 39


async def test_what_a_leaver_held_is_sent_again_at_once(server: Nats, topic: str) -> None:
    async with bus_of(server, "ack_wait=300") as bus:
        async with Reader(bus, [topic], "group", 1) as reader:
            await bus.publish([message(topic, b"held"), message(topic, b"on its way")])
            await reader.take(1)
        async with Reader(bus, [topic], "group") as reader:
            assert sorted(await reader.bodies(2)) == [b"held", b"on its way"]


async def test_a_stream_that_was_removed_is_made_again(server: Nats, topic: str) -> None:
    async with (
        await connect(server.url) as client,
        bus_of(server, "ack_wait=1&stream=removed") as bus,
        Reader(bus, [topic], "group") as reader,
    ):
        await bus.publish([message(topic, b"1")])
        assert await reader.bodies(1) == [b"1"]
        await client.jetstream().delete_stream(f"removed={topic}")
        with anyio.fail_after(10), pytest.raises(BusUnavailable, match="group="):
            await anext(reader.subscription)
        assert await bus.publish([message(topic, b"2", expected=True)]) == [None]
        async with Reader(bus, [Topic(topic, from_start=True)], "group") as anew:
            assert await anew.bodies(1) == [b"2"]


async def test_nothing_is_left_behind(server: Nats, topic: str) -> None:
    before = asyncio.all_tasks()
    async with Proxy("127.0.0.1", server.port) as proxy:
        async with bus_of(server, port=proxy.port) as bus, Reader(bus, [topic], "group") as reader:
            await bus.publish([message(topic)] * 3)
            await reader.take(2)
        await until(lambda: proxy.connections == 0)
        async with bus_of(server, "timeout=2", port=proxy.port) as bus, Reader(bus, [topic], "group"):
            proxy.stall()
            with pytest.raises(BusUnavailable):
                await bus.publish([message(topic, b"x" * 500_000) for _ in range(40)])
        proxy.flow()
    await until(lambda: asyncio.all_tasks() == before)
    gc.collect()  # what is left open warns


async def test_leaving_while_it_still_tries_to_connect(topic: str) -> None:
    before = asyncio.all_tasks()
    with nats(is_started=False) as server:
        with anyio.fail_after(5):
            async with bus_of(server) as bus:
                with anyio.move_on_after(0.1):
                    await bus.publish([message(topic)])
    await until(lambda: asyncio.all_tasks() == before)


async def test_all_who_wait_for_a_connection_share_one(server: Nats, topic: str) -> None:
    async with Proxy("127.0.0.1", server.port) as proxy, bus_of(server, port=proxy.port) as bus:
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(bus.publish, [message(topic)])
            tasks.start_soon(bus.healthy)
        assert proxy.connections == 1


async def test_what_the_body_raises_leaves_the_bus_as_it_is(server: Nats, topic: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with bus_of(server) as bus, bus.subscribe([Topic(topic)], "group", 1):
            raise ZeroDivisionError


INFO = b'INFO {"server_id":"x","version":"2.10.0","proto":1,"headers":true,"max_payload":1048576}\r\n'


async def test_what_the_server_said_is_not_hidden_by_its_hanging_up() -> None:
    """The reset of a connection can overtake the error that went before."""
    visits = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        writer.write(INFO)
        await writer.drain()
        await reader.readline()
        if visits == 1:
            writer.write(b"-ERR 'Authorization Violation'\r\n")
            await writer.drain()
        else:
            own = writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing it resets it
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server, NatsBus.from_url(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}?timeout=1") as bus:
        with pytest.raises(BusUnavailable, match="not reached within 1 s: 'Authorization Violation'"):
            await bus.publish([message("Topic")])
    assert visits > 1
