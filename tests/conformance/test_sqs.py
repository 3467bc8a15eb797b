"""The bus on SNS and SQS keeps the contract, and what is particular to it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import BusUnavailable, ConfigError
from orchestrator.ports import Delivered, NotTaken, Place, Topic, Topology
from orchestrator.testing.bus_conformance import BusConformance, Reader, message
from orchestrator_adapters.sqs import SqsBus
from orchestrator_adapters.sqs.messages import Entry, calls, entry, fifo_name, lanes

from ..servers.aws import REGION, Aws, aws, bus_url

VISIBILITY_S = 2
ACCOUNT = "123456789012"  # of the emulation


@pytest.fixture(scope="module")
def server() -> Iterator[Aws]:
    """One emulation for all tests of this file."""
    with aws() as running:
        yield running


@asynccontextmanager
async def native(server: Aws, service: str) -> AsyncGenerator[Any]:
    """A client as somebody else has it."""
    session = import_module("aiobotocore.session").AioSession()
    async with session.create_client(service, region_name=REGION, endpoint_url=server.endpoint) as client:
        yield client


def arn(service: str, name: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{name}"


def topic_arn(topic: str) -> str:
    return arn("sns", fifo_name(topic, 256))


class TestSqsBus(BusConformance):
    pause_s = 0.2
    too_large = 262_145
    drops_twice = True
    hold_s = VISIBILITY_S * 1.5

    @pytest.fixture(autouse=True)
    def _server(self, server: Aws) -> None:
        self.server = server

    def open_bus(self) -> SqsBus:
        return SqsBus.from_url(bus_url(self.server.port, visibility=VISIBILITY_S))

    async def test_what_others_send_has_the_topic_it_was_sent_to(self, bus: SqsBus, own: str) -> None:
        async with Reader(bus, [own + "A", own + "commands.b"], own) as reader, native(self.server, "sns") as sns:
            for topic in (own + "A", own + "commands.b"):
                unique = fifo_name(topic, 80)
                await sns.publish(
                    TopicArn=topic_arn(topic), Message='{"a":1}', MessageGroupId=unique, MessageDeduplicationId=unique
                )
            taken = await reader.take(2)
            assert {each.topic for each in taken} == {own + "A", own + "commands.b"}
            assert [(each.body, each.headers) for each in taken] == [(b'{"a":1}', {})] * 2

    async def test_attributes_that_others_set_are_headers(self, bus: SqsBus, own: str) -> None:
        async with Reader(bus, [own + "A"], own) as reader, native(self.server, "sns") as sns:
            await sns.publish(
                TopicArn=topic_arn(own + "A"),
                Message="plain",
                MessageGroupId="g",
                MessageDeduplicationId="d",
                MessageAttributes={"Tenant": {"DataType": "String", "StringValue": "é"}},
            )
            delivered = await reader.next()
            assert (delivered.body, delivered.headers) == (b"plain", {"tenant": "é"})

    async def test_what_was_put_into_the_queue_itself_has_no_topic_unless_there_is_but_one(
        self, bus: SqsBus, own: str
    ) -> None:
        async def put(reader: Reader) -> Delivered:
            queue = (await sqs.get_queue_url(QueueName=fifo_name(own, 80)))["QueueUrl"]
            unique = str(anyio.current_time())
            await sqs.send_message(QueueUrl=queue, MessageBody="[1]", MessageGroupId="g", MessageDeduplicationId=unique)
            delivered = await reader.next()
            await reader.ack(delivered)
            return delivered

        async with native(self.server, "sqs") as sqs:
            async with Reader(bus, [own + "A"], own) as reader:
                assert (await put(reader)).topic == own + "A"
            async with Reader(bus, [own + "A", own + "B"], own) as reader:
                delivered = await put(reader)
                assert (delivered.topic, delivered.body) == ("", b"[1]")

    async def test_a_subscription_that_somebody_made_raw_is_used(self, bus: SqsBus, own: str) -> None:
        await bus.set_up(Topology(own, sends=(own + "A", own + "B")))
        async with native(self.server, "sns") as sns, native(self.server, "sqs") as sqs:
            await sqs.create_queue(QueueName=fifo_name(own, 80), Attributes={"FifoQueue": "true"})
            for topic in (own + "A", own + "B"):
                await sns.subscribe(
                    TopicArn=topic_arn(topic),
                    Protocol="sqs",
                    Endpoint=arn("sqs", fifo_name(own, 80)),
                    Attributes={"RawMessageDelivery": "true"},
                )
        async with Reader(bus, [own + "A", own + "B"], own) as reader:
            headers = {"Tenant": "7", "empty": ""}
            await bus.publish([message(own + "A", b"a", headers=headers), message(own + "B", b"b")])
            taken = {each.topic: each for each in await reader.take(2)}
            assert (taken[own + "A"].body, taken[own + "A"].headers) == (b"a", {"tenant": "7", "empty": ""})
            assert taken[own + "B"].body == b"b"

    async def test_what_a_member_did_not_ask_for_is_left_to_one_who_does(self, bus: SqsBus, own: str) -> None:
        async with Reader(bus, [own + "A", own + "B"], own):
            pass
        async with Reader(bus, [own + "A"], own) as reader:
            await bus.publish([message(own + "B", b"b"), message(own + "A", b"a")])
            assert await reader.bodies(1) == [b"a"]
            assert await reader.silent(self.pause_s)
        async with Reader(bus, [own + "A", own + "B"], own) as reader:
            assert await reader.bodies(1) == [b"b"]

    async def test_many_and_odd_headers_are_carried(self, bus: SqsBus, own: str) -> None:
        headers = {f"h{n}": str(n) for n in range(30)} | {
            "": "no name",
            "with space": "x",
            "aws.reserved": "x",
            "a..b": "x",
            "orchestrator.topic": "not ours",
            "control": "a\0b\ufffe",
            "é": "é 键 🔑",
            "n" * 300: "long",
        }
        async with Reader(bus, [own + "A"], own) as reader:
            assert await bus.publish([message(own + "A", headers=headers)]) == [None]
            assert (await reader.next()).headers == headers

    async def test_the_same_id_to_the_same_topic_is_one_message(self, bus: SqsBus, own: str) -> None:
        ids = ["1", "1", "é" * 200, "é" * 200, "x" * 500 + "a", "x" * 500 + "b"]
        async with Reader(bus, [own + "A", own + "B"], own) as reader:
            sent = [message(own + topic, f"{topic}{id}".encode(), id=id) for topic in "AB" for id in ids]
            assert await bus.publish(sent) == [None] * 12
            assert sorted(await reader.bodies(8)) == sorted({each.body for each in sent})
            assert await reader.silent(self.pause_s)

    async def test_without_an_id_equal_messages_are_two(self, bus: SqsBus, own: str) -> None:
        async with Reader(bus, [own + "A"], own) as reader:
            await bus.publish([message(own + "A", b"same", key="k"), message(own + "A", b"same", key="k")])
            assert await reader.bodies(2) == [b"same", b"same"]

    @pytest.mark.parametrize("key", ["Saga/é 键", "k" * 400, "with space", "!~"])
    async def test_any_text_is_a_key(self, bus: SqsBus, own: str, key: str) -> None:
        async with Reader(bus, [own + "A"], own, 50) as reader:
            await bus.publish([message(own + "A", b"%d" % n, key=key) for n in range(35)])
            assert await reader.bodies(35) == [b"%d" % n for n in range(35)]

    async def test_more_than_one_call_may_carry(self, bus: SqsBus, own: str) -> None:
        async with Reader(bus, [own + "A"], own) as reader:
            sent = [message(own + "A", b"%d" % n + b"x" * 100_000, key="k") for n in range(7)]
            assert await bus.publish(sent) == [None] * 7
            assert [body[:1] for body in await reader.bodies(7)] == [b"%d" % n for n in range(7)]

    @pytest.mark.parametrize("body", [b"", b"\xff", b"a\0b", "\ufffe".encode()])
    async def test_what_is_no_text_is_refused_for_good(self, bus: SqsBus, own: str, body: bytes) -> None:
        told = await bus.publish([message(own + "A", body), message(own + "A", b"ok")])
        assert isinstance(told[0], NotTaken) and told[0].is_final
        assert told[1] is None

    async def test_headers_count_for_the_size(self, own: str) -> None:
        async with SqsBus.from_url(bus_url(self.server.port, max_bytes=2_000)) as bus:
            told = await bus.publish(
                [
                    message(own + "A", b"x" * 1_500),
                    message(own + "A", b"x" * 1_500, headers={"a": "x" * 500}),
                    message(own + "A", b"x" * 1_500, headers={"a b": "x" * 500}),
                ]
            )
        assert told[0] is None
        assert all(isinstance(each, NotTaken) and each.is_final and "2,000" in each.reason for each in told[1:])

    async def test_who_comes_is_known_at_once(self, bus: SqsBus, own: str) -> None:
        expected = [message(own + "A", b"1", expected=True)]
        assert isinstance((await bus.publish(expected))[0], NotTaken)
        async with Reader(bus, [own + "A"], own) as reader:
            assert await bus.publish(expected) == [None]
            assert await reader.bodies(1) == [b"1"]

    async def test_a_topic_that_was_removed_has_no_subscriber(self, bus: SqsBus, own: str) -> None:
        sent = [message(own + "A", b"1", expected=True), message(own + "A", b"2")]
        async with Reader(bus, [own + "A"], own):
            assert await bus.publish(sent) == [None, None]
        async with native(self.server, "sns") as sns:
            await sns.delete_topic(TopicArn=topic_arn(own + "A"))
        told = await bus.publish(sent)
        assert isinstance(told[0], NotTaken) and not told[0].is_final
        assert told[1] is None

    async def test_a_survey_tells_what_loses_messages(self, bus: SqsBus, own: str) -> None:
        dead, queue, topic = own.replace(".", "-") + "dead.fifo", fifo_name(own, 80), fifo_name(own + "A", 256)
        redrive = {"deadLetterTargetArn": arn("sqs", dead), "maxReceiveCount": "3"}
        settings = {"FifoQueue": "true", "MessageRetentionPeriod": "86400", "MaximumMessageSize": "262144"}
        async with native(self.server, "sns") as sns, native(self.server, "sqs") as sqs:
            await sqs.create_queue(QueueName=dead, Attributes={"FifoQueue": "true"})
            await sqs.create_queue(QueueName=queue, Attributes=settings | {"RedrivePolicy": json.dumps(redrive)})
            await sns.create_topic(Name=topic, Attributes={"FifoTopic": "true"})
            await sns.subscribe(
                TopicArn=topic_arn(own + "A"),
                Protocol="sqs",
                Endpoint=arn("sqs", queue),
                Attributes={"RawMessageDelivery": "true", "FilterPolicy": '{"a": ["b"]}'},
            )
        await bus.set_up(Topology(own + "other", sends=(own + "B",)))
        at_queue, at_topic, at_subscription, sent = await bus.survey(Topology(own, (Topic(own + "A"),), (own + "B",)))
        for told in ("24 h", "no policy", f"3 deliveries a message goes to {arn('sqs', dead)}", "262,144"):
            assert told in at_queue.note
        assert at_topic == Place("SNS topic", topic, exists=True)
        assert at_subscription.exists and "filter" in at_subscription.note and "raw" in at_subscription.note
        assert sent.exists and "nobody is subscribed" in sent.note

    async def test_what_it_makes_itself_needs_no_note(self, bus: SqsBus, own: str) -> None:
        topology = Topology(own, (Topic(own + "A"),))
        await bus.set_up(topology)
        assert [place.note for place in await bus.survey(topology)] == ["", "", ""]

    async def test_a_queue_lets_only_the_topics_of_its_account_send(self, bus: SqsBus, own: str) -> None:
        await bus.set_up(Topology(own, (Topic(own + "A"),)))
        async with native(self.server, "sqs") as sqs:
            queue = (await sqs.get_queue_url(QueueName=fifo_name(own, 80)))["QueueUrl"]
            told = (await sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"]))["Attributes"]
        (statement,) = json.loads(told["Policy"])["Statement"]
        assert statement["Principal"] == {"Service": "sns.amazonaws.com"}
        assert statement["Condition"] == {"ArnLike": {"aws:SourceArn": arn("sns", "*")}}
        assert (told["DeduplicationScope"], told["FifoThroughputLimit"]) == ("messageGroup", "perMessageGroupId")

    async def test_a_bus_that_is_not_open(self) -> None:
        bus = self.open_bus()
        assert not await bus.healthy()
        with pytest.raises(BusUnavailable, match="not open"):
            await bus.publish([message("A")])
        async with bus:
            assert await bus.healthy()
        with pytest.raises(BusUnavailable, match="not open"):
            await bus.publish([message("A")])

    async def test_a_bus_can_be_opened_again(self) -> None:
        bus = self.open_bus()
        for _ in range(2):
            async with bus:
                assert await bus.healthy()


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("sqs://", "region"),
        ("sqs:///?timeout=3", "region"),
        ("sqs://eu-central-1/queue", "region"),
        ("sqs://eu-central-1/#x", "region"),
        ("sns://eu-central-1", "region"),
        ("sqs://eu-central-1/?color=red", "known are endpoint, timeout"),
        ("sqs://eu-central-1/?timeout=0", "0.1 to 3600"),
        ("sqs://eu-central-1/?timeout=soon", "a number"),
        ("sqs://eu-central-1/?wait=1.5", "whole number"),
        ("sqs://eu-central-1/?wait=21", "1 to 20"),
        ("sqs://eu-central-1/?visibility=1", "2 to 43200"),
        ("sqs://eu-central-1/?max_bytes=", "1024 to 1048576"),
        ("sqs://eu-central-1/?endpoint=127.0.0.1:4566", "http://127.0.0.1:4566"),
        ("sqs://eu-central-1/?endpoint=", "http://127.0.0.1:4566"),
    ],
)
def test_a_url_that_is_wrong_is_told_how_it_is_right(url: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(remedy)):
        SqsBus.from_url(url)


@pytest.mark.parametrize(
    "url", ["sqs://AKIA:hunter2@eu-central-1/", "sqs://eu-central-1/?endpoint=http://AKIA:hunter2@localhost"]
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID") as caught:
        SqsBus.from_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["sqs://eu-central-1", "sqs://eu-central-1/?endpoint=https://x.test&timeout=1.5&wait=5"]
)
def test_a_url_that_is_right(url: str) -> None:
    SqsBus.from_url(url)


def test_without_the_driver_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator_adapters.sqs.settings.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'saga-orchestrator[sqs]'")):
        SqsBus.from_url("sqs://eu-central-1")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("OrderPlaced", "OrderPlaced.fifo"),
        ("user.registered", "user__registered.fifo"),
        ("commands.warehouse", "commands__warehouse.fifo"),
        ("order_placed", "order_placed.fifo"),
        ("my-shop", "my-shop.fifo"),
        ("a b", "a_20b.fifo"),
        ("a_20b", "a_5F20b.fifo"),
        ("a__b", "a_5F_b.fifo"),
    ],
)
def test_names_stay_readable(text: str, name: str) -> None:
    assert fifo_name(text, 256) == name


_TEXT = st.text(st.sampled_from("aAF0_._-é ") | st.characters(codec="utf-8"), min_size=1)


@given(_TEXT, _TEXT)
def test_each_text_has_a_name_of_its_own(one: str, other: str) -> None:
    assert (fifo_name(one, 80) == fifo_name(other, 80)) == (one == other)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,75}\.fifo", fifo_name(one, 80))


@given(st.text("aF05_.-", min_size=1, max_size=12))
def test_a_name_can_be_read_back(text: str) -> None:
    def read(found: re.Match[str]) -> str:
        return "." if found[0] == "__" else chr(int(found[0][1:], 16))

    assert re.sub("__|_[0-9A-F]{2}", read, fifo_name(text, 80).removesuffix(".fifo")) == text


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(1, 900)), max_size=60))
def test_those_of_one_key_are_sent_one_after_the_other(sent: list[tuple[str, int]]) -> None:
    entries = [entry(n, message("A", b"x" * size, key), 1_024) for n, (key, size) in enumerate(sent)]
    made = [each for each in entries if isinstance(each, Entry)]
    assert len(made) == len(sent)
    found = lanes(made)
    assert sorted(each.index for lane in found for each in lane) == list(range(len(sent)))
    for lane in found:
        assert [each for call in calls(lane, 1_024) for each in call] == sorted(lane, key=lambda each: each.index)
        assert all(len(call) <= 10 and sum(each.size for each in call) <= 1_024 for call in calls(lane, 1_024))
    keyed = {(each.group, n) for n, lane in enumerate(found) for each in lane}
    assert len(keyed) == len({group for group, _ in keyed})
