"""Webhooks as data: who wants which events where, how a request is signed, when to try again, when to stop trying.

A subscription is what its events say, in the stream `$webhooks` of the store's log; nothing here does I/O.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import quote, urlsplit

from msgspec import Struct
from msgspec.structs import replace

from .errors import BadMessage, ConfigError
from .messages import Event, Secret
from .recorded import WEBHOOKS
from .retry import Retry

STREAM = WEBHOOKS
SINK = "webhook:"  # before the name, in the names of outbox rows and dead letters
SECRET = "whsec_"
NEW_KEY_BYTES = 32
KEY_BYTES = range(24, 65)  # as Standard Webhooks has it
OLD_SECRET_S = 86_400.0  # a secret signs along for so long after it was replaced
SECRETS = 3  # that sign at a time, at most
MOST = 100  # webhooks of one store
URL_CHARS = 2048
ID_CHARS = 200  # of the header webhook-id
TIMEOUT_S = 15.0  # one attempt, in all
SCHEDULE = Retry(attempts=10, timeout=TIMEOUT_S, initial=5, multiplier=5, maximum=36_000)  # 26 to 36 hours in all
ASKED_S = 86_400.0  # the longest Retry-After that is honoured
TOLD_S = 300.0  # a failure that lasts so long is written down
PAUSE_AFTER_S = 86_400.0  # without one success,
PAUSE_AFTER = 5  # and so many failures
QUEUES_S = 7 * 86_400.0  # a paused webhook keeps what comes for so long


# What happens to a subscription.


class WebhookEvent(Event, type="$webhook"):
    """Something that happened to the webhook of this name."""

    name: str


class WebhookAdded(WebhookEvent, type="$webhook.added"):
    """`types`: wire types, or `user.*` for all that begin so; none: all boundary events. `insecure`: http:// too."""

    url: str
    secret: Secret[str]
    types: tuple[str, ...] = ()
    insecure: bool = False


class SecretRotated(WebhookEvent, type="$webhook.rotated"):
    """There is a new secret; what signed before signs along until then, in seconds since 1970."""

    secret: Secret[str]
    old_until: float


class WebhookPaused(WebhookEvent, type="$webhook.paused"):
    """Nothing is delivered until it is resumed. `by_itself`: no person asked for it."""

    why: str = ""
    by_itself: bool = False


class WebhookResumed(WebhookEvent, type="$webhook.resumed"):
    """Deliveries go on."""


class WebhookFailing(WebhookEvent, type="$webhook.failing"):
    """Nothing was taken since then, in seconds since 1970, in so many attempts; the last one's error."""

    since: float
    failures: int
    error: str


class WebhookRecovered(WebhookEvent, type="$webhook.recovered"):
    """A delivery was taken again."""


class WebhookTested(Event, type="webhook.test"):
    """Sent to a webhook to see whether it arrives; not in the log."""

    name: str


class WebhookRemoved(WebhookEvent, type="$webhook.removed"):
    """It is no more; what it had not delivered is dropped."""


EVENTS: tuple[type[WebhookEvent], ...] = (
    WebhookAdded,
    SecretRotated,
    WebhookPaused,
    WebhookResumed,
    WebhookFailing,
    WebhookRecovered,
    WebhookRemoved,
)


class SigningKey(Struct, frozen=True):
    """A secret, and until when it signs, in seconds since 1970 (None: until it is replaced)."""

    secret: Secret[str]
    until: float | None = None


class Failing(Struct, frozen=True):
    """Attempts without a success between them: since when, in seconds since 1970, how many, the last one's error."""

    since: float
    failures: int = 0
    error: str = ""

    def again(self, error: str) -> Failing:
        """After one more."""
        return Failing(self.since, self.failures + 1, error)


class Webhook(Struct, frozen=True, kw_only=True):
    """A subscription as it stands. `sink` names it in outbox rows and dead letters: a name that was removed and is used
    again gets another one, so that nothing meant for the old receiver reaches the new one. `keys`: the newest first.
    """

    name: str
    sink: str
    url: str
    keys: tuple[SigningKey, ...]
    added_at: float
    types: tuple[str, ...] = ()
    insecure: bool = False
    paused_at: float | None = None
    paused_by_itself: bool = False
    why: str = ""
    failing: Failing | None = None

    @property
    def is_paused(self) -> bool:
        """Whether nothing is delivered."""
        return self.paused_at is not None

    @property
    def needs_somebody(self) -> bool:
        """Whether it fails, or paused by itself."""
        return self.failing is not None or (self.is_paused and self.paused_by_itself)

    def wants(self, wire_type: str, now: float) -> bool:
        """Whether an event of this type is kept for it. What was paused long ago gets nothing more to keep."""
        if self.paused_at is not None and now - self.paused_at > QUEUES_S:
            return False
        return not self.types or any(matches(pattern, wire_type) for pattern in self.types)

    def signing(self, now: float) -> list[str]:
        """The secrets that sign at that moment, the newest first."""
        return [key.secret.reveal() for key in self.keys if key.until is None or now < key.until][:SECRETS]


class Subscriptions:
    """All webhooks by name, folded from their events."""

    def __init__(self) -> None:
        """There are none."""
        self.version = 0  # of the stream, as far as it was read
        self._all: dict[str, Webhook] = {}
        self._added: dict[str, int] = {}  # how often there was one of this name

    def __iter__(self) -> Iterator[Webhook]:
        """In the order in which they were added."""
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    def find(self, name: str) -> Webhook | None:
        """The webhook of this name."""
        return self._all.get(name)

    def apply(self, event: WebhookEvent, at: float, version: int) -> Webhook | None:
        """The next event of the stream, of that moment: the webhook as it is now; None: it is no more, or never was."""
        self.version = version
        if isinstance(event, WebhookAdded):
            self._all[event.name] = self._added_by(event, at)
        elif isinstance(event, WebhookRemoved):
            self._all.pop(event.name, None)
        elif event.name in self._all:
            self._all[event.name] = changed(self._all[event.name], event, at)
        return self._all.get(event.name)

    def _added_by(self, event: WebhookAdded, at: float) -> Webhook:
        number = self._added[event.name] = self._added.get(event.name, 0) + 1
        return Webhook(
            name=event.name,
            sink=f"{SINK}{event.name}" + (f"#{number}" if number > 1 else ""),
            url=event.url,
            keys=(SigningKey(event.secret),),
            added_at=at,
            types=event.types,
            insecure=event.insecure,
        )


def changed(webhook: Webhook, event: WebhookEvent, at: float) -> Webhook:
    """A webhook after an event of that moment."""
    match event:
        case SecretRotated():
            old = tuple(
                SigningKey(key.secret, min(event.old_until, key.until or event.old_until)) for key in webhook.keys
            )
            return replace(webhook, keys=(SigningKey(event.secret), *old)[:SECRETS])
        case WebhookPaused():
            return replace(webhook, paused_at=at, paused_by_itself=event.by_itself, why=event.why)
        case WebhookResumed():
            return replace(webhook, paused_at=None, paused_by_itself=False, why="", failing=None)
        case WebhookFailing():
            return replace(webhook, failing=Failing(event.since, event.failures, event.error))
        case WebhookRecovered():
            return replace(webhook, failing=None)
        case _:
            return webhook


# When.


def delay(row: str, attempt: int, asked: float | None) -> float | None:
    """Seconds to wait after failed attempt number `attempt` of an outbox row; None: give up. `asked`, the receiver's
    Retry-After, makes it longer, never shorter.
    """
    pause = SCHEDULE.delay(row, attempt, 0.0)
    if pause is None or asked is None:
        return pause
    return max(pause, min(asked, ASKED_S))


def seconds_asked(retry_after: str, now: float) -> float | None:
    """What a Retry-After header asks for, seconds or a date; None if it says neither."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now)


def problem_of(status: int) -> str:
    """What is wrong with an answer of this status, or empty."""
    if 200 <= status < 300:
        return ""
    return f"answered {status}" + (": redirects are not followed" if 300 <= status < 400 else "")


def is_worth_telling(failing: Failing, now: float) -> bool:
    """Whether it has failed for so long that people should see it."""
    return now - failing.since >= TOLD_S


def reason_to_pause(failing: Failing, now: float) -> str:
    """Why a webhook that fails is to pause by itself, or empty: it goes on being tried."""
    if failing.failures < PAUSE_AFTER or now - failing.since < PAUSE_AFTER_S:
        return ""
    hours = (now - failing.since) / 3600
    return f"nothing was taken for {hours:.0f} hours, in {failing.failures} attempts; the last: {failing.error}"


# What a request says.


def new_secret() -> str:
    """A secret that nobody else has."""
    return SECRET + base64.b64encode(os.urandom(NEW_KEY_BYTES)).decode()


def signed_headers(webhook: Webhook, id: str, now: float, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks: one signature for each secret that is in force."""
    timestamp = int(now)
    return {
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(secret, id, timestamp, body) for secret in webhook.signing(now)),
    }


def sign(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """One signature, as Standard Webhooks has it."""
    signed = b"%s.%d.%s" % (id.encode(), timestamp, body)
    digest = hmac.new(base64.b64decode(secret.removeprefix(SECRET)), signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def header_id(event_id: str) -> str:
    """An event's id as the header webhook-id has it: visible ASCII without a dot, which divides what is signed."""
    text = quote(event_id, safe="!#$&'()*+,/:;=?@[]^_`{|}~<>-").replace(".", "%2E")
    if len(text) <= ID_CHARS:
        return text
    return "b2_" + hashlib.blake2b(event_id.encode(), digest_size=32).hexdigest()


# What may be asked for.

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def check_name(name: str) -> None:
    """Errors: BadMessage."""
    if not _NAME.fullmatch(name):
        raise BadMessage(f"{name!r} does not name a webhook: up to 63 of a-z, 0-9, - and _, as in shop-crm")


def name_of(url: str, taken: Sequence[str] | Mapping[str, object]) -> str:
    """A name for a webhook to this URL that is not taken yet, from its host."""
    base = re.sub(r"[^a-z0-9]+", "-", (urlsplit(url).hostname or "").lower()).strip("-")[:50] or "webhook"
    return next(name for n in range(1, len(taken) + 2) if (name := base if n == 1 else f"{base}-{n}") not in taken)


def check_secret(secret: str) -> None:
    """Errors: BadMessage, which does not show it."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET), validate=True) if secret.startswith(SECRET) else b""
    except (binascii.Error, ValueError):
        key = b""
    if len(key) not in KEY_BYTES:
        raise BadMessage(f"a secret is {SECRET} and 24 to 64 bytes in base64; leave it out, and one is made")


def check_types(patterns: Sequence[str], known: Iterable[str]) -> None:
    """Errors: BadMessage, for a type that no boundary event has."""
    known = sorted(set(known))
    for pattern in patterns:
        if not any(matches(pattern, wire_type) for wire_type in known):
            there = ", ".join(known) or "none: a class says boundary=True"
            raise BadMessage(f"no boundary event here is of the type {pattern!r}; there are {there}")


def matches(pattern: str, wire_type: str) -> bool:
    """Whether a pattern, a wire type or `user.*`, takes a type."""
    return wire_type.startswith(pattern[:-1]) if pattern.endswith(".*") else pattern == wire_type


def check_url(url: str, *, http: bool) -> None:
    """Whether a URL may be a webhook's, by its text alone. Errors: BadMessage, with what to do."""
    if len(url) > URL_CHARS or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise BadMessage(
            f"a webhook's URL is at most {URL_CHARS} visible ASCII characters, percent-encoded where need be"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadMessage(f"this is no URL: {error}") from None
    if parts.scheme not in ("https", "http") or not host or port == 0:
        raise BadMessage("a webhook's URL is https://HOST/PATH")
    if parts.scheme == "http" and not http:
        raise BadMessage("http:// lets everybody on the way read and change what is sent: use https, or say --insecure")
    if parts.username is not None or parts.password is not None:
        raise BadMessage("a webhook's URL holds no user and password: the receiver checks the signature instead")
    if parts.fragment:
        raise BadMessage("a webhook's URL has no fragment (#...): it would not be sent")


def shown_url(url: str) -> str:
    """A URL for logs and screens: a query may hold a token."""
    return url.partition("?")[0] + ("?***" if "?" in url else "")


# Where a request may go.

# Public by their registry, and yet answered by the network one is in, or by who is written in them.
_NOT_PUBLIC = (
    ip_network("168.63.129.16/32"),  # the wire server of Azure
    ip_network("192.0.0.0/24"),  # of protocols; Oracle's metadata for one. Python's releases differ about it
    ip_network("2001::/23"),  # Teredo and other protocols
    ip_network("2002::/16"),  # 6to4: an IPv4 address is written in it
)
_UNICAST = ip_network("2000::/3")  # the part of IPv6 that is given out


class Networks:
    """Networks that are allowed although they are not public."""

    def __init__(self, networks: Sequence[str] = ()) -> None:
        """Errors: ConfigError."""
        try:
            self._networks = [ip_network(text, strict=False) for text in networks]
        except ValueError as error:
            raise ConfigError(f"webhooks.allow: {error}: write a network as 10.1.0.0/16") from None

    def takes(self, address: str) -> bool:
        """Whether a request may go to this address: a public one, or one that is allowed."""
        try:
            found = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in network for network in self._networks) or _is_public(found)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and address not in _UNICAST:
        return False
    return address.is_global and not address.is_multicast and not any(address in network for network in _NOT_PUBLIC)
