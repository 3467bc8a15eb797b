"""The bus on Amazon SNS and SQS: a FIFO topic for what is sent, a FIFO queue for who takes it."""

from .bus import SqsBus

__all__ = ["SqsBus"]
