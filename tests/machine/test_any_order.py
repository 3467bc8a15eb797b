"""The machine under random orders of everything that can happen: the invariants hold after each message."""

from __future__ import annotations

import os
import random
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from orchestrator.definition import Definition
from orchestrator.machine import (
    CallKind,
    Do,
    Entry,
    HandlerBug,
    Instance,
    Status,
    Transition,
    Undo,
    VisitState,
    fold,
    next_timer,
    react,
    set_aside,
)
from orchestrator.messages import Failure, encode, replies_of, type_name
from orchestrator.saga import definition_of
from orchestrator.wire import Envelope, Kind, Outgoing, Request, Route, Verb

from . import cast

SAGAS = [
    cast.Linear,
    cast.NoWayBack,
    cast.Branches,
    cast.FanOut,
    cast.Approval,
    cast.Choosy,
    cast.Machine,
    cast.Monthly,
    cast.Buggy,
    cast.Again,
    cast.Cash,
    cast.LateBug,
]
EVENTS = [
    cast.Approved("1"),
    cast.Approved("1", "no"),
    cast.Approved("1", "later"),
    cast.Hurry("1"),
    cast.Cancelled("1"),
]
VERBS = [Verb.CANCEL, Verb.PAUSE, Verb.RESUME, Verb.RETRY, Verb.SKIP, Verb.DONE, Verb.KILL, Verb.DROP]


class World:
    """The outbox, the participants that keep R7, and everything that was ever said, to say it again."""

    def __init__(self, saga: Any, seed: int) -> None:
        self.chance = random.Random(seed)
        self.definition: Definition = definition_of(saga)
        self.instance: Instance | None = None
        self.now = 1_000.0
        self.entries: list[Entry] = []
        self.outbox: dict[str, Outgoing] = {}
        self.said: list[Envelope] = []
        self.applied: set[str] = set()
        self.effects: dict[str, str] = {}  # do's key -> "done" or "undone", as participants with tombstones have it
        self.seen_to: set[str] = set()  # steps of which an operator said that they are done, or undone
        self.numbers = iter(range(1_000_000))
        self.take(self.event(cast.Placed("1")))

    def event(self, event: Any) -> Envelope:
        return Envelope(
            id=f"e{next(self.numbers)}",
            kind=Kind.EVENT,
            type=type_name(type(event)),
            data=Raw(encode(event)),
            time=self.now,
            via="order",
        )

    def take(self, envelope: Envelope) -> Transition:
        addressed = msgspec.structs.replace(envelope, saga=self.definition.name, key="1")
        self.said.append(addressed)
        before = msgspec.json.encode(self.instance)
        try:
            done = react(self.definition, self.instance, addressed, self.now)
        except HandlerBug as bug:
            done = set_aside(self.definition, self.instance, addressed, str(bug), self.now)
        assert msgspec.json.encode(self.instance) == before, "react changed its argument"
        if done.instance is not None and addressed.id not in self.applied:
            self.commit(done)
        return done

    def commit(self, done: Transition) -> None:
        assert done.instance is not None and done.message is not None
        if done.instance.version == 1:
            self.entries, self.applied, self.outbox = [], set(), {}
        self.applied.add(done.message.id)
        self.instance = done.instance
        self.entries.append(Entry(done.instance.version, done.at, done.message, done.outcome))
        for name in done.remove:
            self.outbox.pop(name, None)
        for row in done.put:
            self.outbox[row.name] = row
        self.check()

    def check(self) -> None:
        instance = self.instance
        assert instance is not None
        assert instance.version == len(self.entries)  # I3
        if instance.status.is_end:  # I8
            assert instance.wake_at is None and not instance.kept and not instance.held and not instance.queue
            assert {row.envelope.kind for row in self.outbox.values()} <= {
                Kind.EVENT,
                Kind.YES,
                Kind.REFUSAL,
                Kind.FAILURE,
            }
        else:
            assert self.something_moves(instance), "I9: nothing will move it"
        if instance.status is Status.COMPLETED:
            self.check_completed(instance)
        if instance.status is Status.COMPENSATED:
            self.check_compensated(instance)

    def something_moves(self, instance: Instance) -> bool:
        open_visits = [visit for visit in instance.visits if visit.state is VisitState.OPEN]
        return bool(
            instance.wake_at is not None
            or instance.parked
            or instance.paused
            or any(visit.waiting for visit in open_visits)
            or any(row.route is Route.INSTANCE for row in self.outbox.values())
            or any(
                call.kind is CallKind.CHILD and (call.do is Do.ASKED or call.unwinding is Undo.ASKED)
                for visit in instance.visits
                for call in visit.calls
            )
        )

    def check_completed(self, instance: Instance) -> None:
        for visit in instance.visits:  # I4
            assert visit.state is not VisitState.OPEN
            for call in visit.calls:
                assert call.unwinding not in (Undo.WANTED, Undo.ASKED)

    def check_compensated(self, instance: Instance) -> None:
        for visit in instance.visits:  # I5
            if visit.closed:
                continue
            for call in visit.calls:
                assert call.unwinding in (Undo.DONE, Undo.STANDING, Undo.NOTHING)
                reversible = self.definition.steps[visit.step].compensate is not None
                if reversible and call.unwinding is not Undo.STANDING and visit.step not in self.seen_to:
                    key = instance.command_id(visit, call)
                    assert self.effects.get(key) != "done", f"{key} remains done"

    # What can happen.

    def step(self) -> None:
        happenings = [self.answer] * 6 + [self.fail] * 2 + [self.wait] * 2 + [self.tell, self.verb, self.again]
        self.chance.choice(happenings)()

    def commands(self) -> list[Outgoing]:
        return [row for row in self.outbox.values() if row.envelope.kind in (Kind.COMMAND, Kind.START, Kind.UNWIND)]

    def answer(self, yes: bool | None = None) -> None:
        rows = self.commands()
        if rows:
            row = self.chance.choice(rows)
            self.take(self.answered(row, self.chance.random() < 0.75 if yes is None else yes))

    def answered(self, row: Outgoing, yes: bool) -> Envelope:
        """What a participant with inbox and tombstones says."""
        kind, type, data = Kind.YES, "Done", b"{}"
        if row.envelope.kind is Kind.START:
            kind, type, data = (
                (Kind.YES, "Disk", b'{"size":10}') if yes else (Kind.REFUSAL, "Unwound", b'{"saga":"Disk","key":"k"}')
            )
        elif row.undoes:
            self.effects[row.undoes] = "undone"
        elif row.envelope.kind is Kind.COMMAND:
            answers = replies_of(self.definition.types[row.envelope.type])
            refusals = answers[1]
            kind = Kind.REFUSAL if refusals and not yes else Kind.YES
            type = type_name((refusals if kind is Kind.REFUSAL else answers[0])[0])
            if kind is Kind.YES and self.effects.get(row.name) != "undone":
                self.effects[row.name] = "done"
        attempt = row.envelope.attempt
        poison = self.definition.name == "Buggy" and self.chance.random() < 0.5
        data = b'{"reservation":"poison"}' if type == "Reserved" and poison else data
        return Envelope(
            id=f"{row.name}:{kind}:{attempt}",
            kind=kind,
            type=type,
            data=Raw(data),
            time=self.now,
            reply_to=row.name,
            attempt=attempt,
            clean=kind is Kind.REFUSAL and self.chance.random() < 0.5 and self.effects.get(row.name) != "done",
        )

    def fail(self) -> None:
        rows = self.commands()
        if rows:
            row = self.chance.choice(rows)
            if row.envelope.kind is Kind.COMMAND and not row.undoes and self.chance.random() < 0.5:
                self.effects.setdefault(row.name, "done")  # it took effect, and then the answer was lost
            data = Raw(encode(Failure(reason="error", error="boom", attempts=1)))
            attempt = row.envelope.attempt
            id = f"{row.name}:failure:{attempt}"
            self.take(Envelope(id, Kind.FAILURE, "Failure", data, self.now, reply_to=row.name, attempt=attempt))

    def wait(self) -> None:
        assert self.instance is not None
        due = self.instance.wake_at
        if due is not None:
            self.now = max(self.now, due)
            timer = next_timer(self.instance, self.now)
            assert timer is not None, "wake_at promises a timer"
            before = self.instance.version
            self.take(timer)
            assert self.instance.version > before, "a due timer must move the instance, or it wakes for ever"

    def tell(self) -> None:
        self.take(self.event(self.chance.choice([*EVENTS, cast.Placed("1")])))

    def again(self) -> None:
        self.take(self.chance.choice(self.said))

    def verb(self, verb: Verb | None = None) -> None:
        assert self.instance is not None
        chosen = verb or self.chance.choice(VERBS[:-2] * 4 + VERBS[-2:])
        steps = [visit.step for visit in self.instance.visits] or [""]
        step = self.chance.choice(steps) if chosen in (Verb.SKIP, Verb.DONE) else ""
        request = Request(why="because", step=step)
        data = Raw(msgspec.json.encode(request))
        if chosen is Verb.DONE:
            self.seen_to.add(step)
        self.take(Envelope(f"v{next(self.numbers)}", Kind.VERB, str(chosen), data, self.now, user="me"))

    def come_to_rest(self) -> None:
        """Everybody answers yes from now on, operators help: an end must be reached."""
        for _ in range(400):
            assert self.instance is not None
            if self.instance.status.is_end:
                return
            if self.instance.bug is not None:
                self.verb(Verb.DROP)
            elif self.instance.paused:
                self.verb(Verb.RESUME)
            elif self.commands() and self.chance.random() < 0.7:
                self.answer(yes=True)
            elif self.instance.parked:
                self.verb(self.chance.choice([Verb.RETRY, Verb.SKIP, Verb.DONE]))
            elif self.instance.wake_at is not None:
                self.wait()
            else:
                self.take(self.event(cast.Approved("1")))
            if self.definition.name == "Monthly" and self.instance.numbers.get("reserve", 0) > 2:
                self.verb(Verb.CANCEL)
        raise AssertionError("no end is reached")


@pytest.mark.parametrize("saga", SAGAS, ids=lambda saga: saga.__name__)
def test_invariants_hold_in_any_order(saga: Any) -> None:
    for seed in range(int(os.environ.get("SEEDS", "100"))):
        world = World(saga, seed)
        try:
            for _ in range(world.chance.randrange(1, 40)):
                world.step()
            assert msgspec.json.encode(fold(world.definition, world.entries)) == msgspec.json.encode(
                world.instance
            )  # I2
            if saga is not cast.Monthly:
                world.come_to_rest()
        except Exception as error:
            story = "\n".join(
                f"{e.version} {e.message.kind} {e.message.type} {e.message.reply_to} {e.outcome}" for e in world.entries
            )
            raise AssertionError(f"{saga.__name__} seed {seed}:\n{story}\n{error!r}") from error
