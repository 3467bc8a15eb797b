"""The way to what is wrong, played again in real time: as a dialogue to read, and as a test to paste."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import replace

from ..definition import Definition
from ..machine import Call, HandlerBug, Instance, Outcome, Transition, Visit, next_timer, react
from ..machine.exchange import exchange_id, is_to_child
from ..machine.instance import headline
from ..messages import decode
from ..wire import Envelope, Kind
from .explore import Found
from .judge import wrong
from .source import Source
from .states import NOW
from .world import Act, Move

MAX_TIMERS = 10_000  # in one pause
LANDS = "the do comes only now, or a second time: without a tombstone it is done, and its yes is nobody's any more"
EPSILON = 1e-3  # seconds added to a pause, so that rounding never ends it before its timer


class Violation(Struct, frozen=True):
    """Something wrong with a saga: a sentence, and the shortest way there.

    dialogue   what happens, a line each.
    test       a test to paste, which fails until it is mended.
    details    the traceback, if the saga's own code raised.
    moves      how many messages it takes.
    """

    what: str
    dialogue: str
    test: str
    details: str
    moves: int


def violation(definition: Definition, key: str, found: Sequence[Found], as_child: bool = False) -> Violation | None:
    """What was found, by the first way there that these times allow; None: they allow none of them."""
    for way in found:
        rehearsal = Rehearsal(definition, key, as_child)
        for move in way.path:
            rehearsal.play(move)
        if rehearsal.shows(way):
            said = "\n".join(rehearsal.said)
            return Violation(way.what, said, rehearsal.test(way), way.details, len(way.path))
    return None


class Rehearsal:
    """One instance in real time, as `drive` plays it."""

    def __init__(self, definition: Definition, key: str, as_child: bool = False) -> None:
        """Not started yet; as the child of a parent, if so."""
        self.said: list[str] = []
        self.bug = ""
        self.is_astray = False
        self._moves = 0
        self._definition, self._key, self._as_child = definition, key, as_child
        self._now = NOW
        self._instance: Instance | None = None
        self._before: Instance | None = None
        self._last: Transition | None = None
        self._source = Source()
        self._code: list[str] = []

    def play(self, move: Move) -> None:
        """Let it happen; what the machine notes becomes part of the dialogue."""
        if self.bug or not self._fits(move):
            self.is_astray = True
            return
        self._moves += 1
        self.said.append(f"{self._moves}. {self._in_words(move)}")
        match move.act:
            case Act.TELL | Act.START:
                self._tell(move)
            case Act.ANSWER | Act.LAND:
                self._answer(move)
            case Act.FAIL | Act.GIVE_UP:
                self._fail(move)
            case Act.UNWIND:
                self._code.append("t.unwind()")
                self._take(move.envelope)
            case Act.VERB:
                self._code.append(self._verb(move))
                self._take(move.envelope)
            case Act.TIME:
                self._let_time_pass(move)
            case Act.CANCEL:
                self._code.append("t.cancel()")
                self._take(move.envelope)

    def shows(self, found: Found) -> bool:
        """Whether what was found is so in real time too."""
        if self.is_astray:
            return False
        if found.details:
            return bool(self.bug)
        if self.bug or self._last is None:
            return False
        if found.path[-1].act is Act.LAND:
            return self._last.outcome is Outcome.STALE
        if found.is_dead_end:
            return self._instance is not None and not self._instance.status.is_end
        return found.what in wrong(self._definition, self._before, self._last)

    def test(self, found: Found) -> str:
        """The source of a test that fails because of it."""
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", self._definition.name).lower()
        self._source.need("orchestrator.testing", "drive")
        body = [f"# {_one_line(found.what)}", *self._code, *found.proof]
        lines = [f"def test_{name}() -> None:", *(f"    {line}" for line in body)]
        return "\n".join([*self._source.imports(), "", "", *lines])

    def _fits(self, move: Move) -> bool:
        """Whether what the move answers or fires is there in real time."""
        instance, about = self._instance, move.envelope.reply_to
        if instance is None:
            return move.act in (Act.TELL, Act.START)
        if not about or move.act in (Act.START, Act.UNWIND):
            return True
        calls = [exchange_id(instance, visit, call) for visit in instance.visits for call in visit.calls]
        return about in (*calls, *(instance.visit_id(visit) for visit in instance.visits)) or move.is_late

    # What happens, and how a test says it.

    def _tell(self, move: Move) -> None:
        event = self._source.value(move.value)
        if self._instance is None:
            how = ", as_child=True" if self._as_child else ""
            self._code.append(f"t = drive({self._source.name(self._definition.cls)}, {event}{how})")
        elif move.act is Act.START:
            self._code.append("t.start_again()")
        else:
            via = "" if move.envelope.via == self._definition.key else f", via={move.envelope.via!r}"
            self._code.append(f"t.tell({event}{via})")
        self._take(move.envelope)

    def _answer(self, move: Move) -> None:
        call = self._call(move.envelope.reply_to)[1]
        reply, clean = self._source.value(move.value), ""
        if move.envelope.kind is Kind.REFUSAL and not is_to_child(call) and move.envelope.clean != (call.attempt == 1):
            clean = f", clean={move.envelope.clean}"
        command = self._command(move, call)
        if move.act is Act.LAND:
            self._code.append(f"# {LANDS}")
        if move.is_late:
            self._code.append(f"t.late({command}, {reply}{clean})")
        else:
            self._code.append(f"t.expect({command}).answer({reply}{clean})")
        self._take(replace(move.envelope, attempt=call.attempt))

    def _verb(self, move: Move) -> str:
        request, reply = move.value
        said = [repr(move.envelope.type)]
        if request.step:
            said.append(f"step={request.step!r}")
        if request.why:
            said.append(f"why={request.why!r}")
        if reply is not None:
            said.append(f"reply={self._source.value(reply)}")
        return f"t.verb({', '.join(said)}{'' if request.undo else ', undo=False'})"

    def _fail(self, move: Move) -> None:
        name = move.envelope.reply_to
        call = self._call(name)[1]
        if move.value == "timeout":
            self._code.append(f"t.wait({self._until_given_up(name):g})")
            return
        how = {"error": "", "fatal": "fatal=True", "killed": "fatal=True"}[move.value or "error"]
        how = "once=True" if move.act is Act.FAIL else how
        self._code.append(f"t.expect({self._command(move, call)}).fail({how})")
        self._take(replace(move.envelope, attempt=call.attempt))
        while move.act is Act.GIVE_UP and not self.bug:
            call = self._call(name)[1]
            if call.retry_at is None:
                return
            self._wait(call.retry_at - self._now)
            self._take(replace(move.envelope, attempt=self._call(name)[1].attempt), quietly=True)

    def _let_time_pass(self, move: Move) -> None:
        """The timer fires; one that is not the next does so because nobody was there to handle those before."""
        assert self._instance is not None
        moment = self._moment(move)
        seconds = round(max(0.0, moment - self._now) + EPSILON, 3)
        if moment == self._instance.wake_at:
            self._code.append(f"t.wait({seconds:.10g})")
            self._wait(seconds)
        else:
            self._code += [f"t.now += {seconds:.10g}  # the daemon was down meanwhile", "t.wait(0)"]
            self._now += seconds
            self._wait(0)

    def _moment(self, move: Move) -> float:
        assert self._instance is not None
        about = move.envelope.reply_to
        for visit in self._instance.visits:
            if self._instance.visit_id(visit) == about:
                return (visit.wake_at if move.envelope.type == "wait" else visit.timeout_at) or self._now
            for call in visit.calls:
                if exchange_id(self._instance, visit, call) == about:
                    return call.retry_at or self._now
        return self._instance.deadline_at or self._now

    def _until_given_up(self, name: str) -> float:
        """Let every attempt of a command time out; how many seconds that took."""
        began = self._now
        for _ in range(MAX_TIMERS):
            call = self._call(name)[1]
            if self.bug or self._instance is None or (call.timeout_at is None and call.retry_at is None):
                break
            self._wait(max(0.0, (self._instance.wake_at or self._now) - self._now))
        self._now += 1
        return round(self._now - began, 3)

    def _wait(self, seconds: float) -> None:
        until = self._now + seconds
        for _ in range(MAX_TIMERS):
            due = None if self._instance is None or self.bug else self._instance.wake_at
            if due is None or due > until or self._instance is None:
                break
            self._now = max(self._now, due)
            timer = next_timer(self._instance, self._now)
            assert timer is not None
            self._take(timer)
        self._now = until

    # The instance.

    def _take(self, envelope: Envelope, quietly: bool = False) -> None:
        addressed = replace(envelope, saga=self._definition.name, key=self._key, time=self._now)
        try:
            done = react(self._definition, self._instance, addressed, self._now)
        except HandlerBug as bug:
            self.bug = headline(str(bug))
            self.said.append(f"     {self.bug}")
            return
        self._before, self._last = self._instance, done
        self._instance = done.instance
        if not quietly:
            self.said += [f"     {note}" for note in done.notes]

    def _call(self, name: str) -> tuple[Visit, Call]:
        assert self._instance is not None
        for visit in self._instance.visits:
            for call in visit.calls:
                ids = self._instance.command_id(visit, call), self._instance.undo_id(visit, call)
                if name in ids:
                    return visit, call
        raise AssertionError(f"no call {name}")

    def _command(self, move: Move, call: Call) -> str:
        """What `expect` is given."""
        is_undo = move.envelope.reply_to.endswith("/undo")
        payload = call.undo if is_undo else call.command
        if payload is None:
            self._source.need("orchestrator.testing", "Unwind")
            return f"Unwind({call.child!r})"
        command = cast(Any, decode)(self._definition.types[payload.type], payload.data, payload.version)
        if call.child and not is_undo:
            self._source.need("orchestrator", "Child")
            return f"Child({self._source.name(self._definition.types[call.child])}, {self._source.value(command)})"
        return self._source.value(command)

    def _in_words(self, move: Move) -> str:
        about = move.envelope.reply_to.rpartition("~")[2].partition("/")[2]
        about = f"the undo of {about.removesuffix('/undo')}" if about.endswith("/undo") else about
        match move.act:
            case Act.TELL:
                return f"the outside: {self._source.value(move.value)}"
            case Act.ANSWER:
                said = "late, " if move.is_late else ""
                unclean = move.envelope.kind is Kind.REFUSAL and not move.envelope.clean
                after = " (an earlier attempt may have taken effect)" if unclean else ""
                return f"{said}{about} is answered: {self._source.value(move.value)}{after}"
            case Act.FAIL:
                return f"{about} fails, and may have taken effect"
            case Act.GIVE_UP:
                return f"{about} fails in every attempt ({move.value}), and may have taken effect"
            case Act.TIME:
                return f"time passes: {move.envelope.type} {about}".rstrip()
            case Act.CANCEL:
                return "an operator cancels"
            case Act.VERB:
                request, reply = move.value
                step = f" {request.step}" if request.step else ""
                given = "" if reply is None else f", with {self._source.value(reply)}"
                return (
                    f"an operator says {move.envelope.type}{step}{given}{'' if request.undo else ', not to be undone'}"
                )
            case Act.START:
                return f"a parent starts it: {self._source.value(move.value)}"
            case Act.UNWIND:
                return "its parent undoes it"
            case Act.LAND:
                return f"{about}: {LANDS}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
