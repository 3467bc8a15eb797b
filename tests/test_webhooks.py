"""Webhooks as data: targets, signatures, schedule, and what their events make of them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook as Oracle

from orchestrator.errors import BadMessage, ConfigError
from orchestrator.messages import Secret
from orchestrator.webhooks import (
    SCHEDULE,
    Failing,
    Networks,
    SecretRotated,
    Subscriptions,
    WebhookAdded,
    WebhookFailing,
    WebhookPaused,
    WebhookRecovered,
    WebhookRemoved,
    WebhookResumed,
    check_name,
    check_secret,
    check_url,
    delay,
    header_id,
    matches,
    name_of,
    new_secret,
    reason_to_pause,
    seconds_asked,
    shown_url,
    sign,
)

DAY = 86_400.0


@given(
    body=st.binary(max_size=200).map(lambda raw: raw.hex().encode()), at=st.integers(0, 2**32), id=st.text(max_size=80)
)
def test_a_signature_is_the_one_of_standard_webhooks(body: bytes, at: int, id: str) -> None:
    secret, name = new_secret(), header_id(id)
    assert sign(secret, name, at, body) == Oracle(secret).sign(name, datetime.fromtimestamp(at, UTC), body.decode())


@given(st.text(max_size=2000))
def test_the_id_of_a_header_is_short_visible_ascii_without_a_dot(id: str) -> None:
    name = header_id(id)
    assert len(name) <= 200 and name.isascii() and "." not in name and " " not in name
    assert not name or name.isprintable()


def test_ids_that_differ_differ_in_the_header_too() -> None:
    ids = ["a.b", "a%2Eb", "a b", "a%20b", "ä" * 400, "ä" * 401]
    assert len({header_id(id) for id in ids}) == len(ids)


def test_the_attempts_go_on_for_more_than_a_day_and_then_end() -> None:
    for row in (f"event-{n}>webhook:crm" for n in range(200)):
        pauses = [delay(row, attempt, None) for attempt in range(1, SCHEDULE.attempts + 1)]
        assert pauses[-1] is None and None not in pauses[:-1]
        total = sum(pause for pause in pauses if pause is not None)
        assert DAY < total < 1.5 * DAY
        assert 3.75 <= (pauses[0] or 0) <= 5


@pytest.mark.parametrize(
    ("asked", "least", "most"), [(0.0, 3.75, 5), (60.0, 60, 60), (30 * DAY, DAY, DAY), (None, 3.75, 5)]
)
def test_a_receiver_may_ask_for_more_time_up_to_a_day(asked: float | None, least: float, most: float) -> None:
    pause = delay("row", 1, asked)
    assert pause is not None and least <= pause <= most


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 5 ", 5.0),
        ("Tue, 14 Nov 2023 22:15:20 GMT", 120.0),
        ("Tue, 14 Nov 2022 22:15:20 GMT", 0.0),
        ("9" * 5000, 999_999_999_999.0),
        ("soon", None),
        ("", None),
        ("-5", None),
        ("١٢", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    assert seconds_asked(header, 1_700_000_000.0) == seconds


@pytest.mark.parametrize(
    ("failures", "hours", "pauses"), [(4, 100, False), (5, 23.9, False), (5, 24, True), (500, 1, False), (9, 30, True)]
)
def test_it_pauses_after_a_day_and_several_attempts_without_success(failures: int, hours: float, pauses: bool) -> None:
    failing = Failing(1000.0, failures, "answered 500")
    assert bool(reason_to_pause(failing, 1000.0 + hours * 3600)) is pauses


@pytest.mark.parametrize(
    "url",
    [
        "https://crm.example/hook",
        "https://crm.example:8443/a/b?c=d",
        "https://[2001:db8::1]/x",
        "https://xn--bcher-kva.example/",
    ],
)
def test_a_url_that_may_be(url: str) -> None:
    check_url(url, http=False)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://crm.example/", "use https"),
        ("ftp://crm.example/", "https://HOST"),
        ("file:///etc/passwd", "https://HOST"),
        ("crm.example/hook", "https://HOST"),
        ("https:///path", "https://HOST"),
        ("https://user:geheim@crm.example/", "no user and password"),
        ("https://user@crm.example/", "no user and password"),
        ("https://crm.example/#x", "no fragment"),
        ("https://crm.example:99999/", "no URL"),
        ("https://crm.example:0/", "https://HOST"),
        ("https://[::1/", "no URL"),
        ("https://crm.example/a b", "visible ASCII"),
        ("https://crm.example/\r\nX-Evil: 1", "visible ASCII"),
        ("https://crm.example\\@evil.example/", "visible ASCII"),
        ("https://bücher.example/", "visible ASCII"),
        ("https://crm.example/" + "a" * 3000, "visible ASCII"),
    ],
)
def test_a_url_that_may_not_be(url: str, why: str) -> None:
    with pytest.raises(BadMessage, match=why) as raised:
        check_url(url, http=False)
    assert "geheim" not in str(raised.value)


PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0",
    "255.255.255.255", "224.0.0.1", "192.0.0.192", "198.18.0.1", "168.63.129.16", "::1", "::", "fe80::1",
    "fe80::1%eth0", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1",
    "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "fec0::1", "::a00:1", "not an address", "",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_not_taken(address: str) -> None:
    assert not Networks().takes(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34"])
def test_a_public_address_is_taken(address: str) -> None:
    assert Networks().takes(address)


def test_a_network_can_be_allowed() -> None:
    networks = Networks(("10.1.0.0/16", "::1"))
    assert networks.takes("10.1.255.3") and networks.takes("::1") and networks.takes("::ffff:10.1.2.3")
    assert not networks.takes("10.2.0.1") and not networks.takes("127.0.0.1")
    with pytest.raises(ConfigError, match=r"webhooks\.allow"):
        Networks(("localhost",))


@pytest.mark.parametrize("secret", ["geheim", "whsec_", "whsec_AAAA", "whsec_" + "A" * 100 + "!", "A" * 44])
def test_a_secret_that_is_none_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(BadMessage) as raised:
        check_secret(secret)
    assert secret == "whsec_" or secret not in str(raised.value)


def test_names() -> None:
    check_name("shop-crm_2")
    for name in ("", "Shop", "a b", "-a", "a" * 64, "a#2", "a/b"):
        with pytest.raises(BadMessage):
            check_name(name)
    assert name_of("https://hooks.crm.example:8443/x", []) == "hooks-crm-example"
    assert name_of("https://crm.example/x", ["crm-example"]) == "crm-example-2"
    assert name_of("https://[::1]/", []) == "1"


def test_a_pattern_takes_a_type_or_all_below_a_name() -> None:
    assert matches("user.*", "user.registered") and not matches("user.*", "users.registered")
    assert matches("user.registered", "user.registered") and not matches("user", "user.registered")


def test_a_query_is_not_shown() -> None:
    assert shown_url("https://crm.example/a?token=geheim") == "https://crm.example/a?***"
    assert shown_url("https://crm.example/a") == "https://crm.example/a"


def test_a_subscription_is_what_its_events_say() -> None:
    found = Subscriptions()
    first, second = Secret(new_secret()), Secret(new_secret())
    found.apply(WebhookAdded("crm", "https://crm.example/", first, ("user.*",)), 1.0, 1)
    webhook = found.find("crm")
    assert webhook is not None and webhook.sink == "webhook:crm" and webhook.wants("user.registered", 2.0)
    assert not webhook.wants("order.closed", 2.0)

    found.apply(SecretRotated("crm", second, old_until=100.0), 10.0, 2)
    webhook = found.find("crm")
    assert webhook is not None
    assert webhook.signing(50.0) == [second.reveal(), first.reveal()] and webhook.signing(100.0) == [second.reveal()]

    found.apply(WebhookFailing("crm", 11.0, 3, "answered 500"), 12.0, 3)
    webhook = found.find("crm")
    assert webhook is not None and webhook.needs_somebody
    found.apply(WebhookRecovered("crm"), 13.0, 4)
    found.apply(WebhookPaused("crm", "tired"), 14.0, 5)
    webhook = found.find("crm")
    assert webhook is not None and webhook.is_paused and not webhook.needs_somebody
    assert webhook.wants("user.registered", 14.0 + 6 * DAY) and not webhook.wants("user.registered", 14.0 + 8 * DAY)
    found.apply(WebhookResumed("crm"), 15.0, 6)

    found.apply(WebhookRemoved("crm"), 16.0, 7)
    assert found.find("crm") is None and len(found) == 0
    found.apply(WebhookPaused("crm"), 17.0, 8)
    found.apply(WebhookAdded("crm", "https://crm.example/", first), 18.0, 9)
    webhook = found.find("crm")
    assert webhook is not None and webhook.sink == "webhook:crm#2" and found.version == 9


def test_what_holds_a_secret_does_not_show_it() -> None:
    secret = new_secret()
    found = Subscriptions()
    webhook = found.apply(WebhookAdded("crm", "https://crm.example/", Secret(secret)), 1.0, 1)
    assert secret not in repr(webhook) and secret not in repr(WebhookAdded("crm", "u", Secret(secret)))
