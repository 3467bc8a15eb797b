"""One exchange with a participant, the same for a do and for its undo: ask, be answered, try again."""

from __future__ import annotations

from msgspec import Raw
from msgspec.structs import replace

from ..retry import Retry
from ..wire import NOTHING, Address, Kind, Outgoing, Route
from .instance import Call, CallKind, Instance, Payload, Undo, Visit
from .turn import Turn, silence

AWAY = Raw(b'{"away":true}')  # of an attempt's timer: the broker has not taken the command yet
_UNDO_ASKED, _CHILD = Undo.ASKED, CallKind.CHILD
_COMMAND, _TO_PARTICIPANT = Kind.COMMAND, Route.COMMAND
AWAY_S = 30.0  # the least that such an attempt gets anew
UNWIND = Payload(type="Unwind", data=Raw(bytes(NOTHING)))


def ask(turn: Turn, visit: Visit, call: Call) -> None:
    """Send the next attempt of the do, or of the undo once that is asked for, with its timer (R10)."""
    call.attempt += 1
    if call.attempt == call.base + 1:
        call.first_at = turn.now
    call.retry_at = None
    call.parked = ""
    call.held = turn.instance.paused
    if is_to_child(call):
        call.timeout_at = None
        turn.send(_row_to_child(turn, visit, call))
    else:
        call.timeout_at = turn.now + policy(turn, visit, call).timeout
        turn.send(_row(turn, visit, call))


def wait_longer(turn: Turn, visit: Visit, call: Call) -> None:
    """The command has not left, since the broker is away: this attempt's time begins anew (R10)."""
    call.timeout_at = turn.now + max(policy(turn, visit, call).timeout, AWAY_S)
    if not call.held:
        turn.send(_row(turn, visit, call))  # in place of the same row with the earlier deadline
    turn.note(f"{label(visit, call)}: the broker is away, attempt {call.attempt - call.base} has not left")


def settle(turn: Turn, visit: Visit, call: Call) -> None:
    """The exchange under way is over, whatever came of it: no timer, no row."""
    silence(call)
    turn.take_out(_name(turn, visit, call))


def try_again(turn: Turn, visit: Visit, call: Call, error: str, asked_s: float | None, fatal: bool) -> bool:
    """Plan the next attempt after a failed one (R19); False when the attempts are used up."""
    name = _name(turn, visit, call)
    settle(turn, visit, call)
    call.error = turn.instance.last_error = error
    if fatal:
        return False
    count = call.attempt - call.base
    delay = policy(turn, visit, call).delay(name, count, turn.now - call.first_at, error, asked_s)
    if delay is None:
        return False
    call.retry_at = turn.now + delay
    turn.note(f"{label(visit, call)}: attempt {count} failed, again in {delay:.3g} s: {error}")
    return True


def afresh(turn: Turn, visit: Visit, call: Call) -> None:
    """An operator's retry: the same key, the attempts counted from here (R17)."""
    settle(turn, visit, call)
    call.base = call.attempt
    ask(turn, visit, call)


def exchange_id(instance: Instance, visit: Visit, call: Call) -> str:
    """The key of what is under way: the command's, or its undo's (R3)."""
    return instance.undo_id(visit, call) if call.unwinding is Undo.ASKED else instance.command_id(visit, call)


def asked_type(instance: Instance, name: str) -> str:
    """The type of the command that is under way under this id; empty, if none is."""
    for visit in instance.visits:
        for call in visit.calls:
            if exchange_id(instance, visit, call) == name:
                payload = call.undo if call.unwinding is Undo.ASKED else call.command
                return payload.type if payload is not None else ""
    return ""


def policy(turn: Turn, visit: Visit, call: Call) -> Retry:
    """The step's retry policy; an undo's is patient (R8)."""
    retry = turn.definition.steps[visit.step].retry
    return retry.patient() if call.unwinding is _UNDO_ASKED else retry


def is_to_child(call: Call) -> bool:
    """Whether what is under way is the start or the unwinding of a child."""
    if call.unwinding is not _UNDO_ASKED:
        return call.kind is _CHILD
    return call.undo_kind is _CHILD


def label(visit: Visit, call: Call) -> str:
    """The call as people name it: `reserve[2]#1`, `undo of reserve[2]#1`."""
    name = f"{visit.step}#{visit.number}" if call.index < 0 else f"{visit.step}[{call.index}]#{visit.number}"
    return f"undo of {name}" if call.unwinding is _UNDO_ASKED else name


def _name(turn: Turn, visit: Visit, call: Call) -> str:
    name = turn.command_id(visit, call)
    return f"{name}/undo" if call.unwinding is _UNDO_ASKED else name


def _row(turn: Turn, visit: Visit, call: Call) -> Outgoing:
    sender = turn.instance.address
    do = name = turn.command_id(visit, call)
    payload, undoes = call.command, ""
    if call.unwinding is _UNDO_ASKED:
        name, payload, undoes = f"{do}/undo", call.undo, do
    return Outgoing(
        name=name,
        route=_TO_PARTICIPANT,
        envelope=turn.envelope(_COMMAND, name, payload or UNWIND, sender, call.attempt),
        deadline=call.timeout_at,
        undoes=undoes,
        sender=sender,
    )


def _row_to_child(turn: Turn, visit: Visit, call: Call) -> Outgoing:
    sender = turn.instance.address
    do = turn.command_id(visit, call)
    name, kind, payload = do, Kind.START, call.command
    if call.unwinding is _UNDO_ASKED:
        name, kind, payload = f"{do}/undo", Kind.UNWIND, UNWIND
    # a later attempt is another message: the child's inbox knows the first one
    id = name if call.attempt == 1 else f"{name}@{call.attempt}"
    assert payload is not None and call.command is not None and call.child
    letter = turn.envelope(kind, id, payload, Address(call.child, do), call.attempt)
    letter = replace(letter, reply_to=name, answer_to=sender)
    return Outgoing(name=name, route=Route.INSTANCE, envelope=letter, sender=sender)
