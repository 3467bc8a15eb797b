"""The bus on Kafka, over aiokafka."""

from .bus import KafkaBus

__all__ = ["KafkaBus"]
