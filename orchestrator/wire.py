"""What travels: the envelope round every message, and the rows that are to go out."""

from __future__ import annotations

from enum import StrEnum

import msgspec
from msgspec import Raw, Struct

from .enums import quick

# `gc=False` here and in the machine: values that hold no cycle need no visit of the garbage collector, which took an
# eighth of the daemon's time.

NOTHING = Raw(b"{}")
NULL = Raw(b"null")


@quick
class Kind(StrEnum):
    """What a message is to the instance that receives it."""

    EVENT = "event"
    COMMAND = "command"  # only outgoing: to a participant
    YES = "yes"  # replies: the answer that was hoped for,
    REFUSAL = "refusal"  # the business no,
    FAILURE = "failure"  # no answer for a technical reason
    TIMER = "timer"  # a message to oneself, sent later
    START = "start"  # a parent starts its child
    UNWIND = "unwind"  # a parent undoes its child
    VERB = "verb"  # an operator
    BUG = "bug"  # a message whose handler raised: set aside (R15)
    NEXT = "next"  # the next of the messages that queued behind a bug


class Address(Struct, frozen=True, order=True, gc=False):
    """Names one instance: the saga's name and the instance's key."""

    saga: str
    key: str

    def __str__(self) -> str:
        return f"{self.saga}/{self.key}"


class Envelope(Struct, frozen=True, omit_defaults=True, gc=False):
    """One message as it is carried, stored in history and folded again.

    `data` is the payload as JSON. `time` is when it was made, in seconds since 1970 UTC. `saga` and `key` name the
    instance it is for; `via` is the field an event was routed by. `reply_to` is the id of the command that a reply
    answers (or the visit or command a timer is about), `attempt` which attempt of it. `clean` marks a refusal of which
    the host knows that no earlier run of its key ever began (R6). `answer_to`: a child's parent, on START and UNWIND.
    """

    id: str
    kind: Kind
    type: str
    data: Raw = NOTHING
    time: float = 0.0
    saga: str = ""
    key: str = ""
    via: str = ""
    reply_to: str = ""
    attempt: int = 0
    clean: bool = False
    version: int = 1
    user: str = ""
    correlation_id: str = ""
    causation_id: str = ""
    traceparent: str = ""
    answer_to: Address | None = None

    @property
    def address(self) -> Address:
        """The instance this is for."""
        return Address(self.saga, self.key)

    def to(self, address: Address, via: str = "") -> Envelope:
        """The same message, addressed to one instance."""
        return msgspec.structs.replace(self, saga=address.saga, key=address.key, via=via)


@quick
class Route(StrEnum):
    """Where an outgoing row is carried."""

    COMMAND = "command"  # to a participant, here or behind the bus
    EVENT = "event"  # to whoever wants it: sagas and listeners here, and the bus
    INSTANCE = "instance"  # to another instance of this store: a child's start or unwind, its answer
    LISTENER = "listener"  # one event for one listener of this process
    REPLY = "reply"  # to who sent a command over the bus


class Outgoing(Struct, frozen=True, omit_defaults=True, gc=False):
    """A row of the outbox: stored in a transition's commit, taken out by the commit that settles it.

    `name` identifies the row (the command's id, the event's id, `event>listener`); putting a row of the same name
    replaces it. `due_at`: not before that moment, in seconds since 1970 (None: at once). `deadline` is when the attempt
    times out. `undoes` is, for a compensation, the key of the do that it undoes. `sender` is the instance that sent it.
    `reply_to`: the topic that the answer of a command that came over the bus goes to, or that a reply goes to.
    """

    name: str
    route: Route
    envelope: Envelope
    due_at: float | None = None
    deadline: float | None = None
    undoes: str = ""
    listener: str = ""
    sender: Address | None = None
    reply_to: str = ""


@quick
class Verb(StrEnum):
    """What an operator can ask of an instance (R17); `drop` gives up the message a bug set aside (R15)."""

    CANCEL = "cancel"
    KILL = "kill"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    SKIP = "skip"
    DONE = "done"
    DROP = "drop"


class Request(Struct, frozen=True, omit_defaults=True, gc=False):
    """The data of a VERB envelope, whose type is the verb and whose user is who asked.

    `step` is for skip, done and (optionally) retry; `element` one of a list step's; `reply` the JSON of done's reply,
    of type `reply_type` (default: the only one the step's command declares); `undo=False`: skip takes the step's undo
    out of the plan too.
    """

    why: str = ""
    step: str = ""
    element: int = -1
    reply: Raw = NULL
    reply_type: str = ""
    undo: bool = True


class DeadLetter(Struct, frozen=True, omit_defaults=True, gc=False):
    """A message nobody could use, kept for a person: with the reason, and its bytes if it could not be decoded."""

    at: float
    reason: str
    envelope: Envelope | None = None
    raw: bytes = b""
    listener: str = ""
    error: str = ""
    id: int = 0  # given by the store
