"""Webhooks in virtual time: what a receiver that is down, slow, gone or rude means for it and for the others."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from datetime import UTC, datetime

import anyio
import pytest
from msgspec import Raw
from msgspec.structs import replace
from standardwebhooks import Webhook as Oracle

from orchestrator.config import Limits
from orchestrator.errors import BadMessage, BusUnavailable, NotFound, NotSent, Refused, VersionConflict
from orchestrator.memory import MemoryBus, MemoryStore
from orchestrator.messages import Event, encode, type_name, type_version
from orchestrator.participant import listener
from orchestrator.ports import BusMessage, NotTaken, Posted, Topic
from orchestrator.runtime.engine import Engine
from orchestrator.topics import TopicSettings
from orchestrator.webhooks import QUEUES_S, STREAM, Webhook, WebhookPaused
from orchestrator.wire import Envelope, Kind

from .receivers import OrderClosed, Receivers, UserJoined, UserLeft, UserRegistered, users
from .virtual import LoopClock

pytestmark = pytest.mark.anyio

HOUR, DAY = 3600.0, 86_400.0


def event(message: Event, id: str, key: str = "") -> Envelope:
    cls = type(message)
    return Envelope(
        id=id, kind=Kind.EVENT, type=type_name(cls), version=type_version(cls), data=Raw(encode(message)), key=key
    )


def joined(user: str, key: str = "") -> Envelope:
    return event(UserJoined(user), f"joined-{user}", key)


class Ahead(LoopClock):
    """A clock that can be set."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead


async def subscribed(engine: Engine, *names: str) -> list[Webhook]:
    return [await engine.webhooks.add(f"https://{name}.example/hook", name=name) for name in names]


async def test_what_a_listener_translates_reaches_the_webhook_signed_and_without_what_is_ours() -> None:
    receivers, store = Receivers(), MemoryStore()
    async with Engine(users(), store, clock=LoopClock(), sender=receivers) as engine:
        [webhook] = await subscribed(engine, "crm")
        await engine.accept(replace(event(UserRegistered("anna"), "reg-1", "anna"), user="root"))
        await engine.until_idle()
        sent_at = int(receivers.came[0][1].headers["webhook-timestamp"])
    [body] = receivers.bodies("crm.example")
    assert body["type"] == "user.registered" and body["dataversion"] == 2 and body["data"] == {"user": "anna"}
    assert set(body) == {
        "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataversion", "data"
    }  # fmt: skip
    assert "geheim" not in str(receivers.came)
    [(_, post)] = receivers.came
    assert post.headers["content-type"] == "application/cloudevents+json"
    # The oracle looks at the machine's clock, so the same request is signed for now.
    [secret] = webhook.signing(sent_at)
    oracle = Oracle(secret)
    moment = datetime.fromtimestamp(sent_at, UTC)
    signature = oracle.sign(post.headers["webhook-id"], moment, post.body.decode())
    assert post.headers["webhook-signature"] == signature
    assert receivers.closed
    assert (await store.counts(0)).outbox == 0


@pytest.mark.parametrize("events", [1, 150])  # more than are held in memory for one
async def test_who_leaves_when_idle_does_not_wait_a_day_for_a_webhook_that_fails(events: int) -> None:
    receivers, store, clock = Receivers(), MemoryStore(), LoopClock()
    receivers.will("crm.example", *[500] * 1000)
    async with Engine(users(), store, clock=clock, sender=receivers) as engine:
        await subscribed(engine, "crm", "other")
        for number in range(events):
            await engine.accept(joined(f"user-{number}"))
        began = clock.now()
        await engine.until_idle(but_webhooks=True)
        assert clock.now() - began < 3600
        assert len(receivers.bodies("other.example")) == events
        assert len(receivers.times["crm.example"]) >= min(events, 100)  # the others wait behind these
    assert (await store.counts(0)).outbox == events


async def test_core_events_reach_no_webhook() -> None:
    receivers = Receivers()
    async with Engine(users(), MemoryStore(), clock=LoopClock(), sender=receivers) as engine:
        await subscribed(engine, "crm")
        await engine.accept(event(UserRegistered("anna"), "1"))
        await engine.until_idle()
    assert [body["type"] for body in receivers.bodies("crm.example")] == ["user.registered"]


async def test_a_webhook_gets_the_types_it_asked_for() -> None:
    receivers = Receivers()
    async with Engine(users(), MemoryStore(), clock=LoopClock(), sender=receivers) as engine:
        await engine.webhooks.add("https://a.example/", name="a", types=("user.*",))
        await engine.webhooks.add("https://b.example/", name="b", types=("order.closed",))
        with pytest.raises(BadMessage, match=r"order\.closed, user\.deactivated"):
            await engine.webhooks.add("https://c.example/", name="c", types=("order.clsed",))
        await engine.accept(event(UserLeft("anna"), "1"))
        await engine.until_idle()
    assert [body["type"] for body in receivers.bodies("a.example")] == ["user.deactivated"]
    assert [body["type"] for body in receivers.bodies("b.example")] == ["order.closed"]


async def test_one_that_was_down_for_an_hour_gets_everything_in_order_and_holds_nobody() -> None:
    receivers = Receivers()
    receivers.usual["crm.example"] = NotSent("no connection")
    async with Engine(users(), MemoryStore(), clock=LoopClock(), sender=receivers) as engine:
        await subscribed(engine, "crm", "mail")
        for number in range(6):
            await engine.accept(joined(f"u{number}", key=f"k{number % 2}"))
        await anyio.sleep(1)
        assert receivers.users("mail.example") == [f"u{number}" for number in range(6)]
        await anyio.sleep(HOUR)
        assert engine.webhooks.get("crm").failing is not None
        receivers.usual["crm.example"] = 200
        await engine.until_idle()
        assert engine.webhooks.get("crm").failing is None
    got = receivers.users("crm.example")
    assert sorted(got) == [f"u{number}" for number in range(6)]
    assert [user for user in got if user in ("u0", "u2", "u4")] == ["u0", "u2", "u4"]
    assert [user for user in got if user in ("u1", "u3", "u5")] == ["u1", "u3", "u5"]
    assert len(receivers.times["crm.example"]) <= 6 + 2 * 6  # 6 attempts in the hour, for each of two keys


async def test_backoff_and_order_survive_a_restart() -> None:
    receivers, store, clock = Receivers(), MemoryStore(), LoopClock()
    receivers.usual["crm.example"] = 500
    async with Engine(users(), store, clock=clock, sender=receivers) as engine:
        await subscribed(engine, "crm")
        for number in range(3):
            await engine.accept(joined(f"u{number}", key="k"))
        await anyio.sleep(200)
    tries = len(receivers.times["crm.example"])
    assert tries == 4  # after 0, 5, 30 and 155 s, less the jitter
    async with Engine(users(), store, clock=clock, sender=receivers, limits=Limits(page=1)) as engine:
        await anyio.sleep(60)
        assert len(receivers.times["crm.example"]) == tries
        receivers.usual["crm.example"] = 200
        await engine.until_idle()
    assert receivers.users("crm.example") == ["u0", "u1", "u2"]


async def test_retry_after_is_honoured_but_makes_nothing_quicker() -> None:
    receivers = Receivers()
    receivers.will("crm.example", Posted(429, "600"), Posted(503, "0"))
    async with Engine(users(), MemoryStore(), clock=LoopClock(), sender=receivers) as engine:
        await subscribed(engine, "crm")
        await engine.accept(joined("anna"))
        await engine.until_idle()
    first, second, third = receivers.times["crm.example"]
    assert 600 <= second - first < 660
    assert 18 <= third - second < 60


async def test_nothing_taken_for_a_day_pauses_it_with_the_reason_and_resume_delivers_what_was_kept() -> None:
    receivers, store = Receivers(), MemoryStore()
    receivers.usual["crm.example"] = 500
    async with Engine(users(), store, clock=LoopClock(), sender=receivers) as engine:
        await subscribed(engine, "crm", "mail")
        for number in range(3):
            await engine.accept(joined(f"u{number}", key="k"))
        await engine.until_idle()
        paused = engine.webhooks.get("crm")
        assert paused.is_paused and paused.paused_by_itself
        assert "answered 500" in paused.why
        assert await store.dead_letters() == []
        await engine.accept(joined("u3", key="k"))
        await engine.until_idle()
        assert receivers.users("mail.example") == ["u0", "u1", "u2", "u3"]
        tries = len(receivers.times["crm.example"])
        assert tries <= 10
        receivers.usual["crm.example"] = 200
        await engine.webhooks.resume("crm")
        await engine.until_idle()
    assert receivers.users("crm.example") == ["u0", "u1", "u2", "u3"]
    assert (await store.counts(0)).outbox == 0


async def test_410_gone_pauses_at_once() -> None:
    receivers, store, clock = Receivers(), MemoryStore(), LoopClock()
    receivers.will("crm.example", 410)
    async with Engine(users(), store, clock=clock, sender=receivers) as engine:
        await subscribed(engine, "crm")
        await engine.accept(joined("anna"))
        await engine.until_idle()
        assert "410 Gone" in engine.webhooks.get("crm").why
    async with Engine(users(), store, clock=clock, sender=receivers) as engine:
        await engine.accept(joined("bob"))
        await engine.until_idle()
        assert len(receivers.times["crm.example"]) == 1
        await engine.webhooks.resume("crm")
        await engine.until_idle()
    assert sorted(receivers.users("crm.example")) == ["anna", "bob"]


async def test_one_event_that_is_never_taken_is_a_dead_letter_of_this_webhook_alone_and_can_be_redriven() -> None:
    receivers, store = Receivers(), MemoryStore()
    async with Engine(users(), store, clock=LoopClock(), sender=receivers) as engine:
        await subscribed(engine, "crm", "mail")
        receivers.will("crm.example", *[500, 200] * 10)
        await engine.accept(joined("poison"))
        for number in range(9):  # between its attempts others are taken, so that the webhook is not failing
            await receivers.tried("crm.example", 2 * number + 1)
            await engine.accept(joined(f"good{number}"))
            await anyio.sleep(2)
        await engine.until_idle()
        assert not engine.webhooks.get("crm").is_paused
        [letter] = await store.dead_letters()
        assert letter.listener == "webhook:crm" and letter.error == "answered 500"
        assert letter.envelope is not None and letter.envelope.id == "joined-poison"
        receivers.answers.clear()
        assert await engine.redrive_webhook("crm") == 1
        await engine.until_idle()
        assert await store.dead_letters() == []
    assert receivers.users("crm.example")[-1] == "poison"
    assert receivers.users("mail.example")[0] == "poison"


async def test_a_receiver_that_hangs_takes_no_room_from_anybody() -> None:
    async def hang() -> int:
        await anyio.sleep_forever()
        raise AssertionError

    told: list[float] = []

    @listener
    async def other(event: UserJoined) -> None:
        told.append(anyio.current_time())

    receivers, store = Receivers(), MemoryStore()
    receivers.usual["slow.example"] = hang
    limits = Limits(handed=40, page=20)
    async with Engine(users(other), store, clock=LoopClock(), sender=receivers, limits=limits) as engine:
        await subscribed(engine, "slow", "mail")
        began = anyio.current_time()
        for number in range(400):
            await engine.accept(joined(f"u{number}"))
        await anyio.sleep(10)
        assert len(receivers.users("mail.example")) == len(told) == 400
        assert max(told) - began < 14  # the first attempt at the slow one is still under way
        assert receivers.most["slow.example"] <= 8
        assert (await store.counts(0)).outbox == 400
        assert engine.stats().outbox <= 140  # the others are in the store alone
        await anyio.sleep(120)
        assert receivers.most["slow.example"] <= 8
        late = len(receivers.times["slow.example"])
        await anyio.sleep(150)
        assert len(receivers.times["slow.example"]) - late <= 11  # one at a time, 15 s each
        receivers.usual["slow.example"] = 200
        await engine.until_idle()
    assert sorted(receivers.users("slow.example")) == sorted(f"u{number}" for number in range(400))


async def test_a_paused_webhook_keeps_what_comes_for_a_week_and_no_more() -> None:
    receivers, store, clock = Receivers(), MemoryStore(), Ahead()
    async with Engine(users(), store, clock=clock, sender=receivers) as engine:
        await subscribed(engine, "crm")
        await engine.webhooks.pause("crm", "they move house")
        await engine.accept(joined("early"))
        clock.ahead = QUEUES_S + 60
        with pytest.raises(BadMessage, match="wants it"):
            await engine.accept(joined("late"))
        assert (await store.counts(0)).outbox == 1
        assert engine.stats().outbox == 0
        await engine.webhooks.resume("crm")
        await engine.accept(joined("after"))
        await engine.until_idle()
    assert sorted(receivers.users("crm.example")) == ["after", "early"]


async def test_a_removed_webhook_takes_what_it_had_not_got_with_it_and_its_name_starts_afresh() -> None:
    receivers, store, clock = Receivers(), MemoryStore(), LoopClock()
    receivers.usual["crm.example"] = 500
    async with Engine(users(), store, clock=clock, sender=receivers, limits=Limits(page=2)) as engine:
        await subscribed(engine, "crm")
        for number in range(5):
            await engine.accept(joined(f"u{number}"))
        await anyio.sleep(1)
        await engine.webhooks.remove("crm")
        await engine.until_idle()
        assert (await store.counts(0)).outbox == 0
        assert await store.dead_letters() == []
        with pytest.raises(NotFound, match="there is no webhook crm"):
            await engine.webhooks.pause("crm")
        [again] = await subscribed(engine, "crm")
        assert again.sink == "webhook:crm#2"
        receivers.usual["crm.example"] = 200
        await engine.accept(joined("new"))
        await engine.until_idle()
    assert receivers.users("crm.example") == ["new"]


async def test_what_is_said_without_acting_holds_at_the_next_start() -> None:
    """As the command line does it where no daemon runs."""
    receivers, store, clock = Receivers(), MemoryStore(), LoopClock()
    async with Engine(users(), store, clock=clock, sender=receivers, acting=False) as engine:
        await subscribed(engine, "gone", "crm")
        await engine.accept(joined("anna"))
        await engine.webhooks.remove("gone")
    assert receivers.came == []
    async with Engine(users(), store, clock=clock, sender=receivers) as engine:
        assert [webhook.name for webhook in engine.webhooks] == ["crm"]
        await engine.until_idle()
    assert [host for host, _ in receivers.came] == ["crm.example"]
    assert await store.dead_letters() == []


async def test_the_stream_is_an_audit_with_who_did_it_and_shows_no_secret() -> None:
    receivers, store = Receivers(), MemoryStore()
    async with Engine(users(), store, clock=LoopClock(), sender=receivers) as engine:
        await engine.webhooks.add("https://crm.example/", name="crm", who="maria")
        await engine.webhooks.rotate("crm", who="jo")
        await engine.webhooks.pause("crm", "tired", who="jo")
        told = [
            (recorded.type, recorded.metadata.user, repr(recorded.event))
            async for recorded in engine.events.read(STREAM)
        ]
    assert [(kind, who) for kind, who, _ in told] == [
        ("$webhook.added", "maria"),
        ("$webhook.rotated", "jo"),
        ("$webhook.paused", "jo"),
    ]
    assert "whsec_" not in str(told)


async def test_after_a_rotation_both_secrets_sign_for_a_day() -> None:
    receivers = Receivers()
    async with Engine(users(), MemoryStore(), clock=LoopClock(), sender=receivers) as engine:
        [before] = await subscribed(engine, "crm")
        after = await engine.webhooks.rotate("crm")
        await engine.accept(joined("anna"))
        await engine.until_idle()
        await anyio.sleep(DAY)
        await engine.accept(joined("bob"))
        await engine.until_idle()
        await engine.webhooks.rotate("crm", at_once=True)
        await engine.accept(joined("carl"))
        await engine.until_idle()
    first, second, third = (post.headers["webhook-signature"].split(" ") for _, post in receivers.came)
    assert (len(first), len(second), len(third)) == (2, 1, 1)
    assert before.keys[0].secret != after.keys[0].secret


async def test_a_target_that_may_not_be_is_refused_when_it_is_added() -> None:
    async with Engine(users(), MemoryStore(), clock=LoopClock(), sender=Receivers()) as engine:
        with pytest.raises(Refused, match="not public"):
            await engine.webhooks.add("https://internal.example/?token=t0p")
        with pytest.raises(BadMessage, match="use https"):
            await engine.webhooks.add("http://crm.example/")
        with pytest.raises(Refused, match="already"):
            await subscribed(engine, "crm", "crm")
        assert [webhook.name for webhook in engine.webhooks] == ["crm"]


async def test_a_test_event_arrives_though_it_is_paused_and_counts_for_nothing() -> None:
    receivers = Receivers()
    async with Engine(users(), MemoryStore(), clock=LoopClock(), sender=receivers) as engine:
        await subscribed(engine, "crm")
        await engine.webhooks.pause("crm")
        assert (await engine.webhooks.test("crm")).problem == ""
        assert receivers.bodies("crm.example")[0]["type"] == "webhook.test"
        receivers.will("crm.example", 302, NotSent("no connection"))
        assert (await engine.webhooks.test("crm")).problem == "answered 302: redirects are not followed"
        assert (await engine.webhooks.test("crm")).problem == "no connection"
        assert engine.webhooks.get("crm").failing is None


async def test_neither_payloads_nor_secrets_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    receivers, store = Receivers(), MemoryStore()
    receivers.usual["crm.example"] = RuntimeError("a sender with a fault")
    async with Engine(users(), store, clock=LoopClock(), sender=receivers) as engine:
        [webhook] = await subscribed(engine, "crm")
        await engine.accept(joined("kanarie"))
        await anyio.sleep(HOUR)
        assert engine.webhooks.get("crm").failing is not None
    assert "the sender failed" in caplog.text
    assert '"user"' not in caplog.text and webhook.keys[0].secret.reveal() not in caplog.text


async def test_core_events_stay_off_the_bus_if_they_are_to() -> None:
    published: list[str] = []

    class Watched(MemoryBus):
        async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
            published.extend(message.topic for message in messages)
            return await super().publish(messages)

    @listener
    async def tell(event: UserRegistered) -> tuple[UserLeft | UserRegistered, ...]:
        return (UserLeft(event.user_id), UserRegistered("x")) if event.user_id != "x" else ()

    topics = TopicSettings(core=False)
    async with Engine(users(tell), MemoryStore(), Watched(), clock=LoopClock(), topics=topics) as engine:
        await engine.accept(event(UserRegistered("anna"), "1"))
        await engine.until_idle()
    assert sorted(published) == ["order.closed", "user.deactivated", "user.registered", "user.registered"]


async def test_boundary_events_are_appended_to_the_log_if_they_are_to() -> None:
    store = MemoryStore()
    async with Engine(users(), store, clock=LoopClock(), topics=TopicSettings(log=True)) as engine:
        await engine.accept(event(UserLeft("anna"), "left-1"))
        await engine.until_idle()
        streams = {recorded.stream: recorded.event async for recorded in engine.events.read_all()}
    assert streams == {"boundary/user.deactivated": UserLeft("anna"), "boundary/order.closed": OrderClosed("anna")}
    assert (await store.counts(0)).outbox == 0


async def test_what_happens_to_webhooks_is_in_the_log_for_those_who_ask_for_it() -> None:
    async with Engine(users(), MemoryStore(), clock=LoopClock(), sender=Receivers()) as engine:
        await engine.webhooks.add("https://crm.example/")
        await engine.events.append("mine", UserLeft("anna"))
        assert [recorded.stream async for recorded in engine.events.read_all()] == ["mine"]
        asked = engine.events.read_all(types=["$webhook.added"])
        assert [recorded.stream async for recorded in asked] == [STREAM]


async def test_published_appends_of_one_stream_stay_in_order() -> None:
    receivers = Receivers()
    receivers.will("crm.example", 500)
    async with Engine(users(), MemoryStore(), clock=LoopClock(), sender=receivers) as engine:
        await subscribed(engine, "crm")
        for number in range(4):
            await engine.events.append("user-1", UserJoined(f"u{number}"), publish=True)
        await engine.until_idle()
    assert receivers.users("crm.example") == ["u0", "u1", "u2", "u3"]
    assert {body["subject"] for body in receivers.bodies("crm.example")} == {"user-1"}


async def test_a_bus_that_is_down_holds_no_webhook() -> None:
    class Down(MemoryBus):
        is_down = True

        async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
            if self.is_down:
                raise BusUnavailable("no broker")
            return await super().publish(messages)

    receivers, store, bus = Receivers(), MemoryStore(), Down()
    limits = Limits(handed=4, page=2)
    async with Engine(users(), store, bus, clock=LoopClock(), sender=receivers, limits=limits) as engine:
        await subscribed(engine, "crm")
        for number in range(20):
            await engine.accept(event(UserRegistered(f"u{number}"), f"r{number}"))
        await anyio.sleep(30)
        assert sorted(receivers.users("crm.example")) == sorted(f"u{number}" for number in range(20))
        assert (await store.counts(0)).outbox == 20  # for the bus
        bus.is_down = False
        await engine.until_idle()
    assert (await store.counts(0)).outbox == 0
    assert len(receivers.came) == 20


async def test_a_webhook_that_is_down_does_not_hold_the_bus_up() -> None:
    receivers, store, bus = Receivers(), MemoryStore(), MemoryBus()
    receivers.usual["crm.example"] = 500
    async with Engine(users(), store, bus, clock=LoopClock(), sender=receivers) as engine:
        await subscribed(engine, "crm")
        async with bus.subscribe([Topic("user.registered")], "others", 10) as others:
            await engine.accept(event(UserRegistered("anna"), "r1"))
            [delivered] = await anext(others)
    assert b"anna" in delivered.body


async def test_somebody_elses_event_in_the_stream_is_taken_up_and_not_overwritten() -> None:
    async with Engine(users(), MemoryStore(), clock=LoopClock(), sender=Receivers()) as engine:
        await subscribed(engine, "crm")
        await engine.events.append(STREAM, WebhookPaused("crm", "by another program"))
        with pytest.raises(VersionConflict):
            await engine.webhooks.rotate("crm")
        assert engine.webhooks.get("crm").why == "by another program"
        await engine.webhooks.resume("crm")


async def test_two_at_a_time_say_what_happened_once() -> None:
    receivers = Receivers()
    async with Engine(users(), MemoryStore(), clock=LoopClock(), sender=receivers) as engine:
        await subscribed(engine, "crm")
        receivers.usual["crm.example"] = 500
        for number in range(20):
            await engine.accept(joined(f"u{number}"))
        await anyio.sleep(HOUR)
        receivers.usual["crm.example"] = 200
        await engine.until_idle()
        told = [recorded.type async for recorded in engine.events.read(STREAM)]
    assert told == ["$webhook.added", "$webhook.failing", "$webhook.recovered"]


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_the_receiver_does_and_however_often_it_stops_all_arrive_in_the_order_of_their_key(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few deliveries fit into memory or a page, so that most are read from the store, again after each start."""
    chance = random.Random(seed)
    monkeypatch.setattr("orchestrator.runtime.listeners.SINK_HELD", chance.choice([1, 3, 10]))
    limits = Limits(page=chance.choice([1, 2, 7]), handed=chance.choice([2, 20]))
    receivers, store, clock = Receivers(), MemoryStore(), LoopClock()
    sent = 0
    for life in range(5):
        async with Engine(users(), store, clock=clock, sender=receivers, limits=limits) as engine:
            if not life:
                await subscribed(engine, "crm", "mail")
            for host in ("crm.example", "mail.example"):
                receivers.answers[host].extend(chance.choices([200, 500, NotSent("no connection")], [4, 2, 1], k=15))
            for _ in range(15):
                await engine.accept(joined(f"{sent:03}", key=f"k{chance.randrange(3)}"))
                sent += 1
                await anyio.sleep(chance.choice([0, 0.005, 1]))
            if chance.random() < 0.5 and not engine.webhooks.get("crm").is_paused:
                await engine.webhooks.pause("crm")
            elif engine.webhooks.get("crm").is_paused:
                await engine.webhooks.resume("crm")
            await anyio.sleep(chance.choice([0, 0.02, 30]))
    receivers.answers.clear()
    async with Engine(users(), store, clock=clock, sender=receivers, limits=limits) as engine:
        if engine.webhooks.get("crm").is_paused:
            await engine.webhooks.resume("crm")
        await engine.until_idle()
    assert (await store.counts(0)).outbox == 0
    assert await store.dead_letters() == []
    for host in ("crm.example", "mail.example"):
        first = list(dict.fromkeys((body["subject"], body["data"]["user"]) for body in receivers.bodies(host)))
        assert len(first) == sent
        for key in ("k0", "k1", "k2"):
            of_key = [user for subject, user in first if subject == key]
            assert of_key == sorted(of_key), (host, key)


async def test_an_attempt_that_ends_after_a_pause_and_a_resume_brings_nothing_back() -> None:
    gate = anyio.Event()

    async def late() -> int:
        await gate.wait()
        return 500

    receivers, store = Receivers(), MemoryStore()
    receivers.will("crm.example", late)
    async with Engine(users(), store, clock=LoopClock(), sender=receivers) as engine:
        await subscribed(engine, "crm")
        await engine.accept(joined("anna"))
        await receivers.tried("crm.example", 1)
        await engine.webhooks.pause("crm")
        await engine.webhooks.resume("crm")
        await receivers.tried("crm.example", 2)
        await anyio.sleep(1)
        assert receivers.users("crm.example") == ["anna"]
        gate.set()
        await engine.until_idle()
    assert receivers.users("crm.example") == ["anna"]
    assert (await store.counts(0)).outbox == 0


async def test_an_attempt_that_ends_after_its_webhook_was_removed_leaves_nothing() -> None:
    gate = anyio.Event()

    async def late() -> int:
        await gate.wait()
        return 500

    receivers, store = Receivers(), MemoryStore()
    receivers.will("crm.example", late)
    async with Engine(users(), store, clock=LoopClock(), sender=receivers) as engine:
        await subscribed(engine, "crm")
        await engine.accept(joined("anna"))
        await receivers.tried("crm.example", 1)
        await engine.webhooks.remove("crm")
        gate.set()
        await engine.until_idle()
    assert (await store.counts(0)).outbox == 0
    assert await store.dead_letters() == []
