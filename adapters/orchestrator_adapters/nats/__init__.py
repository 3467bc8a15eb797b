"""The bus on NATS JetStream: a stream for each topic, a durable consumer for each group and topic."""

from .bus import NatsBus

__all__ = ["NatsBus"]
