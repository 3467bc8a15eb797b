"""What those outside a store know of it: the clients, the bus, the participants."""

from __future__ import annotations

from msgspec import Struct

from ...wire import Envelope


class Delivered(Struct, frozen=True):
    """One call of a participant as it came: `Call.key`, `.undoes`, `.attempt`, and the encoded command."""

    key: str
    undoes: str | None
    attempt: int
    data: bytes


class Effect(Struct, frozen=True):
    """A participant's state changed. `key` is the do's idempotency key, also of the undo that took it back."""

    key: str
    is_undo: bool = False


class Books(Struct, frozen=True):
    """All that was noted outside while a store was in use, nothing of it pruned since.

    accepted    messages acknowledged to a client or on the bus: their ids, or the messages themselves, which say more.
                An id has to be somewhere, so none is given of which nothing is kept: an event for listeners alone,
                a message of an earlier run of a restartable key, one that an operator dropped. Of a message itself
                each of those is known, and every instance it names is looked at.
    delivered   calls of participants, in the order of their coming.
    effects     real changes at all participants, in the order they happened: a do that was recognised as a
                repetition is none, nor is an undo of nothing.
    complete    wire types of the commands of which the books hold everything. A type that is not named here counts
                as complete once there is a delivery, or an effect, of it; of the others nothing is demanded.
    """

    accepted: tuple[str | Envelope, ...] = ()
    delivered: tuple[Delivered, ...] = ()
    effects: tuple[Effect, ...] = ()
    complete: tuple[str, ...] = ()
