"""Finds the store or bus that a URL names: its scheme is looked up among the entry points of what is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from .errors import ConfigError
from .event_log import EventStore
from .ports import Bus, Sender

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

STORES = "orchestrator.stores"
BUSES = "orchestrator.buses"
SENDERS = "orchestrator.senders"
DISTRIBUTION = "saga-orchestrator"

# Our own entry points. To read what is installed takes a tenth of the time in which `orchestrator status` answers.
OWN = {
    (STORES, "memory"): "orchestrator.memory:MemoryStore",
    (STORES, "sqlite"): "orchestrator_adapters.sqlite:SQLiteStore",
    (BUSES, "memory"): "orchestrator.memory:MemoryBus",
    (BUSES, "nats"): "orchestrator_adapters.nats:NatsBus",
    (BUSES, "kafka"): "orchestrator_adapters.kafka:KafkaBus",
    (BUSES, "amqp"): "orchestrator_adapters.rabbitmq:RabbitBus",
    (BUSES, "amqps"): "orchestrator_adapters.rabbitmq:RabbitBus",
    (BUSES, "sqs"): "orchestrator_adapters.sqs:SqsBus",
    (SENDERS, "https"): "orchestrator_adapters.webhook:HttpSender",
}
EXTRAS = {"amqps": "amqp", "https": "webhooks"}  # the others are named like their scheme


def open_store(url: str, *, read_only: bool = False) -> EventStore:
    """The store that a URL such as `sqlite:///shop.db` names, to be opened with `async with`; `read_only` beside the
    process that writes. Errors: ConfigError, for a scheme that nothing installed knows, or as the store says.
    """
    return cast(EventStore, _adapter(STORES, "store", url).from_url(url, read_only=read_only))


def open_bus(url: str) -> Bus:
    """The bus that a URL names, to be opened with `async with`. Errors: ConfigError."""
    return cast(Bus, _adapter(BUSES, "bus", url).from_url(url))


def open_sender(takes: Callable[[str], bool]) -> Sender:
    """What carries webhooks, to IP addresses that `takes` takes. Errors: ConfigError, if it is not installed."""
    return cast(Sender, _adapter(SENDERS, "sender of webhooks", "https:").allowing(takes))


def _adapter(group: str, what: str, url: str) -> Any:
    scheme, colon, _ = url.partition(":")
    if colon and (own := OWN.get((group, scheme))):
        module, _, name = own.partition(":")
        try:
            return getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            raise _not_installed(what, url, error, DISTRIBUTION, f"[{EXTRAS.get(scheme, scheme)}]") from error
    known = {entry.name: entry for entry in entry_points(group=group)}
    if not colon or scheme not in known:
        schemes = ", ".join(f"{name}:" for name in sorted(known)) or f"none: is {DISTRIBUTION} installed?"
        if group == STORES and not colon:
            raise ConfigError(f"{url!r} is no URL of a store: a file's is sqlite:///{url}; known are {schemes}")
        # A URL may hold a password: only its scheme is shown.
        raise ConfigError(f"there is no {what} for {scheme + colon!r}; known are {schemes}")
    return _loaded(known[scheme], what, url)


def entry_points(group: str) -> EntryPoints:
    """What is installed."""
    metadata = import_module("importlib.metadata")
    return cast("EntryPoints", metadata.entry_points(group=group))


def _loaded(entry: EntryPoint, what: str, url: str) -> Any:
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        name = entry.dist.name if entry.dist is not None else DISTRIBUTION
        extra = f"[{entry.name}]" if entry.dist is not None and _has_extra(entry) else ""
        raise _not_installed(what, url, error, name, extra) from error


def _not_installed(what: str, url: str, error: ModuleNotFoundError, distribution: str, extra: str) -> ConfigError:
    return ConfigError(
        f"{what} {url.partition(':')[0]}: needs {error.name}, which is not installed: "
        f"{sys.executable} -m pip install '{distribution}{extra}'"
    )


def _has_extra(entry: EntryPoint) -> bool:
    assert entry.dist is not None
    return entry.name in (entry.dist.metadata.get_all("Provides-Extra") or ())
