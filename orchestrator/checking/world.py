"""The world round one instance: whoever may answer, tell it something, or let time pass.

A participant is modelled by what it may still say; what it has done by then follows from the call (see `effects`). The
same message again, a command delivered twice, a participant that stopped before its answer: all of these reach the
instance as an answer that comes late or once more, which is played.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from math import inf
from typing import Any, cast

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from ..definition import Definition, StepDefinition, StepKind
from ..machine import Call, CallKind, Do, Instance, Status, Undo, Visit, VisitState
from ..machine.exchange import exchange_id, is_to_child
from ..machine.replies import Failed
from ..machine.timers import ATTEMPT, DEADLINE, RETRY, STEP, WAIT
from ..machine.turn import is_awaited
from ..machine.unwinding import UNANSWERED
from ..messages import Done, Failure, Message, Unwound, encode, replies_of, type_name, type_version
from ..retry import Retry
from ..saga import Saga, definition_of, encode_state
from ..wire import NULL, Address, Envelope, Kind, Request, Verb
from .values import Values

MOST_ATTEMPTS = 1_000  # a policy that goes on longer counts as one that never gives up
PARENT = Address("Parent", "parent-1")


class Act(StrEnum):
    """What happens in a move."""

    TELL = "tell"
    ANSWER = "answer"
    FAIL = "fail"  # one attempt
    GIVE_UP = "give up"  # every attempt that is left
    TIME = "time"
    CANCEL = "cancel"
    VERB = "verb"  # any other of an operator's
    START = "start"  # by a parent
    UNWIND = "unwind"  # by a parent
    LAND = "land"  # a do reaches its participant after its undo


class Move(Struct, frozen=True, kw_only=True):
    """One thing that happens: the message the instance gets, and what it is about, for people.

    `value` is what is told or answered. `attempts`: the count at which it gives up.
    """

    act: Act
    envelope: Envelope
    value: Any = None
    attempts: int = 0
    is_late: bool = False  # an answer to an attempt that is over, or to a parked one
    is_stale: bool = False  # must change nothing


class World:
    """What can happen to instances of one saga. The clock stands still: a timer that runs may fire at any moment."""

    def __init__(self, definition: Definition, values: Values, *, as_child: bool = False, verbs: bool = False) -> None:
        """Of a saga, saying such values; started and unwound by a parent; with all that an operator can ask."""
        self.definition = definition
        self.values = values
        self.like: Callable[[Visit, Call, bool], bytes] = _by_index  # equal for elements that are interchangeable
        self._as_child, self._with_verbs = as_child, verbs
        self._encoded: dict[int, tuple[Any, Raw, str]] = {}  # the values, which are few, by identity
        self._starts = [event for name in definition.starters for event in values.of(definition.types[name])]
        self.key_value: Any = getattr(self._starts[0], definition.key)
        self.key = str(self.key_value)
        self._tells = list(self._all_told())
        self._used_up: dict[tuple[str, bool], int] = {}
        self._done_before: set[tuple[object, ...]] = set()

    def beginnings(self) -> list[Move]:
        """Every way to start: each starting event, each of its alternatives."""
        moves = [self._told(event, self.definition.key) for event in self._starts]
        if not self._as_child:
            return [replace(move, envelope=replace(move.envelope, id="told-1")) for move in moves]
        starts = [
            replace(
                move,
                act=Act.START,
                envelope=replace(
                    move.envelope, id=self.key, kind=Kind.START, via="", reply_to=self.key, answer_to=PARENT
                ),
            )
            for move in moves
        ]
        return [*starts, self._unwind()]

    def moves(self, instance: Instance) -> Iterator[Move]:
        """All that can happen next."""
        yield from self._outside(instance)
        for visit in instance.visits:
            yield from self._of_visit(instance, visit)
        if self._as_child:
            yield from self._of_parent(instance)
        if instance.status.is_end:
            return
        yield from _timers(instance)
        if instance.status is Status.RUNNING:
            yield self._verb(Verb.CANCEL, Act.CANCEL)
        if self._with_verbs:
            yield from self._verbs(instance)

    def _is_new(self, *what: object) -> bool:
        """Whether this was not tried yet: what changes nothing, and depends on nothing but this, is tried once."""
        if what in self._done_before:
            return False
        self._done_before.add(what)
        return True

    # The outside.

    def _outside(self, instance: Instance) -> Iterator[Move]:
        """While it runs, everything; later an event is only noted, for what the status and the event's type say."""
        for move in self._tells:
            if instance.status is Status.RUNNING or self._is_new(
                instance.status, move.envelope.type, move.envelope.via
            ):
                yield move

    def _of_parent(self, instance: Instance) -> Iterator[Move]:
        """Its start once more, and the word to undo it, at any moment, also twice and after the end (R22)."""
        yield from (move for move in self.beginnings() if move.act is Act.START and instance.starter)
        yield self._unwind()

    def _unwind(self) -> Move:
        id = f"{self.key}/undo"
        envelope = Envelope(id, Kind.UNWIND, "Unwind", reply_to=id, attempt=1, answer_to=PARENT)
        return Move(act=Act.UNWIND, envelope=envelope)

    def _all_told(self) -> Iterator[Move]:
        for name, keys in self.definition.routes.items():
            for event in self.values.of(self.definition.types[name]):
                for key in keys:
                    yield self._told(event, key)

    def _told(self, event: Any, via: str) -> Move:
        if hasattr(event, self.definition.key) and type(getattr(event, self.definition.key)) is type(self.key_value):
            event = replace(event, **{self.definition.key: self.key_value})
        envelope = self._say(Kind.EVENT, event, id=f"{type(event).__name__}", via=via)
        return Move(act=Act.TELL, envelope=envelope, value=event)

    # The participants.

    def _of_visit(self, instance: Instance, visit: Visit) -> Iterator[Move]:
        if visit.state is not VisitState.OPEN or visit.wake_at is None:
            yield from self._timer_of_the_past(instance, visit)
        tried: set[bytes] = set()
        for call in visit.calls:
            if len(visit.calls) > 1:  # of elements that are alike one stands for all
                alike = self.like(visit, call, instance.status is Status.RUNNING)
                if alike in tried:
                    continue
                tried.add(alike)
            yield from self._of_call(instance, visit, call)

    def _of_call(self, instance: Instance, visit: Visit, call: Call) -> Iterator[Move]:
        under_way = not (call.held and call.attempt <= 1)  # else it never left (R17)
        if call.unwinding is Undo.ASKED:
            if call.undo_kind is not None and under_way:
                yield from self._of_undo(instance, visit, call)
        elif is_awaited(visit, call) and under_way:
            yield from self._of_do(instance, visit, call)
        if call.kind is not CallKind.EVENT and call.do is not Do.WAITING:
            yield from self._of_the_past(instance, visit, call)

    def _of_the_past(self, instance: Instance, visit: Visit, call: Call) -> Iterator[Move]:
        """Stale: an answer nobody awaits, a failure or timer of another attempt; noted, whatever else is so (R4)."""
        local = visit.step, visit.state, call.kind, call.do, call.unwinding, call.retry_at is None, bool(call.parked)
        if not self._is_new(instance.status, *local):
            return
        do, undo = instance.command_id(visit, call), instance.undo_id(visit, call)
        if not is_awaited(visit, call):
            yield replace(next(self._yes(instance, visit, call, late=True)), is_stale=True)
            yield Move(act=Act.FAIL, envelope=_failed(do, call, "error"), is_late=True, is_stale=True)
        for timer in (RETRY, ATTEMPT):
            yield replace(_timer(timer, do, call.attempt - 1), is_stale=True)
            yield replace(_timer(timer, undo, call.attempt + 1), is_stale=True)

    def _timer_of_the_past(self, instance: Instance, visit: Visit) -> Iterator[Move]:
        if self._is_new(instance.status, visit.step, visit.state):
            yield replace(_timer(WAIT, instance.visit_id(visit)), is_stale=True)

    def _of_do(self, instance: Instance, visit: Visit, call: Call) -> Iterator[Move]:
        yield from self._yes(instance, visit, call, is_over(call))
        yield from self._refusals(instance, visit, call, clean=True)
        if not is_over(call):
            decides = self.definition.steps[visit.step].failed is not None
            yield from self._failures(instance, visit, call, ("error", "timeout", "fatal") if decides else ("error",))
        if call.kind is CallKind.COMMAND:
            yield from self._refusals(instance, visit, call, clean=False)

    def _of_undo(self, instance: Instance, visit: Visit, call: Call) -> Iterator[Move]:
        name = exchange_id(instance, visit, call)
        declared = Done if call.undo is None else replies_of(self.definition.types[call.undo.type])[0][0]
        reply = self.values.of(declared)[0]
        envelope = self._say(Kind.YES, reply, id=f"{name}:yes", reply_to=name)
        yield Move(act=Act.ANSWER, envelope=envelope, value=reply, is_late=is_over(call))
        if not is_over(call):
            yield from self._failures(instance, visit, call, ("error",))

    def _yes(self, instance: Instance, visit: Visit, call: Call, late: bool) -> Iterator[Move]:
        name = instance.command_id(visit, call)
        for reply in self.replies(call):
            envelope = self._say(Kind.YES, reply, id=f"{name}:yes", reply_to=name, attempt=call.attempt)
            yield Move(act=Act.ANSWER, envelope=envelope, value=reply, is_late=late)

    def landing(self, instance: Instance, visit: Visit, call: Call) -> Move:
        """The do reaches its participant after its undo, which has kept no tombstone: it says yes."""
        return replace(next(self._yes(instance, visit, call, late=True)), act=Act.LAND)

    def replies(self, call: Call) -> Iterator[Any]:
        """Every yes to a call."""
        if call.kind is CallKind.CHILD:
            yield from self.values.of(self.definition.types[call.child])
            return
        assert call.command is not None
        for cls in replies_of(self.definition.types[call.command.type])[0]:
            yield from self.values.of(cls)

    def _refusals(self, instance: Instance, visit: Visit, call: Call, clean: bool) -> Iterator[Move]:
        """Every no; one that is not clean comes after an attempt that may have taken effect (R6)."""
        name = instance.command_id(visit, call)
        for refusal in self._noes(instance, visit, call):
            envelope = self._say(Kind.REFUSAL, refusal, id=f"{name}:no", reply_to=name, attempt=call.attempt)
            yield Move(act=Act.ANSWER, envelope=replace(envelope, clean=clean), value=refusal, is_late=is_over(call))

    def _noes(self, instance: Instance, visit: Visit, call: Call) -> Iterator[Any]:
        if call.kind is CallKind.CHILD:
            yield Unwound(call.child, instance.command_id(visit, call))
            return
        assert call.command is not None
        for cls in replies_of(self.definition.types[call.command.type])[1]:
            yield from self.values.of(cls)

    def _failures(self, instance: Instance, visit: Visit, call: Call, reasons: tuple[str, ...]) -> Iterator[Move]:
        """One attempt fails and is tried again; or every attempt that is left fails.

        One pause or parked undo at a time: it is a matter of its call alone. To all others its call is not answered
        yet, as before, so what two of them lead to is what each leads to beside one that is under way.
        """
        name = exchange_id(instance, visit, call)
        if is_to_child(call):
            reasons = ("killed",) if call.unwinding is Undo.NONE else ("fatal",)
        most = self._attempts(self.definition.steps[visit.step], call)
        is_alone = not any(is_over(other) for one in instance.visits for other in one.calls)
        if not is_alone and call.unwinding is Undo.ASKED:
            return
        if most != 1 and not is_to_child(call) and is_alone:
            yield Move(act=Act.FAIL, envelope=_failed(name, call, "error"))
        for reason in reasons:
            if most or reason in ("fatal", "killed"):
                count = 1 if reason in ("fatal", "killed") else most
                yield Move(act=Act.GIVE_UP, envelope=_failed(name, call, reason), value=reason, attempts=count)

    def _attempts(self, step: StepDefinition, call: Call) -> int:
        """After how many failed attempts it gives up; 0: never."""
        which = step.name, call.unwinding is Undo.ASKED
        if which not in self._used_up:
            self._used_up[which] = most_attempts(step.retry.patient() if which[1] else step.retry)[0]
        return self._used_up[which]

    # The operator (R17).

    def _verbs(self, instance: Instance) -> Iterator[Move]:
        yield self._verb(Verb.KILL, why="no way on")
        yield self._verb(Verb.RESUME if instance.paused else Verb.PAUSE)
        calls = [call for visit in instance.visits for call in visit.calls]
        if any(call.parked or call.retry_at is not None for call in calls):
            yield self._verb(Verb.RETRY)
        for visit in instance.visits:
            if any(call.unwinding in UNANSWERED for call in visit.calls):
                yield from (self._verb(verb, step=visit.step) for verb in (Verb.SKIP, Verb.DONE))
            elif visit.state is VisitState.OPEN:
                yield from self._by_hand(visit)

    def _by_hand(self, visit: Visit) -> Iterator[Move]:
        step = self.definition.steps[visit.step]
        yield self._verb(Verb.SKIP, step=visit.step)
        if step.compensate is not None:
            yield self._verb(Verb.SKIP, step=visit.step, undo=False)
        if visit.waiting:
            yield self._verb(Verb.DONE, step=visit.step)
            for handler in step.on:
                for cls in handler.types:
                    yield from (self._verb(Verb.DONE, step=visit.step, reply=event) for event in self.values.of(cls))
        elif step.kind in (StepKind.COMMAND, StepKind.CHILD):
            asked = [call for call in visit.calls if call.do in (Do.ASKED, Do.WAITING) or call.parked][:1]
            yield from (
                self._verb(Verb.DONE, step=visit.step, reply=reply) for call in asked for reply in self.replies(call)
            )

    def _verb(
        self, verb: Verb, act: Act = Act.VERB, *, why: str = "", step: str = "", undo: bool = True, reply: Any = None
    ) -> Move:
        data, name = (NULL, "") if reply is None else self._as_data(reply)
        request = Request(why=why, step=step, undo=undo, reply=data, reply_type=name)
        envelope = Envelope(
            id=str(verb), kind=Kind.VERB, type=str(verb), data=Raw(msgspec.json.encode(request)), user="operator"
        )
        return Move(act=act, envelope=envelope, value=(request, reply))

    # What is said.

    def _say(self, kind: Kind, value: Any, *, id: str, via: str = "", reply_to: str = "", attempt: int = 1) -> Envelope:
        data, name = self._as_data(value)
        version = 1 if isinstance(value, Saga) else type_version(cast("type[Message]", type(value)))
        return Envelope(id, kind, name, data, via=via, reply_to=reply_to, attempt=attempt, version=version)

    def _as_data(self, value: Any) -> tuple[Raw, str]:
        known = self._encoded.get(id(value))
        if known is None or known[0] is not value:
            if isinstance(value, Saga):
                data, name = encode_state(value), definition_of(type(value)).name
            else:
                data, name = encode(value), type_name(cast("type[Message]", type(value)))
            known = self._encoded[id(value)] = value, Raw(data), name
        return known[1], known[2]


def most_attempts(retry: Retry) -> tuple[int, float]:
    """After how many failed attempts a policy gives up (0: never), and after how many seconds if each times out."""
    elapsed = 0.0
    for count in range(1, MOST_ATTEMPTS + 1):
        elapsed += attempt_timeout(retry)
        pause = retry.delay("", count, elapsed)
        if pause is None:
            return count, elapsed
        elapsed += pause
    return 0, elapsed


def attempt_timeout(retry: Retry) -> float:
    """Seconds that an attempt may take; infinity: it has no timeout."""
    return float(retry.timeout or inf)


def is_over(call: Call) -> bool:
    """Whether the present attempt is over: in the pause before the next, or parked."""
    return call.retry_at is not None or bool(call.parked)


def _by_index(visit: Visit, call: Call, running: bool) -> bytes:
    return b"%d" % call.index


def _timers(instance: Instance) -> Iterator[Move]:
    if instance.deadline_at is not None:
        yield _timer(DEADLINE, "")
    if instance.paused:
        return
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
    id = f"{name}:failure"
    return Envelope(id, Kind.FAILURE, type_name(Failure), _FAILED[reason], reply_to=name, attempt=call.attempt)


_FAILED = {
    reason: Raw(msgspec.json.encode(Failed(reason=reason, error="failed")))
    for reason in ("error", "timeout", "fatal", "killed")
}
