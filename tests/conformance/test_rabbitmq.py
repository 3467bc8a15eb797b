"""RabbitMQ keeps the contract, and what its URL, its names and its neighbours ask of it besides."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aio_pika
import pytest

from orchestrator.errors import BusUnavailable, ConfigError
from orchestrator.ports import NotTaken, Place, Topic, Topology
from orchestrator.testing.bus_conformance import BusConformance, Reader, message
from orchestrator.urls import open_bus
from orchestrator_adapters.rabbitmq import RabbitBus
from orchestrator_adapters.rabbitmq.names import MAX_BYTES, queue_name, routing_key
from tests.servers.process import free_port, missing
from tests.servers.rabbitmq import RabbitMQ, rabbitmq

pytestmark = pytest.mark.anyio
MAX_SIZE = 1_000_000


class Tls(NamedTuple):
    port: int
    ca: Path
    certificate: Path
    key: Path


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """An authority, and a certificate of it for both sides: Erlang takes none that is signed by itself."""
    if shutil.which("openssl") is None:
        missing("openssl", "apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")
    tls = Tls(free_port(), folder / "ca.pem", folder / "certificate.pem", folder / "key.pem")
    create = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    authority = [*create, "-subj", "/CN=authority", "-keyout", folder / "ca.key", "-out", tls.ca]
    ours = [*create, "-subj", "/CN=test", "-keyout", tls.key, "-out", tls.certificate]
    ours += ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"]
    for command in (authority, [*ours, "-CA", tls.ca, "-CAkey", folder / "ca.key"]):
        subprocess.run(command, check=True, capture_output=True)
    return tls


@pytest.fixture(scope="module")
def server(tls: Tls) -> Generator[RabbitMQ]:
    with rabbitmq(
        f"max_message_size = {MAX_SIZE}",
        f"listeners.ssl.1 = 127.0.0.1:{tls.port}",
        f"ssl_options.certfile = {tls.certificate}",
        f"ssl_options.keyfile = {tls.key}",
        f"ssl_options.cacertfile = {tls.ca}",
        "ssl_options.verify = verify_peer",
        "ssl_options.fail_if_no_peer_cert = true",
    ) as server:
        yield server


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class TestRabbitBus(BusConformance):
    """`hold_s` is 0: RabbitMQ 3.10 cannot be told to be patient, and is so for half an hour by itself."""

    too_large = MAX_SIZE + 1

    @pytest.fixture(autouse=True)
    def broker(self, server: RabbitMQ) -> None:
        self.url = server.url

    def open_bus(self) -> RabbitBus:
        return RabbitBus.from_url(self.url)


@pytest.fixture
async def bus(server: RabbitMQ) -> AsyncGenerator[RabbitBus]:
    async with RabbitBus.from_url(server.url) as bus:
        yield bus


@pytest.fixture
def own(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@asynccontextmanager
async def native(server: RabbitMQ) -> AsyncGenerator[aio_pika.abc.AbstractChannel]:
    """A channel of a client that knows nothing of us."""
    connection = await aio_pika.connect(server.url)
    async with connection:
        yield await connection.channel()


async def test_a_plain_message_of_another_client_is_delivered(server: RabbitMQ, bus: RabbitBus, own: str) -> None:
    async with Reader(bus, [own + ".#"], own) as reader, native(server) as channel:
        exchange = await channel.get_exchange("orchestrator")
        headers = {"Attempt": 3, "raw": bytearray(b"\xff"), "deep": {"a": 1}, "ok": True, "none": None}
        plain = aio_pika.Message(b'{"a":1}', headers=headers, content_type="application/json")
        await exchange.publish(plain, own + ".%23")
        await channel.default_exchange.publish(plain, f"{own}@orchestrator/{own}.#")
        for _ in range(2):
            delivered = await reader.next()
            assert (delivered.topic, delivered.body) == (own + ".#", b'{"a":1}')
            assert delivered.headers == {
                "attempt": "3",
                "raw": "\N{REPLACEMENT CHARACTER}",
                "ok": "True",
                "content-type": "application/json",
            }


async def test_another_client_finds_what_we_send(server: RabbitMQ, bus: RabbitBus, own: str) -> None:
    async with native(server) as channel:
        exchange = await channel.declare_exchange("orchestrator", "topic", durable=True)
        queue = await channel.declare_queue(own, auto_delete=True)
        await queue.bind(exchange, own + ".*")
        sent = message(
            own + ".A", b"{}", id="42", headers={"Content-Type": "application/json", "ce": "1"}, expected=True
        )
        assert await bus.publish([sent]) == [None]
        found = await queue.get()
        assert (found.routing_key, found.body, found.message_id) == (own + ".A", b"{}", "42")
        assert (found.content_type, found.headers) == ("application/json", {"ce": "1"})
        assert found.delivery_mode == aio_pika.DeliveryMode.PERSISTENT


async def test_a_classic_queue_that_people_made_is_used_and_noted(server: RabbitMQ, bus: RabbitBus, own: str) -> None:
    name = f"{own}@orchestrator/A"
    async with native(server) as channel:
        queue = await channel.declare_queue(name, durable=True)
        await queue.bind("orchestrator", "A")
    topology = Topology(own, (Topic("A"), Topic("B")))
    exchange, classic, missing = await bus.survey(topology)
    assert exchange == Place("exchange", "orchestrator", True)
    assert (classic.name, classic.exists) == (name, True) and "classic queue" in classic.note
    assert missing == Place("queue", f"{own}@orchestrator/B", False)
    async with Reader(bus, ["A"], own) as reader:
        assert await bus.publish([message("A", own.encode(), expected=True)]) == [None]
        assert await reader.bodies(1) == [own.encode()]


async def test_what_people_made_otherwise_is_noted_in_the_words_of_the_broker(server: RabbitMQ, own: str) -> None:
    async with native(server) as channel:
        await channel.declare_exchange(own, "direct", durable=True)
        await channel.declare_queue(f"{own}@{own}/A", durable=False)
    async with RabbitBus.from_url(f"{server.url}?exchange={own}") as bus:
        exchange, queue = await bus.survey(Topology(own, (Topic("A"),)))
        assert "received 'topic' but current is 'direct'" in exchange.note
        assert "inequivalent arg 'durable'" in queue.note
        async with Reader(bus, ["A"], own) as reader:
            assert await bus.publish([message("A", b"a", expected=True)]) == [None]
            assert await reader.bodies(1) == [b"a"]


async def test_two_exchanges_share_nothing(server: RabbitMQ, bus: RabbitBus, own: str) -> None:
    async with (
        RabbitBus.from_url(f"{server.url}?exchange=staging") as staging,
        Reader(bus, [own], own) as reader,
        Reader(staging, [own], own) as staged,
    ):
        await staging.publish([message(own, b"staging")])
        await bus.publish([message(own, b"live")])
        assert await reader.bodies(1) == [b"live"]
        assert await staged.bodies(1) == [b"staging"]


async def test_a_member_is_not_handed_what_only_another_release_asks_for(bus: RabbitBus, own: str) -> None:
    topics = [own + ".A", own + ".B"]
    async with Reader(bus, topics, own):
        pass
    async with Reader(bus, topics[:1], own) as older:
        await bus.publish([message(topics[1], b"new"), message(topics[0], b"old")])
        assert await older.bodies(1) == [b"old"]
        assert await older.silent(0.05)
    async with Reader(bus, topics, own) as newer:
        assert await newer.bodies(1) == [b"new"]


async def test_a_busy_topic_holds_up_no_other(bus: RabbitBus, own: str) -> None:
    async with Reader(bus, [own + ".busy", own + ".other"], own, prefetch=4) as reader:
        await bus.publish([message(own + ".busy", b"busy") for _ in range(10)] + [message(own + ".other", b"other")])
        assert b"other" in {each.body for each in await reader.take(3)}


async def test_more_topics_than_prefetch(bus: RabbitBus, own: str) -> None:
    topics = [f"{own}.{n}" for n in range(5)]
    async with Reader(bus, topics, own, prefetch=2) as reader:
        await bus.publish([message(topic, topic.encode()) for topic in topics])
        held = await reader.take(2)
        assert await reader.silent(0.05)
        await reader.ack(*held)
        found = await reader.bodies(3)
        assert sorted([each.body for each in held] + found) == [topic.encode() for topic in topics]


async def test_messages_of_one_id_are_told_apart(bus: RabbitBus, own: str) -> None:
    async with Reader(bus, [own + ".A"], own) as reader:
        sent = [message(own + topic, b"", id="same", expected=True) for topic in (".none", ".A", ".none")]
        told = await bus.publish(sent)
        assert [isinstance(each, NotTaken) for each in told] == [True, False, True]
        assert len(await reader.bodies(1)) == 1


async def test_an_id_may_be_of_any_length(bus: RabbitBus, own: str) -> None:
    async with Reader(bus, [own], own) as reader:
        assert await bus.publish([message(own, b"%d" % n, id="é" * 300 + str(n)) for n in range(2)]) == [None, None]
        assert await reader.bodies(2) == [b"0", b"1"]


async def test_what_is_known_to_be_too_large_is_not_sent(bus: RabbitBus, own: str) -> None:
    async with Reader(bus, [own], own) as reader:
        sizes = (MAX_SIZE, MAX_SIZE + 1, 1, MAX_SIZE + 1)
        for _ in range(2):
            told = await bus.publish([message(own, b"x" * size) for size in sizes])
            assert told[::2] == [None, None]
            for each in told[1::2]:
                assert isinstance(each, NotTaken) and each.is_final and "1,000,000" in each.reason
        assert [len(body) for body in await reader.bodies(4)] == [MAX_SIZE, 1, MAX_SIZE, 1]


async def test_user_password_and_virtual_host_may_hold_anything(server: RabbitMQ, own: str) -> None:
    server.control(
        "eval",
        'rabbit_vhost:add(<<"a/b %c">>, <<"test">>),'
        'rabbit_auth_backend_internal:add_user(<<"a b">>, <<"p/#?@:%">>, <<"test">>),'
        "rabbit_auth_backend_internal:set_permissions("
        '<<"a b">>, <<"a/b %c">>, <<"">>, <<".*">>, <<".*">>, <<"test">>),'
        "rabbit_auth_backend_internal:set_permissions("
        '<<"guest">>, <<"a/b %c">>, <<".*">>, <<".*">>, <<".*">>, <<"test">>).',
    )
    vhost = f"127.0.0.1:{server.port}/a%2Fb%20%25c"
    topology = Topology(own, (Topic(own),))
    async with RabbitBus.from_url(f"amqp://a%20b:p%2F%23%3F%40%3A%25@{vhost}") as restricted:
        with pytest.raises(BusUnavailable, match="ACCESS_REFUSED"):
            await restricted.set_up(topology)
        async with RabbitBus.from_url(f"amqp://guest:guest@{vhost}") as admin:
            await admin.set_up(topology)
        async with Reader(restricted, [own], own) as reader:  # who may make nothing uses what is there
            assert await restricted.publish([message(own, b"1")]) == [None]
            assert await reader.bodies(1) == [b"1"]


async def test_both_sides_show_a_certificate(server: RabbitMQ, tls: Tls, own: str) -> None:
    url = f"amqps://guest:guest@127.0.0.1:{tls.port}?cert={tls.certificate}&key={tls.key}"
    async with RabbitBus.from_url(f"{url}&ca={tls.ca}") as bus, Reader(bus, [own], own) as reader:
        await bus.publish([message(own, b"x" * 300_000)])
        assert await reader.bodies(1) == [b"x" * 300_000]
    async with RabbitBus.from_url(url) as bus:
        with pytest.raises(BusUnavailable, match="certificate verify failed"):
            await bus.publish([message(own)])


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("amqp://", "HOST"),
        ("amqp:///vhost", "HOST"),
        ("amqp://me:sesame@host:port", "HOST[:PORT]"),
        ("amqp://me:sesame#1@host", "%23"),
        ("amqp://me:sesame@host/a/b", "%2F"),
        ("amqp://me:sesame@host/v#f", "%23"),
        ("amqp://me:sesame@host?prefetch=5", "exchange, timeout, heartbeat, ca, cert, key"),
        ("amqp://me:sesame@host?timeout=soon", "timeout"),
        ("amqp://me:sesame@host?timeout=0", "timeout"),
        ("amqp://me:sesame@host?heartbeat=0", "heartbeat"),
        ("amqp://me:sesame@host?exchange=caf%C3%A9", "letters, digits"),
        ("amqp://me:sesame@host?exchange", "exchange, timeout"),
        ("amqps://me:sesame@host?ca=/nowhere.pem", "No such file"),
        ("amqps://me:sesame@host?cert=/nowhere.pem", "No such file"),
    ],
)
def test_a_url_that_cannot_be_right_is_refused_with_the_remedy(url: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as error:
        RabbitBus.from_url(url)
    assert remedy in str(error.value) and "sesame" not in str(error.value)


def test_both_schemes_open_it() -> None:
    for scheme in ("amqp", "amqps"):
        assert isinstance(open_bus(f"{scheme}://localhost"), RabbitBus)


def test_a_missing_extra_is_an_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("orchestrator_adapters.rabbitmq")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiormq", None)
    with pytest.raises(ConfigError, match=r"needs aiormq, .* install 'saga-orchestrator\[amqp\]'"):
        open_bus("amqp://localhost")


async def test_a_bus_that_is_not_open_says_so() -> None:
    bus = RabbitBus.from_url("amqp://localhost")
    with pytest.raises(BusUnavailable, match="not open"):
        await bus.publish([message("A")])
    assert not await bus.healthy()


@pytest.mark.parametrize(
    ("topic", "key"),
    [
        ("OrderPlaced", "OrderPlaced"),
        ("user.registered", "user.registered"),
        ("*", "%2A"),
        ("#.a.*", "%23.a.%2A"),
        ("a*.b#c.50%", "a*.b#c.50%"),
        ("%2A", "%252A"),
        ("a.%", "a.%25"),
    ],
)
def test_a_routing_key_is_the_topic_without_wildcards(topic: str, key: str) -> None:
    assert routing_key(topic) == key


def test_no_two_queues_share_a_name() -> None:
    assert queue_name("shop", "orchestrator", "OrderPlaced") == "shop@orchestrator/OrderPlaced"
    parts = ("a", "a@b", "a/b", "a+2Fb", "b", "a@b/c", "é", "")
    names = [queue_name(group, exchange, topic) for group in parts for exchange in parts for topic in parts]
    assert len(set(names)) == len(names)
    long = [queue_name("shop", "x", "键" * 100 + end) for end in "ab"]
    assert len(set(long)) == 2 and all(len(name.encode()) <= MAX_BYTES for name in long)
