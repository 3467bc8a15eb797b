"""The webhooks of a store while it is open: what its log says of them, and one sink for each, which delivers to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import anyio
from msgspec import Raw, Struct

from ..app import App
from ..cloudevents import STRUCTURED, boundary_event
from ..config import NO_WEBHOOK_SETTINGS, WebhookSettings
from ..errors import BadMessage, ConfigError, NotFound, NotSent, OrchestratorError, Refused, VersionConflict
from ..event_log import EventLog
from ..messages import Secret, encode
from ..ports import Clock, Post, Posted, Sender
from ..recorded import Cause
from ..urls import open_sender
from ..webhooks import (
    EVENTS,
    MOST,
    OLD_SECRET_S,
    SINK,
    STREAM,
    TIMEOUT_S,
    Failing,
    Networks,
    SecretRotated,
    Subscriptions,
    Webhook,
    WebhookAdded,
    WebhookEvent,
    WebhookFailing,
    WebhookPaused,
    WebhookRecovered,
    WebhookRemoved,
    WebhookResumed,
    WebhookTested,
    check_name,
    check_secret,
    check_types,
    check_url,
    delay,
    header_id,
    is_worth_telling,
    name_of,
    new_secret,
    problem_of,
    reason_to_pause,
    seconds_asked,
    shown_url,
    signed_headers,
)
from ..wire import Envelope, Kind, Outgoing
from .functions import Functions, OutOfTime
from .pool import Worker
from .sinks import Delivered, GivenUp, Kept, Later, Sink, Verdict

GONE = 410

_log = logging.getLogger(__name__)


class Tested(Struct, frozen=True):
    """What came of a test: the status that the receiver answered (0: none), and what is wrong, or empty."""

    status: int
    problem: str


class Webhooks:
    """Who subscribes to the boundary events of an app, and their sinks.

    `on_paused`, `on_resumed` and `on_removed` are told the name of the sink.
    """

    def __init__(
        self,
        app: App[object],
        events: EventLog,
        source: str,
        clock: Clock,
        settings: WebhookSettings = NO_WEBHOOK_SETTINGS,
        sender: Sender | None = None,
    ) -> None:
        """Of the log `events`. Without a sender, the one that is installed is opened when it is first needed.

        Errors: ConfigError, for a network that is none.
        """
        self._app = app
        self._events = events
        self._source = source
        self._clock = clock
        self._settings = settings
        self._networks = Networks(settings.allow)
        self._sender = sender
        self._functions: Functions | None = None
        self._all = Subscriptions()
        self._sinks: dict[str, _Sink] = {}
        self._writing = anyio.Lock()
        self.on_paused: Callable[[str], None] = _nothing
        self.on_resumed: Callable[[str], None] = _nothing
        self.on_removed: Callable[[str], None] = _nothing

    def __iter__(self) -> Iterator[Webhook]:
        """As they stand, in the order in which they were added."""
        return iter(self._all)

    async def load(self) -> None:
        """Read what the log says. Errors: StoreError."""
        self._functions = Functions(1)
        await self._read()

    async def close(self) -> None:
        """Let go of connections."""
        if self._sender is not None:
            await self._sender.close()

    # What the engine asks.

    def wanting(self, event: Envelope) -> Sequence[str]:
        """The sinks that are to have this event: of all boundary events those that they subscribe to."""
        if not self._sinks or not self._app.is_boundary(event.type):
            return []
        now = self._clock.now()
        return [webhook.sink for webhook in self._all if webhook.wants(event.type, now)]

    def names(self) -> tuple[str, ...]:
        """Of all sinks."""
        return tuple(self._sinks)

    def find(self, name: str) -> Sink | None:
        """The sink of this name."""
        return self._sinks.get(name)

    def is_one(self, name: str) -> bool:
        """Whether this is the name of a webhook's sink, even of one that was removed."""
        return name.startswith(SINK)

    # What people ask.

    def get(self, name: str) -> Webhook:
        """The webhook of this name. Errors: NotFound."""
        webhook = self._all.find(name)
        if webhook is None:
            known = ", ".join(each.name for each in self._all) or "none"
            raise NotFound(f"there is no webhook {name}; there are {known}")
        return webhook

    async def add(
        self,
        url: str,
        *,
        name: str = "",
        types: tuple[str, ...] = (),
        secret: str = "",
        insecure: bool = False,
        who: str = "",
    ) -> Webhook:
        """Subscribe a URL to boundary events of these types (none: to all) from now on.

        Errors: BadMessage; Refused, if the name is taken, there are too many, or the address is none that requests may
        go to; ConfigError, if what sends them is not installed.
        """
        check_url(url, http=insecure or self._settings.http)
        check_types(types, self._app.boundary_types())
        if secret:
            check_secret(secret)
        if name:
            check_name(name)
        await self._check_target(url)

        def added() -> WebhookAdded:
            free = name or name_of(url, [each.name for each in self._all])
            if self._all.find(free) is not None:
                raise Refused(f"there is a webhook {free} already: give another name, or remove that one")
            if len(self._all) >= MOST:
                raise Refused(f"there are {MOST} webhooks, which is the most")
            signing = Secret(secret or new_secret())
            return WebhookAdded(free, url, secret=signing, types=types, insecure=insecure)

        webhook = await self._say(added, who)
        assert webhook is not None
        return webhook

    async def pause(self, name: str, why: str = "", who: str = "") -> Webhook:
        """Deliver nothing until it is resumed; what comes meanwhile is kept. Errors: NotFound; Refused."""

        def paused() -> WebhookPaused:
            if self.get(name).is_paused:
                raise Refused(f"{name} is paused already")
            return WebhookPaused(name, why=why)

        await self._say(paused, who)
        return self.get(name)

    async def resume(self, name: str, who: str = "") -> Webhook:
        """Deliver again, first what was kept. Errors: NotFound; Refused."""

        def resumed() -> WebhookResumed:
            if not self.get(name).is_paused:
                raise Refused(f"{name} is not paused")
            return WebhookResumed(name)

        await self._say(resumed, who)
        return self.get(name)

    async def rotate(self, name: str, secret: str = "", *, at_once: bool = False, who: str = "") -> Webhook:
        """Sign with a new secret; for a day also with the old one, unless `at_once`. Errors: NotFound; BadMessage."""
        if secret:
            check_secret(secret)
        until = self._clock.now() + (0.0 if at_once else OLD_SECRET_S)
        signing = Secret(secret or new_secret())

        def rotated() -> SecretRotated:
            return SecretRotated(self.get(name).name, secret=signing, old_until=until)

        await self._say(rotated, who)
        return self.get(name)

    async def remove(self, name: str, who: str = "") -> Webhook:
        """Forget it, with what it has not delivered. Returns it as it was. Errors: NotFound."""
        webhook = self.get(name)
        await self._say(lambda: WebhookRemoved(self.get(name).name), who)
        return webhook

    async def test(self, name: str) -> Tested:
        """Send one event of the type `webhook.test` now, paused or not; it counts for nothing. Errors: NotFound."""
        webhook, now = self.get(name), self._clock.now()
        event = Envelope(
            id=f"test-{name}-{now:.6f}",
            kind=Kind.EVENT,
            type=WebhookTested.__wire__.type,
            data=Raw(encode(WebhookTested(name))),
            time=now,
        )
        problem = f"no answer within {TIMEOUT_S:g} s"
        with anyio.move_on_after(TIMEOUT_S):
            try:
                posted = await self.post(webhook, event)
                return Tested(posted.status, problem_of(posted.status))
            except (NotSent, ConfigError) as error:
                problem = str(error)
        return Tested(0, problem)

    # What the sinks do.

    def sender(self) -> Sender:
        """Errors: ConfigError, if none is installed."""
        if self._sender is None:
            self._sender = open_sender(self._networks.takes)
        return self._sender

    async def post(self, webhook: Webhook, event: Envelope) -> Posted:
        """Send one event, signed. Errors: NotSent; ConfigError."""
        try:
            check_url(webhook.url, http=webhook.insecure or self._settings.http)  # what is set may have changed
        except BadMessage as error:
            raise NotSent(str(error)) from None
        body = boundary_event(event, self._source)
        headers = {"content-type": STRUCTURED, "user-agent": "saga-orchestrator"}
        headers |= signed_headers(webhook, header_id(event.id), self._clock.now(), body)
        return await self.sender().post(Post(webhook.url, headers, body))

    async def attempt(self, worker: Worker, webhook: Webhook, event: Envelope) -> tuple[Posted | None, str]:
        """One attempt in bounded time: what was answered, and what is wrong with it, or empty."""
        assert self._functions is not None
        try:
            posted: Posted = await self._functions.run(worker, self.post, (webhook, event), True, TIMEOUT_S)
        except OutOfTime:
            return None, f"no answer within {TIMEOUT_S:g} s"
        except (NotSent, ConfigError) as error:
            return None, str(error)
        except Exception as error:  # noqa: BLE001 whatever a sender raises is a failure of its attempt
            _log.error("webhook %s: the sender failed", webhook.name, exc_info=error)
            return None, f"the sender failed: {type(error).__name__}"
        return posted, problem_of(posted.status)

    def current(self, name: str, sink: str) -> Webhook | None:
        """The webhook of a sink, as it stands; None if it was removed."""
        webhook = self._all.find(name)
        return webhook if webhook is not None and webhook.sink == sink else None

    async def note(self, name: str, event: Callable[[], WebhookEvent | None]) -> None:
        """Write down what happened to one by itself, if anything; the log may not take it any more."""
        try:
            await self._say(event, "")
        except OrchestratorError as error:
            _log.warning("webhook %s: what happened cannot be written down: %s", name, error)

    def now(self) -> float:
        """What the clock shows."""
        return self._clock.now()

    # The log.

    async def _say(self, said: Callable[[], WebhookEvent | None], who: str) -> Webhook | None:
        """Write down what is said when its turn has come, then act upon it: the webhook as it is then.

        Errors: as `said`; StoreError.
        """
        async with self._writing:
            event = said()
            if event is None:
                return None
            at, cause, version = self._clock.now(), Cause(user=who), self._all.version
            try:
                appended = await self._events.append(STREAM, event, expected_version=version, cause=cause)
            except VersionConflict:
                await self._read()  # somebody else writes this stream too
                raise
            return self._apply(event, at, appended.version)

    async def _read(self) -> None:
        async for recorded in self._events.read(STREAM, self._all.version + 1, types=EVENTS):
            event = recorded.event
            assert isinstance(event, WebhookEvent)
            self._apply(event, recorded.metadata.time.timestamp(), recorded.version)

    def _apply(self, event: WebhookEvent, at: float, version: int) -> Webhook | None:
        before = self._all.find(event.name)
        after = self._all.apply(event, at, version)
        if before is not None and after is None:
            del self._sinks[before.sink]
            self.on_removed(before.sink)
        elif after is not None and before is None:
            self._sinks[after.sink] = _Sink(self, after)
        elif after is not None and before is not None and after.is_paused != before.is_paused:
            self._sinks[after.sink].failing = after.failing
            (self.on_paused if after.is_paused else self.on_resumed)(after.sink)
        return after

    async def _check_target(self, url: str) -> None:
        problem = "its host was not found in time"
        with anyio.move_on_after(TIMEOUT_S):
            try:
                await self.sender().check(url)
                return
            except NotSent as error:
                problem = str(error)
        raise Refused(f"{shown_url(url)} cannot be a webhook: {problem}")


class _Sink:
    """Delivers to one webhook, and knows how it fares."""

    def __init__(self, webhooks: Webhooks, webhook: Webhook) -> None:
        self.name = webhook.sink
        self.failing = webhook.failing
        self._webhooks = webhooks
        self._webhook_name = webhook.name

    @property
    def is_open(self) -> bool:
        webhook = self._webhook
        return webhook is not None and not webhook.is_paused

    @property
    def _webhook(self) -> Webhook | None:
        return self._webhooks.current(self._webhook_name, self.name)

    async def deliver(self, worker: Worker, row: Outgoing) -> Verdict:
        webhook = self._webhook
        if webhook is None or webhook.is_paused:
            return Kept()
        posted, problem = await self._webhooks.attempt(worker, webhook, row.envelope)
        if not problem:
            await self._taken()
            return Delivered()
        where = {"webhook": webhook.name, "event": row.envelope.id, "attempt": row.envelope.attempt}
        _log.warning("webhook %s: %s", webhook.name, problem, extra=where)
        return await self._failed(row, posted, problem)

    async def _taken(self) -> None:
        """It works (again)."""
        self.failing = None
        webhook = self._webhook
        if webhook is not None and webhook.failing is not None:
            await self._note(lambda webhook: WebhookRecovered(webhook.name) if webhook.failing is not None else None)

    async def _failed(self, row: Outgoing, posted: Posted | None, problem: str) -> Verdict:
        now = self._webhooks.now()
        failing = self.failing = (self.failing or Failing(now)).again(problem)
        reason = f"the receiver answered {GONE} Gone" if posted is not None and posted.status == GONE else ""
        if reason := reason or reason_to_pause(failing, now):
            await self._note(lambda webhook: WebhookPaused(webhook.name, why=reason, by_itself=True))
            if not self.is_open:
                return Kept()
        if is_worth_telling(failing, now):
            await self._note(self._told)
        attempt = row.envelope.attempt
        asked = seconds_asked(posted.retry_after, now) if posted is not None and posted.retry_after else None
        pause = delay(row.name, attempt, asked)
        return GivenUp(f"{self.name} failed {attempt} times", problem) if pause is None else Later(pause, problem)

    def _told(self, webhook: Webhook) -> WebhookFailing | None:
        failing = self.failing
        if failing is None or webhook.failing is not None:
            return None
        return WebhookFailing(webhook.name, since=failing.since, failures=failing.failures, error=failing.error)

    async def _note(self, event: Callable[[Webhook], WebhookEvent | None]) -> None:
        """Write down an event of this webhook, unless somebody paused or removed it meanwhile."""

        def said() -> WebhookEvent | None:
            webhook = self._webhook
            return None if webhook is None or webhook.is_paused else event(webhook)

        await self._webhooks.note(self._webhook_name, said)


def _nothing(name: str) -> None: ...
