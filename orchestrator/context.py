"""What a handler may ask about the message it handles: `now`, `unique_id`, `delivery`; all from the record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime

from msgspec import Struct

from .errors import OrchestratorError


class Handling(Struct, frozen=True):
    """The message under way, as handlers may see it. `time` is when the message was made."""

    id: str
    type: str
    time: datetime
    user: str = ""
    correlation_id: str = ""
    causation_id: str = ""


About = Callable[[], tuple[Handling, float, str]]

handled: ContextVar[About | None] = ContextVar("handled", default=None)
"""What the code of a handler may ask: the message, the moment it is handled at (seconds since 1970), and the scope in
which ids are unique. Few handlers ask, so it is a function, called only then.
"""


def _current() -> tuple[Handling, float, str]:
    about = handled.get()
    if about is None:
        raise OrchestratorError("now(), unique_id() and delivery() answer only inside a saga's step or handler")
    return about()


def now() -> datetime:
    """The moment of this transition (UTC), the same when it is folded again.

    Errors: OrchestratorError outside a handler.
    """
    return datetime.fromtimestamp(_current()[1], UTC)


def unique_id(label: str) -> str:
    """32 hex digits that no other message, instance or label has; the same when it is folded again.
    Errors: OrchestratorError outside a handler.
    """
    message, _, scope = _current()
    return hashlib.blake2b(f"{scope}\0{message.id}\0{label}".encode(), digest_size=16).hexdigest()


def delivery() -> Handling:
    """The id, type, time, user and correlation of the message under way.

    Errors: OrchestratorError outside a handler.
    """
    return _current()[0]
