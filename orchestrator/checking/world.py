"""The world round one instance: whoever may answer, tell it something, or let time pass.

A participant is modelled by what it may still say. It keeps a tombstone (R7), so a do that took effect and a do that
was lost differ for nobody until the end; there the worse of the two is assumed (see judge).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, cast

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from ..definition import Definition, StepDefinition
from ..machine import Call, CallKind, Do, Instance, Status, Undo, Visit
from ..machine.exchange import exchange_id, is_to_child
from ..machine.replies import Failed
from ..machine.timers import DEADLINE, RETRY, STEP, WAIT
from ..machine.turn import is_awaited
from ..messages import Done, Failure, Message, Unwound, decode, encode, replies_of, type_name, type_version
from ..retry import Retry
from ..saga import Saga, definition_of, encode_state
from ..wire import Envelope, Kind, Request, Verb
from .values import Values

MOST_ATTEMPTS = 1_000  # a policy that goes on longer counts as one that never gives up


class Act(StrEnum):
    """What happens in a move."""

    TELL = "tell"
    ANSWER = "answer"
    FAIL = "fail"  # one attempt
    GIVE_UP = "give up"  # every attempt that is left
    TIME = "time"
    CANCEL = "cancel"


class Move(Struct, frozen=True, kw_only=True):
    """One thing that happens: the message the instance gets, and what it is about, for people.

    `value` is what is told or answered, `command` what is answered. `attempts`: the count at which it gives up.
    """

    act: Act
    envelope: Envelope
    value: Any = None
    command: Any = None
    attempts: int = 0
    is_late: bool = False  # an answer to an attempt that is over, or to a parked one


class World:
    """What can happen to instances of one saga. The clock stands still: a timer that runs may fire at any moment."""

    def __init__(self, definition: Definition, values: Values) -> None:
        """Of a saga, saying such values."""
        self.definition = definition
        self.values = values
        self._starts = [event for name in definition.starters for event in values.of(definition.types[name])]
        self.key_value: Any = getattr(self._starts[0], definition.key)
        self.key = str(self.key_value)
        self._tells = list(self._all_told())
        self._tells_once = list(
            {(move.envelope.type, move.envelope.via): move for move in reversed(self._tells)}.values()
        )
        self._used_up: dict[tuple[str, bool], int] = {}

    def beginnings(self) -> list[Move]:
        """Every way to start: each starting event, each of its alternatives."""
        moves = [self._told(event, self.definition.key) for event in self._starts]
        return [replace(move, envelope=replace(move.envelope, id="told-1")) for move in moves]

    def moves(self, instance: Instance) -> Iterator[Move]:
        """All that can happen next."""
        yield from self._tells if instance.status is Status.RUNNING else self._tells_once
        for visit in instance.visits:
            for call in visit.calls:
                yield from self._of_call(instance, visit, call)
        if instance.status.is_end:
            return
        yield from _timers(instance)
        if instance.status is Status.RUNNING:
            data = Raw(msgspec.json.encode(Request()))
            cancel = Envelope(id="cancel", kind=Kind.VERB, type=str(Verb.CANCEL), data=data, user="operator")
            yield Move(act=Act.CANCEL, envelope=cancel)

    # The outside.

    def _all_told(self) -> Iterator[Move]:
        for name, keys in self.definition.routes.items():
            for event in self.values.of(self.definition.types[name]):
                for key in keys:
                    yield self._told(event, key)

    def _told(self, event: Any, via: str) -> Move:
        if hasattr(event, self.definition.key) and type(getattr(event, self.definition.key)) is type(self.key_value):
            event = replace(event, **{self.definition.key: self.key_value})
        envelope = _said(Kind.EVENT, event, id=f"{type(event).__name__}", via=via)
        return Move(act=Act.TELL, envelope=envelope, value=event)

    # The participants.

    def _of_call(self, instance: Instance, visit: Visit, call: Call) -> Iterator[Move]:
        if call.unwinding is Undo.ASKED:
            if call.undo_kind is not None:
                yield from self._of_undo(instance, visit, call)
        elif is_awaited(visit, call):
            yield from self._of_do(instance, visit, call)
        elif call.do in (Do.YES, Do.REFUSED, Do.CLEAN, Do.FAILED, Do.LEFT) and call.kind is not CallKind.EVENT:
            yield from list(self._yes(instance, visit, call, late=True))[:1]  # stale

    def _of_do(self, instance: Instance, visit: Visit, call: Call) -> Iterator[Move]:
        yield from self._yes(instance, visit, call, is_over(call))
        yield from self._refusals(instance, visit, call, clean=True)
        if not is_over(call):
            decides = self.definition.steps[visit.step].failed is not None
            yield from self._failures(instance, visit, call, ("error", "timeout", "fatal") if decides else ("error",))
        if call.kind is CallKind.COMMAND:
            yield from self._refusals(instance, visit, call, clean=False)

    def _of_undo(self, instance: Instance, visit: Visit, call: Call) -> Iterator[Move]:
        name, command = exchange_id(instance, visit, call), self.command_of(call)
        declared = Done if call.undo is None else replies_of(self.definition.types[call.undo.type])[0][0]
        reply = self.values.of(declared)[0]
        envelope = _said(Kind.YES, reply, id=f"{name}:yes", reply_to=name)
        yield Move(act=Act.ANSWER, envelope=envelope, value=reply, command=command, is_late=is_over(call))
        if not is_over(call):
            yield from self._failures(instance, visit, call, ("error",))

    def _yes(self, instance: Instance, visit: Visit, call: Call, late: bool) -> Iterator[Move]:
        name, command = instance.command_id(visit, call), self.command_of(call, undo=False)
        for reply in self._replies(call):
            envelope = _said(Kind.YES, reply, id=f"{name}:yes", reply_to=name, attempt=call.attempt)
            yield Move(act=Act.ANSWER, envelope=envelope, value=reply, command=command, is_late=late)

    def _replies(self, call: Call) -> Iterator[Any]:
        if call.kind is CallKind.CHILD:
            yield from self.values.of(self.definition.types[call.child])
            return
        assert call.command is not None
        for cls in replies_of(self.definition.types[call.command.type])[0]:
            yield from self.values.of(cls)

    def _refusals(self, instance: Instance, visit: Visit, call: Call, clean: bool) -> Iterator[Move]:
        """Every no; one that is not clean comes after an attempt that may have taken effect (R6)."""
        name, command = instance.command_id(visit, call), self.command_of(call, undo=False)
        for refusal in self._noes(instance, visit, call):
            envelope = _said(Kind.REFUSAL, refusal, id=f"{name}:no", reply_to=name, attempt=call.attempt)
            envelope = replace(envelope, clean=clean)
            yield Move(act=Act.ANSWER, envelope=envelope, value=refusal, command=command, is_late=is_over(call))

    def _noes(self, instance: Instance, visit: Visit, call: Call) -> Iterator[Any]:
        if call.kind is CallKind.CHILD:
            yield Unwound(call.child, instance.command_id(visit, call))
            return
        assert call.command is not None
        for cls in replies_of(self.definition.types[call.command.type])[1]:
            yield from self.values.of(cls)

    def command_of(self, call: Call, *, undo: bool | None = None) -> Any:
        """The message of the exchange under way; None for the unwinding of a child."""
        payload = call.undo if (call.unwinding is Undo.ASKED if undo is None else undo) else call.command
        if payload is None:
            return None
        return cast(Any, decode)(self.definition.types[payload.type], payload.data, payload.version)

    def _failures(self, instance: Instance, visit: Visit, call: Call, reasons: tuple[str, ...]) -> Iterator[Move]:
        """One attempt fails and is tried again; or every attempt that is left fails."""
        name, command = exchange_id(instance, visit, call), self.command_of(call)
        if is_to_child(call):
            reasons = ("killed",) if call.unwinding is Undo.NONE else ("fatal",)
        most = self._attempts(self.definition.steps[visit.step], call)
        if most != 1 and not is_to_child(call) and not _pauses(instance):
            yield Move(act=Act.FAIL, envelope=_failed(name, call, "error"), command=command)
        for reason in reasons:
            if most or reason in ("fatal", "killed"):
                count = 1 if reason in ("fatal", "killed") else most
                yield Move(
                    act=Act.GIVE_UP, envelope=_failed(name, call, reason), command=command, value=reason, attempts=count
                )

    def _attempts(self, step: StepDefinition, call: Call) -> int:
        """After how many failed attempts it gives up; 0: never."""
        which = step.name, call.unwinding is Undo.ASKED
        if which not in self._used_up:
            self._used_up[which] = most_attempts(step.retry.patient() if which[1] else step.retry)[0]
        return self._used_up[which]


def most_attempts(retry: Retry) -> tuple[int, float]:
    """After how many failed attempts a policy gives up (0: never), and after how many seconds if each times out."""
    elapsed = 0.0
    for count in range(1, MOST_ATTEMPTS + 1):
        elapsed += retry.timeout
        pause = retry.delay("", count, elapsed)
        if pause is None:
            return count, elapsed
        elapsed += pause
    return 0, elapsed


def is_over(call: Call) -> bool:
    """Whether the present attempt is over: in the pause before the next, or parked."""
    return call.retry_at is not None or bool(call.parked)


def _pauses(instance: Instance) -> bool:
    return any(call.retry_at is not None for visit in instance.visits for call in visit.calls)


def _timers(instance: Instance) -> Iterator[Move]:
    if instance.deadline_at is not None:
        yield _timer(DEADLINE, "")
    for visit in instance.visits:
        if visit.timeout_at is not None:
            yield _timer(STEP, instance.visit_id(visit))
        if visit.wake_at is not None:
            yield _timer(WAIT, instance.visit_id(visit))
        for call in visit.calls:
            if call.retry_at is not None:
                yield _timer(RETRY, exchange_id(instance, visit, call), call.attempt)


def _timer(name: str, about: str, attempt: int = 0) -> Move:
    envelope = Envelope(id=f"{about}!{name}", kind=Kind.TIMER, type=name, reply_to=about, attempt=attempt)
    return Move(act=Act.TIME, envelope=envelope)


def _failed(name: str, call: Call, reason: str) -> Envelope:
    data = Raw(msgspec.json.encode(Failed(reason=reason, error="failed")))
    id = f"{name}:failure"
    return Envelope(id, Kind.FAILURE, type_name(Failure), data, reply_to=name, attempt=call.attempt)


def _said(kind: Kind, value: Any, *, id: str, via: str = "", reply_to: str = "", attempt: int = 1) -> Envelope:
    if isinstance(value, Saga):
        name, version, data = definition_of(type(value)).name, 1, encode_state(value)
    else:
        cls = cast("type[Message]", type(value))
        name, version, data = type_name(cls), type_version(cls), encode(value)
    return Envelope(id, kind, name, Raw(data), via=via, reply_to=reply_to, attempt=attempt, version=version)
