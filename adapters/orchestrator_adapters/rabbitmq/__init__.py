"""The bus on RabbitMQ, over aiormq."""

from .bus import RabbitBus

__all__ = ["RabbitBus"]
