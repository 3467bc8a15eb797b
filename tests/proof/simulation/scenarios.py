"""The reference scenarios: every shape of a saga, with what happens to it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from orchestrator import App, Event, Listener, Saga
from orchestrator.testing.simulation import Ask, Line, Restart, Scenario, Tell
from orchestrator.wire import Address, Request, Verb
from tests.machine import cast
from tests.machine.cast import Approved, Cancelled, Hurry, Placed

from . import sagas
from .disk import SQLiteDisk
from .services import PARTICIPANTS, RemoteServices, Script, Services, desk


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
