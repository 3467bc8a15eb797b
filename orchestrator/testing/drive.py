"""A saga test is a dialogue: the test plays the participants, the outside world, the clock and the operator.

No event loop, no store: the real machine, one message at a time.
"""

from __future__ import annotations

from itertools import count
from typing import Any, Self, cast

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from ..definition import Definition
from ..errors import BadMessage
from ..machine import HandlerBug, Instance, Outcome, Status, Transition, next_timer, react, set_aside
from ..messages import Command, Done, Event, Failure, Message, Refusal, decode, encode, type_name, type_version
from ..saga import Child, Saga, decode_state, definition_of, encode_state
from ..wire import NULL, Address, Envelope, Kind, Outgoing, Request, Route, Verb

START = 1_700_000_000.0  # when every dialogue begins: 2023-11-14 22:13:20 UTC
MAX_TIMERS = 100_000
PARENT = Address("Parent", "parent-1")  # who starts a child


class Unwind(msgspec.Struct, frozen=True):
    """What a parent sends to undo a child; for `expect(Unwind("Disk"))`. `saga` is the child's name."""

    saga: str


def drive(saga: type[Saga], event: Event, *, key: str = "", as_child: bool = False) -> Dialogue:
    """Start an instance of `saga` with its starting event; returns the dialogue to go on with.

    `key`: the instance's key, by default the event's field that the saga names. `as_child`: a parent starts it (R22).
    Errors: AssertionError when the event does not start the saga, or the saga's own code raised.
    """
    return Dialogue(definition_of(saga), event, key, as_child)


class Dialogue:
    """One instance under test. A method raises AssertionError, with the story so far, when the saga does otherwise."""

    def __init__(self, definition: Definition, event: Event, key: str = "", as_child: bool = False) -> None:
        """Begin; `drive` is the usual way."""
        self.definition = definition
        self.now = START
        self.instance: Instance | None = None
        self.history: list[Transition] = []
        self.published: list[Event] = []
        self._ids = count(1)
        self._open: dict[str, Outgoing] = {}
        self._ever: dict[str, Outgoing] = {}  # every command sent, its latest attempt
        self._unmet: list[Outgoing] = []
        self._asked: Outgoing | None = None
        self._answered: Envelope | None = None
        self._key = key or str(getattr(event, definition.key))
        self._start: Envelope | None = self._start_of(event) if as_child else None
        if self._start is None:
            self.tell(event)
        else:
            self._take(self._start)
        if self.instance is None:
            raise AssertionError(f"{type(event).__name__} does not start {definition.name}")

    # What the saga is.

    @property
    def status(self) -> Status:
        """running, compensating, completed, compensated or killed."""
        return self._instance.status

    @property
    def parked(self) -> str:
        """Why it needs a person; empty if it does not."""
        return self._instance.parked

    @property
    def state(self) -> Any:
        """The saga object with its present state."""
        return decode_state(self.definition, self._instance.state)

    @property
    def last(self) -> Transition:
        """The latest transition: its outcome and notes say what the last message did."""
        return self.history[-1]

    @property
    def answer_to_parent(self) -> Envelope | None:
        """The latest answer to the parent of a child, or None (R22)."""
        return self._answered

    # What the saga is expected to send.

    def expect(self, message: Command[Any, Any] | Event | Child[Any] | Unwind) -> Self:
        """The saga has sent this (in any order among what it sent at once); answer a command with `answer`."""
        for row in self._unmet:
            if self._shown(row) == message:
                self._unmet.remove(row)
                self._asked = row if row.name in self._open else None
                return self
        return self._complain(f"expected  {message!r}", self._actual())

    def expect_nothing(self) -> Self:
        """The saga has sent nothing that was not expected already."""
        return self if not self._unmet else self._complain("expected  nothing more", self._actual())

    def ends(self, status: Status | str) -> Self:
        """It has ended so, and sent nothing that was not expected."""
        self.expect_nothing()
        return self if self.status == status else self._complain(f"expected  {status}", f"actual    {self.status}")

    # What the world answers.

    def answer(self, *said: Any, clean: bool | None = None) -> Self:
        """`answer(reply)`: to the command expected last (or the only one open); `answer(command, reply)`: to that one.

        A refusal of the first attempt is clean: the host knows that nothing had begun, so its step is not undone (R6);
        that of a later attempt is not. `clean` says otherwise.
        """
        row = self._row_for(said[:-1])
        return self._reply(row, said[-1], row.envelope.attempt == 1 if clean is None else clean)

    def late(self, command: Command[Any, Any] | Child[Any] | Unwind, reply: Any, *, clean: bool = False) -> Self:
        """An answer comes to a command that is not open any more: its attempt is over, or nobody waits for it (R4)."""
        for row in reversed(self._ever.values()):
            if self._shown(row) == command:
                return self._reply(row, reply, clean)
        return self._complain(f"to answer {command!r}", "actual    it was never sent")

    def done(self) -> Self:
        """Answer the command expected last with the built-in Done."""
        return self.answer(Done())

    def fail(self, error: str = "failed", *, once: bool = False, fatal: bool = False) -> Self:
        """The command expected last fails: in all its attempts, the pauses between them passing; `once`: in one."""
        row = self._row_for(())
        while row.name in self._open:
            self._fail_attempt(row.name, error, fatal)
            if once or not self._retry_follows(row.name):
                break
        return self

    def tell(self, event: Event, *, via: str = "", id: str = "") -> Self:
        """An event arrives from outside. `via`: the field it is routed by, by default one that holds the key.

        Errors: AssertionError if none does: it would go to another instance.
        """
        envelope = Envelope(
            id=id or f"told-{next(self._ids)}",
            kind=Kind.EVENT,
            type=type_name(type(event)),
            data=Raw(encode(event)),
            version=type_version(type(event)),
            time=self.now,
            via=via or self._routed_by(event),
        )
        return self._take(envelope)

    def wait(self, seconds: float) -> Self:
        """Time passes: every timer due until then fires, in order. Commands nobody answers time out."""
        until = self.now + seconds
        for _ in range(MAX_TIMERS):
            due = self._instance.wake_at
            if due is None or due > until:
                break
            self.now = max(self.now, due)
            timer = next_timer(self._instance, self.now)
            assert timer is not None
            self._take(timer)
        self.now = until
        return self

    def let_time_pass(self, timers: int = 100) -> Self:
        """Timers fire one after another, until none is armed any more, or so many have; for what may never end."""
        for _ in range(timers):
            due = self._instance.wake_at
            if due is None:
                break
            self.wait(max(0.0, due - self.now))
        return self

    def verb(
        self, verb: Verb | str, *, step: str = "", why: str = "", reply: Message | None = None, undo: bool = True
    ) -> Self:
        """An operator's verb (R17). `reply`: the reply of a `done`. A refused verb leaves `last.outcome` "refused"."""
        request = Request(
            why=why,
            step=step,
            reply=NULL if reply is None else Raw(encode(reply)),
            reply_type="" if reply is None else type_name(type(reply)),
            undo=undo,
        )
        data = Raw(msgspec.json.encode(request))
        id = f"verb-{next(self._ids)}"
        return self._take(
            Envelope(id=id, kind=Kind.VERB, type=str(Verb(verb)), data=data, time=self.now, user="operator")
        )

    def cancel(self, why: str = "") -> Self:
        """An operator cancels it."""
        return self.verb(Verb.CANCEL, why=why)

    # What the parent of a child says (R22).

    def start_again(self) -> Self:
        """The parent starts it once more."""
        assert self._start is not None, "give drive as_child=True"
        return self._take(replace(self._start, id=f"{self._key}@{next(self._ids)}"))

    def unwind(self) -> Self:
        """The parent undoes it."""
        id = f"{self._key}/undo"
        return self._take(Envelope(id, Kind.UNWIND, "Unwind", reply_to=id, attempt=1, answer_to=PARENT, time=self.now))

    def _start_of(self, event: Event) -> Envelope:
        name, version, data = type_name(type(event)), type_version(type(event)), Raw(encode(event))
        return Envelope(
            self._key, Kind.START, name, data, reply_to=self._key, attempt=1, answer_to=PARENT, version=version
        )

    # The inside.

    @property
    def _instance(self) -> Instance:
        assert self.instance is not None
        return self.instance

    def _take(self, envelope: Envelope) -> Self:
        addressed = replace(envelope, saga=self.definition.name, key=self._key)
        try:
            transition = react(self.definition, self.instance, addressed, self.now)
        except HandlerBug as bug:
            if addressed.kind is Kind.VERB or self.instance is None:
                raise AssertionError(f"{self._story()}\n\n{bug}") from bug
            transition = set_aside(self.definition, self.instance, addressed, str(bug), self.now)
        self.history.append(transition)
        if transition.instance is not None:
            self.instance = transition.instance
        for name in transition.remove:
            self._open.pop(name, None)
        for row in transition.put:
            self._sent(row)
        return self

    def _sent(self, row: Outgoing) -> None:
        if row.route is Route.EVENT:
            self.published.append(self._shown(row))
        elif row.envelope.kind in (Kind.COMMAND, Kind.START, Kind.UNWIND):
            self._open[row.name] = self._ever[row.name] = row
        else:
            self._answered = row.envelope
            return
        self._unmet = [other for other in self._unmet if other.name != row.name]
        self._unmet.append(row)

    def _routed_by(self, event: Event) -> str:
        fields = self.definition.routes.get(type_name(type(event)), ())
        if self.instance is None or not fields:
            return self.definition.key
        for field in fields:
            if str(getattr(event, field)) == self._key:
                return field
        self._complain(f"expected  an event for {self._key!r}, by its {' or '.join(fields)}", f"actual    {event!r}")
        raise AssertionError  # not reached

    def _row_for(self, said: tuple[Any, ...]) -> Outgoing:
        if said:
            for row in self._open.values():
                if self._shown(row) == said[0]:
                    return row
            self._complain(f"to answer {said[0]!r}", self._actual(self._open.values()))
        if self._asked is not None and self._asked.name in self._open:
            return self._open[self._asked.name]
        if len(self._open) == 1:
            return next(iter(self._open.values()))
        self._complain("to answer one command", self._actual(self._open.values()))
        raise AssertionError  # not reached

    def _reply(self, row: Outgoing, reply: Message | Saga, clean: bool) -> Self:
        kind = Kind.REFUSAL if isinstance(reply, Refusal) else Kind.YES
        if isinstance(reply, Saga):
            data, name = encode_state(reply), definition_of(type(reply)).name
        else:
            data, name = encode(reply), type_name(type(reply))
        self._unmet = [other for other in self._unmet if other.name != row.name]
        self._take(self._reply_envelope(row, kind, name, Raw(data), clean))
        if self.last.outcome is Outcome.DEAD:
            raise BadMessage("; ".join(self.last.notes))
        return self

    def _fail_attempt(self, name: str, error: str, fatal: bool) -> None:
        row = self._open[name]
        failure = Failure(reason="fatal" if fatal else "error", error=error, attempts=row.envelope.attempt)
        self._unmet = [other for other in self._unmet if other.name != name]
        self._take(self._reply_envelope(row, Kind.FAILURE, type_name(Failure), Raw(encode(failure)), False))

    def _retry_follows(self, name: str) -> bool:
        """Let the pause before the next attempt of this command pass, if there is one."""
        for visit in self._instance.visits:
            for call in visit.calls:
                ids = (self._instance.command_id(visit, call), self._instance.undo_id(visit, call))
                if name in ids and call.retry_at is not None:
                    self.wait(call.retry_at - self.now)
                    return name in self._open
        return False

    def _reply_envelope(self, row: Outgoing, kind: Kind, type: str, data: Raw, clean: bool) -> Envelope:
        attempt = row.envelope.attempt
        return Envelope(
            id=f"{row.name}:{kind}:{attempt}",
            kind=kind,
            type=type,
            data=data,
            time=self.now,
            reply_to=row.name,
            attempt=attempt,
            clean=clean,
        )

    def _shown(self, row: Outgoing) -> Any:
        envelope = row.envelope
        if envelope.kind is Kind.UNWIND:
            return Unwind(envelope.saga)
        value = cast(Any, decode)(self.definition.types[envelope.type], envelope.data, envelope.version)
        if envelope.kind is Kind.START:
            return cast(object, Child(self.definition.types[envelope.saga], value))
        return value

    def _actual(self, rows: Any = None) -> str:
        shown = [repr(self._shown(row)) for row in (self._unmet if rows is None else rows)]
        return "actual    " + (
            "\n          ".join(shown) or f"nothing open; it is {self.status} {self.parked}".rstrip()
        )

    def _complain(self, expected: str, actual: str) -> Self:
        raise AssertionError(f"{expected}\n{actual}\n\n{self._story()}")

    def _story(self) -> str:
        lines = ["The story so far:"]
        for number, transition in enumerate(self.history, 1):
            message = transition.message
            assert message is not None
            after = transition.at - START
            lines.append(f"  {number}. +{after:g} s  {message.kind} {message.type}: {transition.outcome}")
            lines += [f"       {note}" for note in transition.notes]
        return "\n".join(lines)
