"""Moto's server for SNS and SQS, run as a script with a port. Mended where it would fail a test for no fault of ours:

- its queues are lists that its threads change without a lock: a message that comes while another is deleted is lost;
- its long poll spins while all that is visible belongs to keys that are held back;
- it makes an RSA key for every subscription.
"""

from __future__ import annotations

import sys
import time
from functools import wraps
from threading import RLock
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from moto.server import main
from moto.sns.models import Subscription
from moto.sqs.models import SQSBackend

LOOK_S = 0.01
ALONE = (
    "create_queue",
    "send_message",
    "delete_message",
    "change_message_visibility",
    "get_queue_attributes",
)
_lock = RLock()
_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def alone(method: Any) -> Any:
    """The method, one call at a time."""

    @wraps(method)
    def locked(*args: Any, **kwargs: Any) -> Any:
        with _lock:
            return method(*args, **kwargs)

    return locked


def long_poll(receive: Any) -> Any:
    """A poll that looks again and again, and sleeps between."""

    @wraps(receive)
    def waiting(self: Any, queue: str, count: int, wait_s: int, *args: Any, **kwargs: Any) -> Any:
        end = time.monotonic() + wait_s
        while True:
            with _lock:
                found = receive(self, queue, count, 0, *args, **kwargs)
            if found or time.monotonic() >= end:
                return found
            time.sleep(LOOK_S)

    return waiting


if __name__ == "__main__":
    for name in ALONE:
        setattr(SQSBackend, name, alone(getattr(SQSBackend, name)))
    SQSBackend.receive_message = long_poll(SQSBackend.receive_message)  # type: ignore[method-assign]
    Subscription.private_key = lambda self: _key  # type: ignore[assignment,method-assign]
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
