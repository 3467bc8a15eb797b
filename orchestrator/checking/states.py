"""When two instances count as the same state, and what a move makes of one.

The search goes on with one instance of each state, as it is; the key it is known by leaves out what nothing later
depends on, so that loops come round and orders that make no difference meet again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from ..definition import Definition, StepDefinition
from ..machine import Call, CallKind, Do, Instance, Status, Transition, Undo, Visit, VisitState, react
from ..machine.unwinding import ANSWERED, UNANSWERED
from ..wire import Route
from .data import fields_of
from .effects import may_remain
from .world import Act, Move

NOW = 1_700_000_000.0  # the moment at which everything happens: 2023-11-14 22:13:20 UTC


def after(definition: Definition, key: str, instance: Instance | None, move: Move) -> Transition:
    """What the real machine makes of the move. Errors: HandlerBug."""
    if instance is not None and move.act is Act.GIVE_UP and move.attempts > 1:
        instance = at_last_attempt(instance, move)
    return react(definition, instance, replace(move.envelope, saga=definition.name, key=key, time=NOW), NOW)


def at_last_attempt(instance: Instance, move: Move) -> Instance:
    """The same instance after so many failed attempts that the next is the last."""
    visits: list[Visit] = []
    for visit in instance.visits:
        calls: list[Call] = []
        for call in visit.calls:
            asked = instance.undo_id(visit, call) if call.unwinding is Undo.ASKED else instance.command_id(visit, call)
            is_meant = asked == move.envelope.reply_to
            calls.append(replace(call, base=call.attempt - move.attempts) if is_meant else call)
        visits.append(replace(visit, calls=calls))
    return replace(instance, visits=visits)


def stand_still(instance: Instance) -> None:
    """Take off texts and counts of attempts, and move every moment to now, so that each timer may fire next."""
    instance.version = 1
    instance.why = instance.last_error = ""
    instance.ended_at = _now(instance.ended_at)
    instance.deadline_at = _now(instance.deadline_at)
    for visit in instance.visits:
        visit.entered_at = NOW
        visit.wake_at = _now(visit.wake_at)
        visit.timeout_at = _now(visit.timeout_at)
        for call in visit.calls:
            # a first attempt that is held back never left, a later one is (R17)
            call.attempt, call.base = min(call.attempt, 2 if call.held else 1), 0
            call.first_at = NOW if call.first_at else 0.0
            call.timeout_at = _now(call.timeout_at)
            call.retry_at = _now(call.retry_at)
            call.error = ""


class Keys:
    """Equal keys for instances that behave alike from here on. What is left out, and why that changes nothing:

    - Numbers of visits and positions: they make ids, which are only compared for being the same.
    - A visit that is undone, or of a round that its pivot closed, with nothing of it under way: no reply to it is
      awaited, no undo of it will be sent. In the undo order (R7) it hands on what came before it, as it does here.
    - The order in which visits and passed steps stand: steps are entered in the order of the definition, and no two
      open ones want the same event.
    - The contents of commands, unless a handler decides by the command while it may be answered; of undos: always.
    - Once it unwinds, the saga's state: no handler runs any more and every undo is stored (R4, R5).
    - Fields that no decision looks at, how far a counter is past all it is compared with (see `data`), and which unique
      id is which.
    - Which element of a list is which, where no handler is told (see `of_call`).
    """

    def __init__(self, definition: Definition) -> None:
        """Of a saga."""
        self.fields = fields_of(definition)
        self.unlike: set[str] = set()  # list steps whose elements' undos differ in more than their contents
        self._definition = definition
        self._states: dict[bytes, bytes] = {}
        self._wants_events = [name for name, step in definition.steps.items() if step.on and not step.sends]

    def of(self, instance: Instance) -> bytes:
        """The key, for an instance that stands still."""
        running = instance.status is Status.RUNNING
        parts = (
            instance.status,
            instance.pivoted,
            instance.paused,
            bool(instance.unwind_wanted),
            None if instance.then is None else instance.then.step,
            instance.deadline_at is not None,
            instance.answer_to is not None,
            instance.unwind_attempt > 0,
            sorted(row.envelope.type for row in instance.held if row.route is Route.EVENT),
            self._state(bytes(instance.state)) if running else b"",
            sorted(instance.passed) if running else [],
            [name for name in self._wants_events if name in instance.numbers] if running else [],
            sorted((it.type, it.via, bytes(it.data)) for it in instance.kept) if running else [],
            self._visits(instance, running),
        )
        return hashlib.blake2b(_encode(parts), digest_size=16).digest()

    def of_call(self, visit: Visit, call: Call, running: bool) -> bytes:
        """What matters of a call. Elements of a list for which it is equal are interchangeable.

        That holds where no decision looks at the command, so that an answer has the same outcome whichever element it
        is for; the compensation looks at it, but its result only travels (`unlike` are the steps where it does not).
        """
        step = self._definition.steps[visit.step]
        if self._is_gone(step, visit, call):
            return b""
        is_open = running and call.unwinding is Undo.NONE and call.do in (Do.WAITING, Do.ASKED)
        told = is_open and call.command is not None and (self._tells_command(step) or step.name in self.unlike)
        over = call.kind is CallKind.COMMAND and call.unwinding in (Undo.WANTED, Undo.ASKED)
        return _encode(
            (
                call.kind,
                None if call.command is None else call.command.type,
                (call.index, bytes(call.command.data)) if told and call.command is not None else None,
                None if call.undo is None else call.undo.type,
                call.undo_kind,
                call.child,
                "" if over else call.do,  # done and in doubt are undone alike
                call.unwinding,
                call.attempt,
                call.timeout_at is not None,
                call.retry_at is not None,
                call.held,
                bool(call.parked),
            )
        )

    def _is_gone(self, step: StepDefinition, visit: Visit, call: Call) -> bool:
        """Whether a call is over and nothing of it is left, however that came."""
        if call.unwinding not in ANSWERED or may_remain(step, visit, call):
            return False
        return call.do is not Do.YES or visit.state is not VisitState.OPEN  # an open one may be left as done

    def _tells_command(self, step: StepDefinition) -> bool:
        handlers = [*step.on, *step.refused, *([step.failed] if step.failed else [])]
        return any(it.takes_command and it.function.__name__ not in self.fields.blind for it in handlers)

    def _state(self, state: bytes) -> bytes:
        known = self._states.get(state)
        if known is None:
            kept = self.fields.reduced(msgspec.json.decode(state))
            known = self._states[state] = _with_ids_by_place(msgspec.json.encode(kept))
        return known

    def _visits(self, instance: Instance, running: bool) -> list[tuple[object, ...]]:
        came: dict[int, frozenset[int]] = {}  # position -> what stands for it in the undo order
        before: dict[int, list[int]] = {}
        kept: list[Visit] = []
        for visit in instance.visits:
            earlier = frozenset(it for serial in visit.after for it in came.get(serial, ()))
            if self._matters(visit):
                kept.append(visit)
                came[visit.serial], before[visit.serial] = frozenset({visit.serial}), list(earlier)
            else:
                came[visit.serial] = earlier
        kept.sort(key=_place)
        places = {visit.serial: place for place, visit in enumerate(kept)}
        return [self._visit(visit, sorted(places[it] for it in before[visit.serial]), running) for visit in kept]

    def _matters(self, visit: Visit) -> bool:
        if visit.state is VisitState.OPEN or not (visit.state is VisitState.UNDONE or visit.closed):
            return True
        step = self._definition.steps[visit.step]
        return any(call.unwinding in UNANSWERED or call.parked or may_remain(step, visit, call) for call in visit.calls)

    def _visit(self, visit: Visit, before: list[int], running: bool) -> tuple[object, ...]:
        calls: Iterable[bytes] = (self.of_call(visit, call, running) for call in visit.calls)
        return (
            visit.step,
            before,
            visit.state,
            visit.waiting,
            visit.wake_at is not None,
            visit.timeout_at is not None,
            visit.closed,
            bool(visit.parked),
            sorted(calls),
        )


_encode = msgspec.msgpack.Encoder().encode


def _place(visit: Visit) -> tuple[str, int]:
    return visit.step, visit.number


def _with_ids_by_place(state: bytes) -> bytes:
    """The state with each unique id replaced by the number of ids before it."""
    found: dict[bytes, bytes] = {}
    return _UNIQUE_ID.sub(lambda it: found.setdefault(it[0], b"id-%d" % len(found)), state)


_UNIQUE_ID = re.compile(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")


def _now(moment: float | None) -> float | None:
    return None if moment is None else NOW
