"""The reference scenarios: every shape of a saga, with what happens to it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from msgspec import structs

from orchestrator import App, Event, Listener, Saga
from orchestrator.machine import CallKind, Do, Instance, Status
from orchestrator.testing.simulation import Ask, Line, Restart, Scenario, Tell
from orchestrator.topics import Plain, TopicSettings
from orchestrator.wire import Address, Request, Verb
from tests.machine import cast
from tests.machine.cast import Approved, Cancelled, Hurry, Placed

from . import sagas
from .asking import Asker, Story, bare, kept, unanswered
from .disk import SQLiteDisk
from .services import PARTICIPANTS, Audience, LateServices, RemoteServices, Script, Services, desk


def scenario(
    name: str,
    saga: type[Saga],
    script: Script | None = None,
    *lines: Line,
    orders: int = 1,
    later: type[Saga] | None = None,
    listeners: Sequence[Listener[object]] = (),
    is_remote: bool = False,
    is_steady: bool = True,
) -> Scenario:
    """Some orders of one saga, what its participants do, and what else happens."""

    def app(services: Services, life: int) -> App[object]:
        return App(
            "proof",
            sagas=[saga if later is None or life == 1 else later],
            participants=() if is_remote else PARTICIPANTS,
            listeners=listeners,
            resources=partial(desk, services),
        )

    outside = RemoteServices if is_remote else Services

    placed = [Tell(0.0, Placed(str(number + 1))) for number in range(orders)]
    return Scenario(
        name=name,
        app=app,
        outside=partial(outside, script or {}),
        lines=(*placed, *lines),
        disk=SQLiteDisk,
        on_bus=is_remote,
        is_steady=is_steady,
    )


def tell(at: float, event: Event) -> Line:
    return Tell(at, event)


def ask(at: float, saga: type[Saga], verb: Verb, step: str = "") -> Line:
    return Ask(at, Address(saga.__name__, "1"), verb, Request(why="the scenario says so", step=step))


SCENARIOS: tuple[Scenario, ...] = (
    scenario("linear", cast.Linear, None, orders=2, listeners=[sagas.tell, sagas.hear]),
    scenario("linear, refused", cast.Linear, {"Charge": ("no",)}),
    scenario("linear, fails and is lost", cast.Linear, {"Reserve": ("fail", "lose", "yes"), "Charge": ("lose", "yes")}),
    scenario("linear, mute", cast.NoWayBack, {"Reserve": ("mute", "yes"), "Charge": ("fail", "yes")}),
    scenario("never answers", sagas.Cancellable, {"Charge": ("mute",)}),
    scenario("undo fails", sagas.Cancellable, {"Charge": ("no",), "Release": ("fail", "fail", "yes")}),
    scenario("cancelled", sagas.Cancellable, {"Charge": ("mute", "yes")}, tell(3, Cancelled("1")), is_steady=False),
    scenario("cancelled by a person", sagas.Cancellable, {"Charge": ("fail", "yes")},
             ask(0.4, sagas.Cancellable, Verb.CANCEL), is_steady=False),
    scenario("paused", sagas.Cancellable, None, ask(0.15, sagas.Cancellable, Verb.PAUSE),
             ask(40, sagas.Cancellable, Verb.RESUME), is_steady=False),
    scenario("pivot refused", cast.NoWayBack, {"Charge": ("lose", "no"), "Rush": ("fail", "yes")},
             tell(0.3, Cancelled("1")), is_steady=False),
    scenario("over the pivot", cast.Cash, {"Charge": ("no",), "Rush": ("fail", "yes")}),
    scenario("parallel", cast.Branches, {"Reserve hotel": ("fail", "yes")}),
    scenario("parallel, refused", cast.Branches, {"Reserve hotel": ("no",), "Reserve flight": ("lose", "yes")}),
    scenario("fan-out", cast.FanOut, {"Reserve a": ("no",), "Reserve b": ("fail", "yes")}),
    scenario("fan-out, unwound", cast.FanOut, {"Reserve b": ("fail",)}),
    scenario("choosy", cast.Choosy, {"Charge #1": ("no",), "Reserve 2": ("fail", "lose", "yes")}),
    scenario("finished early", cast.Choosy, {"Look": ("no",)}),
    scenario("child", cast.Machine, {"Charge": ("fail", "yes")}),
    scenario("child, refused", sagas.Family, {"Reserve 20": ("no",)}),
    scenario("children, unwound", sagas.Family, {"Rush": ("no",)}),
    scenario("waiting, early", sagas.Waiting, None, tell(0.0, Hurry("1")), tell(0.0, Approved("1")), is_steady=False),
    scenario("early, and over at once", sagas.Brief, None, tell(0.4, Placed("2")), tell(0.0, Hurry("2")),
             listeners=[sagas.tell, sagas.hear]),
    scenario("waiting, decided", sagas.Waiting, None, tell(20, Approved("1", "later")), tell(30, Approved("1")),
             tell(31, Approved("1", "no")), is_steady=False),
    scenario("waiting, denied", sagas.Waiting, None, tell(40, Approved("1", "no")), tell(80, Hurry("1")),
             listeners=[sagas.tell, sagas.hear], is_steady=False),
    scenario("waiting, nobody", sagas.Waiting, {"Release": ("fail", "yes")}),
    scenario("deadline", sagas.Deadlined, is_steady=False),
    scenario("deadline, in doubt", sagas.Deadlined, {"Reserve": ("lose", "mute")}, is_steady=False),
    scenario("renewal", sagas.Renewal, {"Charge #2": ("fail", "yes")}, tell(70, Hurry("1")), is_steady=False),
    scenario("restartable", cast.Again, None, tell(5, Placed("1")), tell(10, Placed("1", ("c",))), is_steady=False),
    scenario("migrated", sagas.moved_1(), {"Rush": ("no",)}, Restart(6), later=sagas.moved_2()),
    scenario("crash loop", cast.Linear, {"Charge": ("lose", "yes")}, Restart(0.1), Restart(0.2), Restart(0.3),
             Restart(0.4)),
    scenario("remote", cast.Linear, None, is_remote=True, listeners=[sagas.tell, sagas.hear]),
    scenario("remote, fails", sagas.Cancellable, {"Reserve": ("fail", "lose", "yes"), "Charge": ("no",)},
             is_remote=True),
    scenario("remote, late", sagas.Cancellable, {"Charge": ("late",)}, is_remote=True, is_steady=False),
)  # fmt: skip


def followed(services: Services, life: int) -> App[object]:
    """A saga, a listener that hears of its end, and a saga that follows from what this tells."""
    return App(
        "proof",
        sagas=[cast.Linear, sagas.Followed],
        participants=PARTICIPANTS,
        listeners=[sagas.tell, sagas.hear],
        resources=partial(desk, services),
    )


def branches_first(instances: Sequence[Instance], outside: Services) -> list[str]:
    """The tour, which both branches let start, is undone before either (R7)."""
    undone = [effect.key.rpartition("/")[2] for effect in outside.effects if effect.is_undo]
    early = undone[: undone.index("tour#1")] if "tour#1" in undone else []
    return [f"I5 {step} was undone before the tour" for step in early]


def unheard(instances: Sequence[Instance], outside: Audience) -> list[str]:
    """What was to be announced, and nobody has heard."""
    ids = (f"{one.saga}/{one.key}~{one.run}/announce#1" for one in instances if one.status is Status.COMPLETED)
    return [f"I7 {id} was published, and nobody has heard it" for id in ids if not outside.heard[id]]


def without_effect(instances: Sequence[Instance], outside: Services) -> list[str]:
    """What counts as done, and was not done for this visit of this run."""
    done = {effect.key for effect in outside.effects}
    return [
        f"H1 {key} counts as done, and no participant did it"
        for one in instances
        for visit in one.visits
        for call in visit.calls
        if call.do is Do.YES and call.kind is CallKind.COMMAND
        if (key := one.command_id(visit, call)) not in done or one.run not in key
    ]


SCENARIOS += (
    structs.replace(scenario("remote, heard", cast.Linear, is_remote=True), outside=partial(Audience, {}),
                    settled=unheard),
    structs.replace(scenario("followed", cast.Linear), app=followed),
    structs.replace(scenario("bug, mended", sagas.puzzled(is_mended=False), None, tell(2, Hurry("1")),
             tell(3, Approved("1")), Restart(6), later=sagas.puzzled(is_mended=True)), has_bugs=True),
    scenario("undo never answers", sagas.Cancellable, {"Charge": ("no",), "Release": (*["fail"] * 12, "yes")}),
    scenario("placed again", cast.Branches, None, tell(0.1, Placed("1")), tell(20, Placed("1", ("c",)))),
    scenario("deadline, while it unwinds", sagas.Deadlined,
             {"Reserve": ("fail",), "Release": (*["fail"] * 7, "yes")}, is_steady=False),
    scenario("children, paused", sagas.Family, None, ask(0.15, sagas.Family, Verb.PAUSE),
             ask(40, sagas.Family, Verb.RESUME), is_steady=False),
    scenario("children, cancelled", sagas.Family, {"Rush": ("mute", "yes")}, ask(4, sagas.Family, Verb.CANCEL),
             is_steady=False),
    structs.replace(scenario("remote, late answers", sagas.Patient, {"Reserve 2": (*["mute"] * 8, "yes")},
                             is_remote=True), settled=without_effect),
    structs.replace(scenario("restarted", cast.Again, None, tell(20, Placed("1"))), settled=without_effect),
    structs.replace(scenario("parallel, unwound", cast.Branches, {"Charge": ("no",)}), settled=branches_first),
    scenario("past the pivot, parked", cast.NoWayBack, {"Rush": (*["fail"] * 4, "yes")}),
    scenario("past the pivot, cancelled", cast.Linear, {"Ship": ("mute", "yes")}, ask(3, cast.Linear, Verb.CANCEL),
             is_steady=False),
    scenario("kept over the end", sagas.Returning, {"Reserve a": ("no",)}, tell(0.0, Approved("1")),
             tell(20, Placed("1", ("c",))), is_steady=False),
    scenario("past the pivot, too late", cast.NoWayBack, {"Rush": ("mute", "yes")}, tell(3, Cancelled("1")),
             is_steady=False),
    scenario("cancelled after the end", sagas.Revocable, None, tell(60, Cancelled("1")), is_steady=False),
    scenario("renewal, refused", sagas.Renewal, {"Charge #2": ("no",)}, is_steady=False),
)  # fmt: skip


def worker(name: str, *stories: Story, with_kit: bool = True) -> Scenario:
    """A worker: the process under fault carries out what somebody outside asks of it."""

    def app(asker: Asker, life: int) -> App[object]:
        whole = App(
            "proof",
            sagas=[cast.Linear],
            participants=PARTICIPANTS if with_kit else bare(asker),
            resources=partial(desk, asker.services),
        )
        return whole.work_only()

    return Scenario(
        name=name,
        app=app,
        outside=partial(Asker, stories),
        lines=(),
        disk=SQLiteDisk,
        on_bus=True,
        settled=kept if with_kit else unanswered,
    )


STORIES = (
    Story("plain"),
    Story("undone", undo_after=0.3),
    Story("impatient", every=0.05),
    Story("fails", script=("fail", "fail", "yes")),
    Story("refused", script=("no",)),
)
UNDONE = (
    Story("undone first", undo_after=-1.0),
    Story("both at once", undo_after=0.0),
    Story("undone in doubt", script=("mute", "yes"), undo_after=3.0, every=5.0),
    Story("lost", script=("lose", "yes"), undo_after=20.0),
)

SCENARIOS += (
    worker("worker", Story("fails", script=("fail", "yes")), Story("refused", script=("no",)), *UNDONE[1:]),
    worker("worker, no kit", *STORIES, with_kit=False),
    worker("worker, undone, no kit", *UNDONE, with_kit=False),
    structs.replace(scenario("remote, nobody there", cast.Linear, is_remote=True), outside=partial(LateServices, {}),
                    is_steady=False),
    structs.replace(scenario("remote, one topic", cast.Linear, None, tell(0.1, Hurry("1")), is_remote=True,
                             listeners=[sagas.tell, sagas.hear]),
                    outside=partial(Audience, {}, "all"), topics=TopicSettings(routes={"*": "all"}), settled=unheard),
    structs.replace(scenario("remote, plain", cast.Linear, is_remote=True, orders=2),
                    topics=TopicSettings(plain={"Placed": Plain(type="Placed", id_field="order")})),
)  # fmt: skip
