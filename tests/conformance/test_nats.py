"""The NATS bus keeps the contract, against a real server; and what is NATS' own: URLs, streams, consumers, TLS."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from nats import connect
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, RetentionPolicy, StorageType

from orchestrator.errors import BusUnavailable, ConfigError
from orchestrator.ports import Topic, Topology
from orchestrator.testing.bus_conformance import BusConformance, Reader, message
from orchestrator.urls import open_bus
from orchestrator_adapters.nats import NatsBus

from ..servers.nats import Nats, nats
from ..servers.process import folder, missing

TOO_LARGE = 2_000_000
SECRET = "s3cret/#"
SECRET_IN_URL = "s3cret%2F%23"


@pytest.fixture(scope="module")
def server() -> Iterator[Nats]:
    with nats() as server:
        yield server


class TestNatsBus(BusConformance):
    pause_s = 0.1
    keeps_log = True
    too_large = TOO_LARGE
    drops_twice = True
    hold_s = 4.5

    @pytest.fixture(autouse=True)
    def _server(self, server: Nats) -> None:
        self.server = server

    def open_bus(self) -> NatsBus:
        return NatsBus.from_url(f"{self.server.url}?ack_wait=2")


@asynccontextmanager
async def jetstream(server: Nats) -> AsyncIterator[JetStreamContext]:
    """What somebody else has, who knows nothing of us."""
    async with await connect(server.url) as client:
        yield client.jetstream()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic that no other test uses."""
    return str(request.node.originalname)


async def test_a_message_sent_again_is_taken_and_comes_once(server: Nats, topic: str) -> None:
    async with NatsBus.from_url(server.url) as bus, Reader(bus, [topic], "group") as reader:
        for _ in range(2):
            assert await bus.publish([message(topic, b"1", id="id"), message(topic, b"2")]) == [None, None]
        assert await reader.bodies(3) == [b"1", b"2", b"2"]
        assert await reader.silent(0.1)


@pytest.mark.parametrize("other", ["id#2", "ID", " id", "id\n", "ïd"])
async def test_messages_of_different_ids_all_come(server: Nats, topic: str, other: str) -> None:
    async with NatsBus.from_url(server.url) as bus, Reader(bus, [topic], f"group {other}") as reader:
        await bus.publish([message(topic, id="id" + ascii(other)), message(topic, b"other", id=other + ascii(other))])
        assert len(await reader.take(2)) == 2


async def test_one_id_on_two_topics_of_a_stream_is_two_messages(server: Nats, topic: str) -> None:
    async with jetstream(server) as somebody, NatsBus.from_url(server.url) as bus:
        await somebody.add_stream(name=topic, subjects=[f"{topic}.*"])
        async with Reader(bus, [f"{topic}.a", f"{topic}.b"], "group") as reader:
            await bus.publish([message(f"{topic}.a", b"a", id="1"), message(f"{topic}.b", b"b", id="1")])
            assert sorted(await reader.bodies(2)) == [b"a", b"b"]


async def test_a_stream_that_somebody_made_is_used_as_it_is(server: Nats, topic: str) -> None:
    name = f"{topic}-own"
    async with jetstream(server) as somebody, NatsBus.from_url(server.url) as bus:
        await somebody.add_stream(name=name, subjects=[f"{topic}.>"], storage=StorageType.MEMORY, max_msgs=7)
        async with Reader(bus, [f"{topic}.a"], "group") as reader:
            await somebody.publish(f"{topic}.a", b"{}")  # plain JSON without a header
            delivered = await reader.next()
            assert (delivered.topic, delivered.body, delivered.headers) == (f"{topic}.a", b"{}", {})
            assert await bus.publish([message(f"{topic}.a")]) == [None]
        config = (await somebody.stream_info(name)).config
        assert (config.subjects, config.max_msgs) == ([f"{topic}.>"], 7)
        places = await bus.survey(Topology("group", (Topic(f"{topic}.a"),), (f"{topic}.b",)))
        assert [(place.what, place.name, place.exists) for place in places] == [
            ("stream", name, True),
            ("consumer", f"group={topic}%2Ea", True),
        ]
        assert "in memory" in places[0].note and "max_msgs" in places[0].note


async def test_a_consumer_that_somebody_made_is_used_as_it_is(server: Nats, topic: str) -> None:
    async with jetstream(server) as somebody, NatsBus.from_url(server.url) as bus:
        await somebody.add_stream(name=topic, subjects=[topic])
        config = ConsumerConfig(durable_name=f"group={topic}", ack_wait=2, max_deliver=5, description="mine")
        await somebody.add_consumer(topic, config)
        await somebody.publish(topic, b"before")
        async with Reader(bus, [topic], "group") as reader:
            held = await reader.next()
            assert held.body == b"before"
            assert await reader.silent(4.5)  # its ack_wait counts, not that of the URL
        found = await somebody.consumer_info(topic, f"group={topic}")
        assert (found.config.ack_wait, found.config.description) == (2, "mine")
        assert "5 times" in (await bus.survey(Topology("group", (Topic(topic),))))[1].note


async def test_a_consumer_that_cannot_be_used_says_so(server: Nats, topic: str) -> None:
    async with jetstream(server) as somebody, NatsBus.from_url(server.url) as bus:
        await somebody.add_stream(name=topic, subjects=[topic])
        await somebody.add_consumer(topic, ConsumerConfig(durable_name=f"group={topic}", deliver_subject="elsewhere"))
        async with Reader(bus, [topic], "group") as reader:
            with anyio.fail_after(10), pytest.raises(BusUnavailable, match="push based"):
                await anext(reader.subscription)
        assert "push consumer" in (await bus.survey(Topology("group", (Topic(topic),))))[1].note


async def test_a_work_queue_that_somebody_made(server: Nats, topic: str) -> None:
    async with jetstream(server) as somebody, NatsBus.from_url(server.url) as bus:
        await somebody.add_stream(name=topic, subjects=[topic], retention=RetentionPolicy.WORK_QUEUE)
        async with Reader(bus, [topic], "group") as reader:
            await bus.publish([message(topic, b"1")])
            assert await reader.bodies(1) == [b"1"]


async def test_a_message_that_the_stream_refuses(server: Nats, topic: str) -> None:
    async with jetstream(server) as somebody, NatsBus.from_url(server.url) as bus:
        await somebody.add_stream(name=topic, subjects=[topic], max_msg_size=100)
        taken, refused = await bus.publish([message(topic), message(topic, b"x" * 200)])
        assert taken is None
        assert refused is not None and refused.is_final and "size" in refused.reason


async def test_a_topic_that_no_subject_can_be_made_of_holds_up_no_other(server: Nats, topic: str) -> None:
    async with NatsBus.from_url(server.url) as bus:
        too_long, taken = await bus.publish([message("x" * 5_000), message(topic)])
        assert too_long is not None and too_long.is_final and "subject" in too_long.reason
        assert taken is None
        assert (await bus.publish([message("\ud800")]))[0] is not None
        with pytest.raises(ConfigError, match="subject"):
            await bus.set_up(Topology("group", (Topic("x" * 5_000),)))


@pytest.mark.parametrize("wrong", [{"headers": {"na me": ""}}, {"headers": {"name": "\ud800"}}, {"id": "\ud800"}])
async def test_a_header_that_no_message_can_have_holds_up_no_other(server: Nats, topic: str, wrong: Any) -> None:
    async with NatsBus.from_url(server.url) as bus:
        taken, refused, also_taken = await bus.publish([message(topic), message(topic, **wrong), message(topic)])
        assert (taken, also_taken) == (None, None)
        assert refused is not None and refused.is_final


async def test_the_longest_topic(server: Nats) -> None:
    longest = "x" * 2_000
    async with NatsBus.from_url(server.url) as bus, Reader(bus, [longest], "g" * 300) as reader:
        assert await bus.publish([message(longest, id="1")]) == [None]
        assert (await reader.next()).topic == longest


async def test_a_stream_that_cannot_be_made_holds_up_no_other() -> None:
    with nats("accounts: { A: { jetstream: { max_streams: 1 }, users: [{ user: a, password: a }] } }") as server:
        async with NatsBus.from_url(f"nats://a:a@127.0.0.1:{server.port}") as bus:
            assert await bus.publish([message("First")]) == [None]
            refused, taken = await bus.publish([message("Second"), message("First")])
            assert refused is not None and not refused.is_final and "streams" in refused.reason
            assert taken is None


async def test_processes_that_make_the_same_things_at_once_lose_none(server: Nats, topic: str) -> None:
    def topology(n: int) -> Topology:
        return Topology("group", (Topic(f"{topic}.shared"), Topic(f"{topic}.{n}")), (f"{topic}.{(n + 1) % 8}",))

    buses = [NatsBus.from_url(f"{server.url}?replicas=1&keep_days={n + 1}") for n in range(8)]
    async with anyio.create_task_group() as tasks:

        async def set_up(n: int) -> None:
            async with buses[n] as bus:
                await bus.set_up(topology(n))

        for n in range(8):
            tasks.start_soon(set_up, n)
    async with NatsBus.from_url(server.url) as bus:
        for n in range(8):
            assert all(place.exists for place in await bus.survey(topology(n)))
        async with Reader(bus, [f"{topic}.{n}" for n in range(8)], "group") as reader, jetstream(server) as somebody:
            for n in range(8):
                await somebody.publish(f"{topic}.{n}", b"%d" % n)
            assert sorted(await reader.bodies(8)) == [b"%d" % n for n in range(8)]


async def test_the_options_of_streams_that_are_made(server: Nats, topic: str) -> None:
    async with NatsBus.from_url(f"{server.url}?stream=mine&keep_days=2.5") as bus, jetstream(server) as somebody:
        await bus.publish([message(f"{topic}.a")])
        config = (await somebody.stream_info(f"mine={topic}%2Ea")).config
        assert config.subjects == [f"{topic}.a"]
        assert (config.storage, config.max_age, config.num_replicas) == ("file", 2.5 * 86_400, 1)


async def test_a_survey_warns_of_an_age_only_where_the_settings_ask_for_more(server: Nats, topic: str) -> None:
    needed = Topology("group", sends=(topic,))
    async with NatsBus.from_url(f"{server.url}?keep_days=2.5") as bus:
        await bus.set_up(needed)
        assert [place.note for place in await bus.survey(needed)] == [""]
    async with NatsBus.from_url(server.url) as bus:
        (place,) = await bus.survey(needed)
        assert place.note == "loses what is older than 2.5 days, taken or not, sooner than keep_days=30"
    async with NatsBus.from_url(f"{server.url}?keep_days=1") as bus:
        assert [place.note for place in await bus.survey(needed)] == [""]


async def test_a_server_without_jetstream_says_so() -> None:
    with nats(jetstream=False) as server:
        async with NatsBus.from_url(f"{server.url}?timeout=2") as bus:
            with pytest.raises(BusUnavailable, match="JetStream"):
                await bus.publish([message("Topic")])
            assert not await bus.healthy()


@pytest.mark.parametrize(
    ("setting", "who"),
    [
        (f'authorization {{ user: u, password: "{SECRET}" }}', f"u:{SECRET_IN_URL}"),
        (f'authorization {{ token: "{SECRET}" }}', SECRET_IN_URL),
    ],
)
async def test_a_password_or_token_by_url(setting: str, who: str) -> None:
    with nats(setting) as server:
        async with NatsBus.from_url(f"nats://{who}@127.0.0.1:{server.port}") as bus:
            assert await bus.publish([message("Topic")]) == [None]
        async with NatsBus.from_url(f"nats://{who}wrong@127.0.0.1:{server.port}?timeout=1") as bus:
            with pytest.raises(BusUnavailable, match="Authorization Violation") as told:
                await bus.publish([message("Topic")])
            assert "s3cret" not in str(told.value)


@pytest.fixture(scope="module")
def certificate() -> Iterator[Path]:
    """A folder with one that is its own authority."""
    openssl = shutil.which("openssl")
    if openssl is None:
        missing("openssl", "apt-get install openssl")
    with folder() as home:
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
        keys = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", home / "key.pem"]
        command = [openssl, "req", "-x509", "-days", "2", *names, *keys, "-out", home / "cert.pem"]
        subprocess.run(command, check=True, capture_output=True)
        yield home


async def test_tls_by_url(certificate: Path) -> None:
    files = f'cert_file: "{certificate}/cert.pem", key_file: "{certificate}/key.pem"'
    with nats(f'tls {{ {files}, ca_file: "{certificate}/cert.pem", verify: true }}') as server:
        url = f"{server.url}?timeout=2&tls=true&ca={certificate}/cert.pem"
        async with NatsBus.from_url(f"{url}&cert={certificate}/cert.pem&key={certificate}/key.pem") as bus:
            assert await bus.publish([message("Topic")]) == [None]
        for options in (
            "",
            "?tls=true",
            f"?tls=true&ca={certificate}/cert.pem",
        ):  # not trusted; without our certificate
            async with NatsBus.from_url(f"{server.url}{options}{'&' if options else '?'}timeout=1") as bus:
                with pytest.raises(BusUnavailable):
                    await bus.publish([message("Topic")])


@pytest.mark.parametrize("who", [f"u:{SECRET_IN_URL}@", f"{SECRET_IN_URL}@", ""])
async def test_a_server_that_does_without_tls_is_told_nothing(who: str) -> None:
    heard = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.10.0","max_payload":1000,"auth_required":true}\r\n')
        while chunk := await reader.read(1_000):
            heard.extend(chunk)
            if b"PING" in chunk:
                writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with NatsBus.from_url(f"nats://{who}127.0.0.1:{port}?tls=true&timeout=0.5") as bus:
            with pytest.raises(BusUnavailable, match="no TLS"):
                await bus.publish([message("Topic", b"for your eyes only")])
    assert b"s3cret" not in heard and b"eyes" not in heard


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nats://", "the form is"),
        ("nats:", "the form is"),
        ("nats://host:port", "the form is"),
        ("nats://host:99999", "the form is"),
        ("nats://[::1", "the form is"),
        ("nats://a,,b", "the form is"),
        ("nats://host/stream", "the form is"),
        ("nats://u:s3cret#1@host", "the form is"),
        ("nats://u:s3cret/1@host", "the form is"),
        ("nats://u:s3cret?1@host", "the form is"),
        ("nats://host?streams=X", "there is no option streams. Known are stream:"),
        ("nats://host?replicas=three", "replicas=three: a number from 1 to 5"),
        ("nats://host?replicas=1.5", "replicas=1.5"),
        ("nats://host?replicas=7", "replicas=7"),
        ("nats://host?timeout=0", "timeout=0"),
        ("nats://host?ack_wait=nan", "ack_wait=nan"),
        ("nats://host?tls=yes", "tls=yes: true or false"),
        ("nats://host?ca=/nowhere", "add tls=true"),
        ("nats://host?tls=true&ca=/nowhere", "No such file"),
        ("nats://host?creds=/nowhere", "creds"),
    ],
)
def test_a_url_that_cannot_be_right_says_what_to_do(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as told:
        NatsBus.from_url(url.replace("://", "://u:s3cret@", 1) if "@" not in url else url)
    assert "s3cret" not in str(told.value)


async def test_any_of_several_servers_will_do(server: Nats) -> None:
    with nats(is_started=False) as absent:
        async with NatsBus.from_url(f"nats://127.0.0.1:{absent.port},127.0.0.1:{server.port}") as bus:
            assert await bus.healthy()


def test_without_its_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "nats" or "orchestrator_adapters.nats" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nats", None)
    with pytest.raises(ConfigError, match=r"pip install 'saga-orchestrator\[nats\]'"):
        open_bus("nats://localhost")
