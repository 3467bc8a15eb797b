"""kill -9, again and again, at moments drawn from a seed; then everything is let live, and the books are read."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from orchestrator import load_app
from orchestrator.checking.audit import Audit, Books

from . import works
from .books import audited, read_books, wrong_in_the_end
from .customers import shop_letters, works_letters, write_products
from .lives import ROOT, START_S, STOPPING, Life, Place, until
from .mail import Letter, Mail, Postman

WORKS = Path(works.__file__)
SHOP = ROOT / "sagas" / "order_fulfilment.py"
LETTERS = 14  # to a daemon that lives for a while
LOOP_S = 0.3
INTAKE_S = 0.06
LIFE_S = (0.05, 0.6)
DRAIN_S = 0.12
END_S = 120.0


class Way(StrEnum):
    """When a daemon is killed."""

    STARTING = "starting"  # before it serves, or just then
    LOOPING = "looping"  # the same, many in a row
    TAKING_IN = "taking in"  # while letters come
    SERVING = "serving"
    STOPPING = "stopping"  # while it finishes what is in flight


class Phase(StrEnum):
    """Where a kill fell, by what the dead left behind."""

    STARTING = "killed starting"  # before it had the store
    RECOVERING = "killed recovering"  # with the store, before it served
    TAKING_IN = "killed taking in"  # with letters that were not answered
    CALLING = "killed calling"  # with participants at work
    STOPPING = "killed stopping"
    SERVING = "killed serving"  # none of these


MUST_BE_SEEN = (Phase.STARTING, Phase.RECOVERING, Phase.TAKING_IN, Phase.CALLING, Phase.STOPPING)
CHANCES = {Way.STARTING: 2, Way.TAKING_IN: 3, Way.SERVING: 4, Way.STOPPING: 2}


class Found(Struct, frozen=True):
    """What a part of this proof did, and what is wrong."""

    figures: dict[str, int | float | str]
    wrong: tuple[str, ...]


def ways(rng: random.Random, count: int) -> list[Way]:
    """A third of them is a crash loop, all in a row; the others come in any order."""
    looping = count // 3
    others = [rng.choices([*CHANCES], [*CHANCES.values()])[0] for _ in range(count - looping)]
    middle = rng.randint(1, len(others))
    return [*others[:middle], *[Way.LOOPING] * looping, *others[middle:]]


class Harness:
    """Kills the daemons of a place, one after the other, with mail for all of them."""

    def __init__(self, place: Place, rng: random.Random, letters: Iterator[list[Letter]]) -> None:
        self.place = place
        self.mail = Mail()
        self.phases: Counter[Phase] = Counter()
        self.wrong: list[str] = []
        self._rng = rng
        self._letters = letters
        self._start_s = 0.0

    def write(self, count: int) -> None:
        """At least so many letters, and none without those that belong to it."""
        while count > 0:
            letters = next(self._letters)
            self.mail.add(*letters)
            count -= len(letters)

    def run(self, kills: list[Way]) -> None:
        """All of them, until one goes wrong."""
        with Life(self.place) as first:
            self._start_s = first.is_ready().age
        for number, way in enumerate(kills, start=1):
            self.write(0 if way is Way.LOOPING else LETTERS)
            try:
                with Life(self.place) as life:
                    phase = self._killed(life, way)
            except (AssertionError, OSError) as error:
                self.wrong.append(f"cycle {number} ({way}): {error}")
                return
            self.phases[phase] += 1

    def _killed(self, life: Life, way: Way) -> Phase:
        """Where the kill fell. The only times waited for are those a victim is given to live."""
        if way is Way.LOOPING:
            life.lives(0.7 * self._start_s + self._rng.uniform(0, LOOP_S) - life.age)
        elif way is Way.STARTING:
            life.lives(self._start_s * self._rng.uniform(0.4, 1.1) - life.age)
        else:
            life.is_ready()
            with Postman(self.mail, self.place.store):
                if way is Way.TAKING_IN:
                    assert until(lambda: self.mail.under_way), "it takes nothing"
                    life.lives(self._rng.uniform(0, INTAKE_S))
                else:
                    life.lives(self._rng.uniform(*LIFE_S))
                if way is Way.STOPPING:
                    return self._killed_stopping(life)
                under_way = self.mail.under_way
                life.kill()
            return self._phase(life.pid, under_way)
        has_the_store = life.holds_the_store
        life.kill()
        return Phase.RECOVERING if has_the_store else Phase.STARTING

    def _killed_stopping(self, life: Life) -> Phase:
        life.send(signal.SIGTERM)
        assert until(lambda: life.has_said(STOPPING)), "it does not stop"
        code = life.end(self._rng.uniform(0, DRAIN_S))
        life.kill()
        assert code in (0, None), f"it stopped with {code}"
        return Phase.STOPPING if code is None else Phase.SERVING

    def _phase(self, pid: int, under_way: int) -> Phase:
        """Both at once is likely: the one that was rarer until now is counted."""
        found = [Phase.TAKING_IN] if under_way else []
        if self.place.app == WORKS and calls_under_way(self.place.folder, pid):
            found.append(Phase.CALLING)
        return min(found, key=lambda phase: self.phases[phase], default=Phase.SERVING)

    def let_live(self) -> None:
        """Deliver all mail, wait for all ends, stop it, and see that nothing is left to do."""
        try:
            with Life(self.place) as life:
                life.is_ready()
                with Postman(self.mail, self.place.store):
                    assert until(lambda: self.mail.is_empty, END_S), "the mail could not be delivered"
                    assert until(lambda: not self.place.open_instances(), END_S), f"stuck: {self.place.counts()}"
                code = life.terminate()
                assert code == 0, f"SIGTERM ended it with {code}"
            with Life(self.place, "--until-idle") as last:
                code = last.end(START_S)
                assert code == 0, f"--until-idle ended with {code}"
        except (AssertionError, OSError) as error:
            self.wrong.append(f"in the end: {error}")
        self.wrong += self.mail.refused

    @property
    def recovered(self) -> int:
        """How many starts found open instances."""
        return sum(bool(line.get("recovered_instances")) for line in self.place.log_lines())

    @property
    def crimes(self) -> list[str]:
        """What a daemon should never have to log."""
        return [str(line["message"]) for line in self.place.log_lines() if line.get("level") == "critical"]


def _void(audit: Audit) -> list[str]:
    """What was never begun proves nothing."""
    return [] if audit.transitions > LETTERS else [f"void: {audit.instances} sagas, {audit.transitions} transitions"]


def calls_under_way(folder: Path, pid: int) -> int:
    """Calls that a daemon has begun and not ended; of a dead one, those that its death cut off."""
    with closing(sqlite3.connect(folder / "calls.db")) as calls:
        (count,) = calls.execute("SELECT count(*) FROM call WHERE pid = ? AND NOT is_over", (pid,)).fetchone()
    return int(count)


def works_killed(folder: Path, rng: random.Random, count: int) -> Found:
    """The works under kill -9."""
    place = Place(folder, WORKS)
    harness = Harness(place, rng, works_letters(rng))
    harness.run(ways(rng, count))
    harness.let_live()
    books = read_books(folder, harness.mail.accepted)
    audit, wrong = wrong_in_the_end(place, works.app, books)
    figures: dict[str, int | float | str] = {
        "kills": sum(harness.phases.values()),
        **{str(phase): harness.phases[phase] for phase in Phase},
        "starts that recovered work": harness.recovered,
        "sagas": audit.instances,
        "transitions": audit.transitions,
        "acknowledged": len(books.accepted),
        "stored but not acknowledged before the kill": harness.mail.stored_unanswered,
        "calls": len(books.delivered),
        "effects": len(books.effects),
        "calls cut off": _calls_cut_off_in_all(folder),
    }
    return Found(figures, (*harness.wrong, *harness.crimes, *wrong, *_void(audit)))


def _calls_cut_off_in_all(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "calls.db")) as calls:
        (count,) = calls.execute("SELECT count(*) FROM call WHERE NOT is_over").fetchone()
    return int(count)


def shop_killed(folder: Path, rng: random.Random, count: int) -> Found:
    """The example shop under kill -9, by its own books."""
    products = folder / "products.jsonl"
    write_products(products)
    moods = {"SHOP_INVENTORY": "late=0.01", "SHOP_PAYMENTS": "decline=10 lose=1", "SHOP_SHIPPING": "fail=1 twice=1"}
    settings = {"SHOP_DATA": str(folder / "ledgers"), "SHOP_PRODUCTS": str(products), **moods}
    place = Place(folder, SHOP, settings)
    harness = Harness(place, rng, shop_letters(rng))
    harness.run(ways(rng, count))
    harness.let_live()
    app = load_app(str(SHOP))
    audit = audited(app, place.url, Books(accepted=tuple(harness.mail.accepted)), idle=True)
    wrong = [*harness.wrong, *harness.crimes, *audit.violations, *_wrong_ledgers(place)]
    figures: dict[str, int | float | str] = {
        "shop: kills": sum(harness.phases.values()),
        "shop: sagas": audit.instances,
        "shop: transitions": audit.transitions,
        "shop: acknowledged": len(harness.mail.accepted),
        "shop: starts that recovered work": harness.recovered,
    }
    return Found(figures, (*wrong, *_void(audit)))


def _wrong_ledgers(place: Place) -> list[str]:
    read = subprocess.run(
        [sys.executable, SHOP, "books"], env=place.environment, capture_output=True, text=True, timeout=START_S
    )
    return [] if read.returncode == 0 else [f"the shop's books: {read.stdout}{read.stderr}"]
