"""What can go wrong at the edge of the engine, and where."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

CRASH_S = 0.5  # from a crash to the next start
STALL_S = 120.0  # longer than any attempt's timeout should be in a simulated saga
LATE_S = 600.0
JUMP_S = 3_600.0
ACK_WAIT_S = 30.0  # until a broker delivers again what was not acknowledged


class Fault(StrEnum):
    """One thing that goes wrong at one port call."""

    CRASH_BEFORE = "crash before"  # kill -9; nothing of the call happened
    CRASH_AFTER = "crash after"  # it happened, and nobody was told
    ERROR_BEFORE = "error before"  # it did not happen, and an error says so
    ERROR_AFTER = "error after"  # it happened, and an error says that it did not
    FULL = "full"  # the disk
    STALL = "stall"  # it happens much later
    STALL_AFTER = "stall after"  # it happens, and the answer comes much later
    TWICE = "twice"  # it happens two times
    REFUSED = "refused"  # the broker does not take the messages, for now
    LATE = "late"  # the message is delivered much later, after those behind it
    FORWARD = "clock forward"  # the machine's clock jumps
    BACK = "clock back"


class Port(StrEnum):
    """A kind of port call."""

    WRITE = "write"  # Store.commit
    PRUNE = "prune"
    READ = "read"  # every other method of the store
    CALL = "call"  # a participant carries out a command
    LISTEN = "listen"  # a listener gets an event
    SEND = "send"  # a client sends a message and waits for its acceptance
    PUBLISH = "publish"
    RECEIVE = "receive"  # one message from the bus
    ACK = "ack"


_CRASHES = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER)
_ERRORS = (Fault.ERROR_BEFORE, Fault.ERROR_AFTER)
_CLOCK = (Fault.FORWARD, Fault.BACK)

POSSIBLE: Mapping[Port, tuple[Fault, ...]] = {
    Port.WRITE: (*_CRASHES, *_ERRORS, Fault.FULL, Fault.STALL, *_CLOCK),
    Port.PRUNE: (*_CRASHES, *_ERRORS),
    Port.READ: (Fault.CRASH_BEFORE, Fault.ERROR_BEFORE, Fault.STALL),
    Port.CALL: (*_CRASHES, *_ERRORS, Fault.STALL, Fault.STALL_AFTER, Fault.TWICE, *_CLOCK),
    Port.LISTEN: (*_CRASHES, *_ERRORS, Fault.STALL, Fault.TWICE),
    Port.SEND: (*_CRASHES, Fault.TWICE, Fault.STALL),
    Port.PUBLISH: (*_CRASHES, *_ERRORS, Fault.STALL, Fault.TWICE, Fault.REFUSED),
    Port.RECEIVE: (*_CRASHES, Fault.TWICE, Fault.LATE),
    Port.ACK: (*_CRASHES, *_ERRORS, Fault.STALL),
}

CRASHES = frozenset(_CRASHES)

Plan = Mapping[int, Fault]  # number of a port call, from 1 -> what goes wrong there

# These change the time, a little, and nothing else: what a run comes to must be the same with and without them.
INVISIBLE = frozenset({*CRASHES, Fault.TWICE})
