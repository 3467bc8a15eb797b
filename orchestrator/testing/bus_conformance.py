"""What every bus must do, as tests: the docstrings of its port, sentence by sentence.

A third party's adapter inherits the suite and fills one hole:

    class TestMyBus(BusConformance):
        def open_bus(self) -> AbstractAsyncContextManager[Bus]:
            return MyBus("my://localhost")

All tests may share one broker: each uses topics and groups of its own. Needs pytest and anyio's pytest plugin, which
anyio brings along.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import count
from typing import Any

import anyio
import pytest

from ..ports import Bus, BusMessage, Delivered, NotTaken, Subscription, Topic, Topology

PATIENCE_S = 30.0
ODD_TOPICS = (
    "user.registered",
    "commands.a b",
    "com.example/user#1?x=%2F&y",
    "*",
    "a.>",
    "..",
    "#",
    "naïve 键 🔑",
    "x" * 150,
    "$JS.API",
    "__consumer",
    "UPPER.lower-dash_under",
)
_numbers = count(1)


def message(topic: str, body: bytes = b"{}", key: str = "", **fields: Any) -> BusMessage:
    """A message to publish."""
    return BusMessage(topic, body, key, **fields)


class Reader:
    """Takes messages one by one from the batches of a subscription."""

    def __init__(self, bus: Bus, topics: Sequence[str | Topic], group: str, prefetch: int = 10) -> None:
        """Of a group of an open bus."""
        wanted = [Topic(topic) if isinstance(topic, str) else topic for topic in topics]
        self._context = bus.subscribe(wanted, group, prefetch)
        self._taken: list[Delivered] = []
        self.subscription: Subscription

    async def __aenter__(self) -> Reader:
        self.subscription = await self._context.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._context.__aexit__(*exc)

    async def next(self) -> Delivered:
        """The next message; fails when none comes."""
        with anyio.fail_after(PATIENCE_S):
            while not self._taken:
                batch = await anext(self.subscription)
                assert batch, "a batch holds at least one message"
                self._taken = list(batch)
        return self._taken.pop(0)

    async def take(self, count: int) -> list[Delivered]:
        """So many messages, not acknowledged."""
        return [await self.next() for _ in range(count)]

    async def bodies(self, count: int) -> list[bytes]:
        """So many messages, each acknowledged as it comes."""
        found: list[bytes] = []
        for _ in range(count):
            delivered = await self.next()
            found.append(delivered.body)
            await self.ack(delivered)
        return found

    async def ack(self, *delivered: Delivered) -> None:
        """Settle these."""
        await self.subscription.ack(delivered)

    async def silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        with anyio.move_on_after(seconds) as scope:
            self._taken.append(await self.next())
        return scope.cancelled_caught


@pytest.mark.anyio
class BusConformance:
    """Inherit, and say how a bus is opened.

    pause_s      how long to wait for something that must not come
    keeps_log    whether the broker keeps what nobody has subscribed to yet
    too_large    a size in bytes that the broker refuses, or 0 where there is none
    hold_s       longer than the time after which the broker sends again what it hears nothing of, 0 if it never does
    keeps_order  whether messages of one key stay in order
    drops_twice  whether the broker drops what it is sent twice under one id
    """

    pause_s = 0.05
    keeps_log = False
    too_large = 0
    hold_s = 0.0
    keeps_order = True
    drops_twice = False

    def open_bus(self) -> AbstractAsyncContextManager[Bus]:
        """A bus of a broker that all tests may share."""
        raise NotImplementedError

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The event loop that the suite runs on."""
        return "asyncio"

    @pytest.fixture
    async def bus(self) -> AsyncGenerator[Bus]:
        """An open bus."""
        async with self.open_bus() as bus:
            yield bus

    @pytest.fixture
    def own(self) -> str:
        """What the names of this test begin with."""
        return f"t{os.getpid()}-{next(_numbers)}-{os.urandom(3).hex()}."

    async def test_what_is_published_is_delivered(self, bus: Bus, own: str) -> None:
        async with Reader(bus, [own + "A", own + "B"], own) as reader:
            sent = [message(own + "A", b'{"id":"1"}'), message(own + "B", '{"id":"é 键"}'.encode())]
            assert await bus.publish(sent) == [None, None]
            taken = await reader.take(2)
            assert {(each.topic, each.body) for each in taken} == {(each.topic, each.body) for each in sent}

    async def test_publishing_nothing(self, bus: Bus) -> None:
        assert await bus.publish([]) == []

    async def test_headers_are_carried(self, bus: Bus, own: str) -> None:
        headers: Mapping[str, str] = {"Content-Type": "application/cloudevents+json", "ce_type": "é 键", "empty": ""}
        async with Reader(bus, [own + "A"], own) as reader:
            await bus.publish([message(own + "A", headers=headers), message(own + "A", b"2")])
            taken = {each.body: each for each in await reader.take(2)}  # without a key: in any order
            first, second = taken[b"{}"], taken[b"2"]
            assert {name: first.headers.get(name) for name in ("content-type", "ce_type", "empty")} == {
                "content-type": "application/cloudevents+json",
                "ce_type": "é 键",
                "empty": "",
            }
            assert "ce_type" not in second.headers

    async def test_only_the_topics_asked_for(self, bus: Bus, own: str) -> None:
        others = [own + "B", own + "AA", own + "a", own + "A.A", own]
        async with Reader(bus, [own + "A"], own) as reader, Reader(bus, others, own + "others"):
            await bus.publish([message(own + "A", b"a"), *(message(other) for other in others)])
            assert await reader.bodies(1) == [b"a"]
            assert await reader.silent(self.pause_s)

    @pytest.mark.parametrize("odd", ODD_TOPICS)
    async def test_any_text_is_a_topic(self, bus: Bus, own: str, odd: str) -> None:
        async with Reader(bus, [own + odd], own) as reader:
            assert await bus.publish([message(own + odd, b"1"), message(own, b"other")]) == [None, None]
            delivered = await reader.next()
            assert (delivered.topic, delivered.body) == (own + odd, b"1")

    async def test_each_group_gets_every_message(self, bus: Bus, own: str) -> None:
        async with Reader(bus, [own + "A"], own + "one") as one, Reader(bus, [own + "A"], own + "two") as two:
            await bus.publish([message(own + "A", b"1"), message(own + "A", b"2")])
            assert sorted(await one.bodies(2)) == sorted(await two.bodies(2)) == [b"1", b"2"]

    async def test_a_message_goes_to_one_member_of_a_group(self, bus: Bus, own: str) -> None:
        found: list[bytes] = []
        async with anyio.create_task_group() as tasks:

            async def read(reader: Reader) -> None:
                while True:
                    found.extend(await reader.bodies(1))
                    if len(found) >= 20:
                        tasks.cancel_scope.cancel()

            async with Reader(bus, [own + "A"], own, 1) as one, Reader(bus, [own + "A"], own, 1) as two:
                await bus.publish([message(own + "A", b"%d" % n, key=str(n)) for n in range(20)])
                tasks.start_soon(read, one)
                tasks.start_soon(read, two)
                with anyio.fail_after(PATIENCE_S):
                    await anyio.sleep_forever()
        assert sorted(found) == sorted(b"%d" % n for n in range(20))

    async def test_no_more_than_prefetch_are_unsettled(self, bus: Bus, own: str) -> None:
        async with Reader(bus, [own + "A", own + "B"], own, prefetch=2) as reader:
            await bus.publish([message(own + "AB"[n % 2], b"%d" % n) for n in range(6)])
            held = await reader.take(2)
            assert await reader.silent(self.pause_s)
            await reader.ack(held[0])
            held += await reader.take(1)
            assert await reader.silent(self.pause_s)
            await reader.ack(*held[1:])
            held += await reader.take(2)
            await reader.ack(*held[3:])
            held += await reader.take(1)
            assert len({delivered.body for delivered in held}) == 6

    async def test_what_is_acknowledged_never_comes_again(self, bus: Bus, own: str) -> None:
        async with Reader(bus, [own + "A"], own) as reader:
            await bus.publish([message(own + "A", b"1"), message(own + "A", b"2")])
            await reader.ack(*await reader.take(2))
            assert await reader.silent(self.pause_s)
        async with Reader(bus, [own + "A"], own) as reader:
            assert await reader.silent(self.pause_s)

    async def test_a_group_exists_from_its_first_subscription_on(self, bus: Bus, own: str) -> None:
        async with Reader(bus, [own + "A"], own):
            pass
        await bus.publish([message(own + "A", b"meanwhile")])
        async with Reader(bus, [own + "A"], own) as reader:
            assert await reader.bodies(1) == [b"meanwhile"]

    async def test_a_topic_can_be_added_to_a_group(self, bus: Bus, own: str) -> None:
        async with Reader(bus, [own + "A"], own):
            pass
        async with Reader(bus, [own + "A", own + "B"], own) as reader:
            await bus.publish([message(own + "A", b"a"), message(own + "B", b"b")])
            assert sorted(await reader.bodies(2)) == [b"a", b"b"]

    async def test_what_was_sent_before_the_group_was_there(self, bus: Bus, own: str) -> None:
        expected = message(own + "commands", b"command", expected=True)
        told = await bus.publish([message(own + "events", b"event"), expected])
        if not self.keeps_log:
            assert told[0] is None
            assert isinstance(told[1], NotTaken) and not told[1].is_final and own + "commands" in told[1].reason
            return
        assert told == [None, None]
        async with Reader(bus, [Topic(own + "commands", from_start=True), own + "events"], own) as reader:
            assert await reader.bodies(1) == [b"command"]
            assert await reader.silent(self.pause_s)

    async def test_what_nobody_takes_holds_up_no_other(self, bus: Bus, own: str) -> None:
        async with Reader(bus, [own + "A"], own) as reader:
            sent = [
                message(own + "A", b"1"),
                message(own + "none", expected=True),
                message(own + "A", b"2", expected=True),
            ]
            told = await bus.publish(sent)
            assert (told[0], told[2]) == (None, None)
            assert sorted(await reader.bodies(2)) == [b"1", b"2"]

    async def test_what_is_too_large_holds_up_no_other(self, bus: Bus, own: str) -> None:
        if not self.too_large:
            pytest.skip("this broker has no limit")
        async with Reader(bus, [own + "A"], own) as reader:
            told = await bus.publish([message(own + "A", body) for body in (b"1", b"x" * self.too_large, b"2")])
            assert (told[0], told[2]) == (None, None)
            assert isinstance(told[1], NotTaken) and told[1].is_final
            assert sorted(await reader.bodies(2)) == [b"1", b"2"]

    async def test_a_hundred_kilobytes(self, bus: Bus, own: str) -> None:
        async with Reader(bus, [own + "A"], own) as reader:
            assert await bus.publish([message(own + "A", b"x" * 100_000)]) == [None]
            assert await reader.bodies(1) == [b"x" * 100_000]

    async def test_messages_of_one_key_stay_in_order(self, bus: Bus, own: str) -> None:
        if not self.keeps_order:
            pytest.skip("this broker promises no order")
        sent = [message(own + "A", b"%d:%d" % (n % 5, n), key=str(n % 5)) for n in range(100)]
        async with Reader(bus, [own + "A"], own, prefetch=100) as reader:
            await bus.publish(sent[:50])
            await bus.publish(sent[50:])
            found = await reader.bodies(100)
        for key in (b"0", b"1", b"2", b"3", b"4"):
            mine = [body for body in found if body.startswith(key + b":")]
            assert mine == [each.body for each in sent if each.body.startswith(key + b":")]

    async def test_what_is_sent_twice_comes_twice_or_once(self, bus: Bus, own: str) -> None:
        async with Reader(bus, [own + "A"], own) as reader:
            for _ in range(2):
                assert await bus.publish([message(own + "A", b"1", id="same")]) == [None]
            assert await reader.bodies(1 if self.drops_twice else 2) == [b"1"] * (1 if self.drops_twice else 2)
            assert await reader.silent(self.pause_s)

    async def test_what_is_not_settled_when_the_subscriber_leaves_is_sent_again(self, bus: Bus, own: str) -> None:
        async with Reader(bus, [own + "A"], own) as reader:
            await bus.publish([message(own + "A", b"1"), message(own + "A", b"2"), message(own + "A", b"3")])
            taken = await reader.take(3)
            await reader.ack(taken[0])
        async with Reader(bus, [own + "A"], own) as reader:
            assert {delivered.body for delivered in await reader.take(2)} == {taken[1].body, taken[2].body}

    async def test_what_was_settled_out_of_order_is_settled(self, bus: Bus, own: str) -> None:
        async with Reader(bus, [own + "A"], own) as reader:
            await bus.publish([message(own + "A", b"%d" % n) for n in range(4)])
            for delivered in reversed(await reader.take(4)):
                await reader.ack(delivered)
        async with Reader(bus, [own + "A"], own) as reader:
            assert await reader.silent(self.pause_s)

    async def test_settling_twice_or_after_leaving_is_harmless(self, bus: Bus, own: str) -> None:
        async with Reader(bus, [own + "A"], own) as reader:
            await bus.publish([message(own + "A", b"1"), message(own + "A", b"2")])
            first, second = await reader.take(2)
            await reader.ack(first)
            await reader.ack(first)
        async with Reader(bus, [own + "A"], own) as again:
            await again.ack(first, second)  # of the earlier subscription: nothing is settled by it
            delivered = await again.next()
            assert delivered.body == second.body
            await again.ack(delivered, delivered)

    async def test_what_takes_long_is_not_sent_again(self, bus: Bus, own: str) -> None:
        async with Reader(bus, [own + "A"], own) as reader:
            await bus.publish([message(own + "A", b"1")])
            delivered = await reader.next()
            assert await reader.silent(max(self.hold_s, self.pause_s))
            await reader.ack(delivered)

    async def test_a_cancelled_reader_loses_nothing(self, bus: Bus, own: str) -> None:
        async with Reader(bus, [own + "A"], own) as reader:
            for _ in range(3):
                with anyio.move_on_after(0.01):
                    await anext(reader.subscription)
            await bus.publish([message(own + "A", b"1")])
            assert await reader.bodies(1) == [b"1"]

    async def test_a_cancelled_publisher_leaves_the_bus_fit_for_use(self, bus: Bus, own: str) -> None:
        async with Reader(bus, [own + "A"], own, 100) as reader:
            with anyio.move_on_after(0):
                await bus.publish([message(own + "A", b"cancelled") for _ in range(10)])
            assert await bus.publish([message(own + "A", b"last")]) == [None]
            while await reader.bodies(1) != [b"last"]:
                pass

    async def test_lag_is_what_was_not_acknowledged(self, bus: Bus, own: str) -> None:
        async with Reader(bus, [own + "A"], own, prefetch=3) as reader:
            await bus.publish([message(own + "A", b"%d" % n) for n in range(5)])
            taken = await reader.take(3)
            assert await _lag(reader, 5) == 5
            await reader.ack(*taken)
            assert await _lag(reader, 2) == 2

    async def test_a_survey_makes_nothing_and_setting_up_everything(self, bus: Bus, own: str) -> None:
        topology = Topology(own, (Topic(own + "A"), Topic(own + "B", from_start=True)), (own + "C",))
        before = await bus.survey(topology)
        assert not all(place.exists for place in before)
        assert await bus.survey(topology) == before
        await bus.set_up(topology)
        after = await bus.survey(topology)
        assert after and all(place.exists for place in after)
        await bus.set_up(topology)
        assert await bus.survey(topology) == after
        await bus.publish([message(own + "A", b"a")])
        async with Reader(bus, [own + "A"], own) as reader:
            assert await reader.bodies(1) == [b"a"]

    async def test_healthy(self, bus: Bus) -> None:
        assert await bus.healthy()


async def _lag(reader: Reader, wanted: int) -> int:
    """The lag; a broker may take a moment to know."""
    lag = -1
    with anyio.move_on_after(PATIENCE_S):
        while (lag := await reader.subscription.lag()) != wanted:  # noqa: ASYNC110 only the broker knows when
            await anyio.sleep(0.05)
    return lag
