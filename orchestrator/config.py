"""What can be set."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from .machine.limits import AtLeastOne, MachineLimits, Seconds
from .ports import MAX_PAGE
from .topics import NO_SETTINGS, TopicSettings


class Limits(MachineLimits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every limit there is (R20), with those of the machine. When one is reached the bus is not read further.

    mailbox          messages that wait for one instance, before its sender has to wait; less than in_flight, so that
                     one instance does not take all the room there is
    in_flight        commands at local participants at a time, one participant at most half of them; and messages
                     accepted but not yet committed
    handed           outbox rows held in memory for participants, and for listeners; more are left in the store until
                     there is room
    threads          threads for participants and listeners that are a plain `def`
    group            transitions in one commit, at most
    projected        events of one transaction of a projection, at most 500
    page             rows of one page of a list, at most 500
    body_bytes       size of one message (R16)
    depth            nesting of one message's JSON
    timer_batch      timers let out at a time, so that a storm after a long stop does not hold up new messages (R19)
    prefetch         messages taken from the bus and not yet acknowledged
    handler_tries    tries of a message whose handler raises, before it is set aside (R15)
    hot_instances    instances held in memory after their last message
    retention_s      seconds an ended instance is kept (R14): 30 days
    drain_s          seconds a stopping daemon gives to what is in flight
    store_full_s     seconds a message waits for a store that is full or away before its sender is told to come back
    """

    mailbox: AtLeastOne = 200
    in_flight: AtLeastOne = 1_000
    handed: AtLeastOne = 4_000
    threads: AtLeastOne = 64
    group: AtLeastOne = 256
    projected: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = MAX_PAGE
    page: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = MAX_PAGE
    body_bytes: AtLeastOne = 1024 * 1024
    depth: AtLeastOne = 64
    timer_batch: AtLeastOne = 200
    prefetch: AtLeastOne = 256
    handler_tries: AtLeastOne = 3
    hot_instances: AtLeastOne = 10_000
    retention_s: Seconds = 30 * 86_400.0
    drain_s: Seconds = 10.0
    store_full_s: Seconds = 5.0


class WebhookSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where webhooks may go.

    allow   networks, such as "10.1.0.0/16", that receivers may be in although they are not public
    http    whether http:// is taken too, for all webhooks
    """

    allow: tuple[str, ...] = ()
    http: bool = False


NO_WEBHOOK_SETTINGS = WebhookSettings()


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings, as the command line, `ORCHESTRATOR_*` and `orchestrator.toml` name them.

    app      "module:attribute" or "file.py:attribute" (default attribute `app`); empty: none given
    app_dir  the directory that the app is imported from, first on the import path: the file's own, or the current one
    store    URL of the store; its scheme finds the adapter
    bus      URL of the bus; empty: none, messages stay in this process
    log      how the daemon logs: "json" one object a line, "text" readable lines, "auto" text on a terminal, else json
    level    the least that is logged
    topics   see TopicSettings: how the topics of the bus are named; `[topics]` in a file, `ORCHESTRATOR_TOPICS__PREFIX`
             in the environment, where a table is given as JSON
    webhooks see WebhookSettings: where webhooks may go; `[webhooks]` in a file
    limits   see Limits; `limits.mailbox` in a flag's name, `ORCHESTRATOR_LIMITS__MAILBOX` in the environment
    """

    app: str = ""
    app_dir: str = "."
    store: str = "sqlite:///orchestrator.db"
    bus: str = ""
    log: Literal["auto", "text", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"
    topics: TopicSettings = NO_SETTINGS
    webhooks: WebhookSettings = NO_WEBHOOK_SETTINGS
    limits: Limits = Limits()
