"""The proof with real processes, in small; and that it can fail."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from orchestrator.checking.audit import Effect

from .processes import prove, troubles, works
from .processes.books import read_books, wrong_in_the_end
from .processes.kills import WORKS, Found, shop_killed, works_killed
from .processes.lives import Place
from .processes.whole import kept_if_wrong


def test_the_works_under_kills(killed: Path) -> None:
    assert (killed / "store.db").exists()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What daemons left that were killed a few times, and then let live."""
    folder = tmp_path_factory.mktemp("killed")
    found = works_killed(folder, random.Random(3), 4)
    assert found.wrong == ()
    assert found.figures["kills"] == 4
    return folder


def test_the_shop_under_kills(tmp_path: Path) -> None:
    found = shop_killed(tmp_path, random.Random(3), 3)
    assert found.wrong == ()
    assert found.figures["shop: kills"] == 3


def test_sigterm_at_any_moment(tmp_path: Path) -> None:
    assert troubles.terminated(tmp_path, random.Random(3), 4).wrong == ()


def test_sigterm_at_the_first_moment(tmp_path: Path) -> None:
    assert troubles.terminated_at_first(tmp_path).wrong == ()


@pytest.mark.parametrize(
    "trouble",
    [
        troubles.paused,
        troubles.without_room,
        troubles.within_a_file_size,
        troubles.rivals,
        pytest.param(
            troubles.clock_set, marks=pytest.mark.skipif(troubles.compiler() is None, reason="needs a C compiler")
        ),
        troubles.backed_up,
    ],
    ids=lambda trouble: trouble.__name__,
)
def test_a_trouble(trouble: Callable[[Path, random.Random], Found], tmp_path: Path) -> None:
    assert trouble(tmp_path, random.Random(3)).wrong == ()


# It can fail.


def wrong_if(folder: Path, change: Callable[[Place], None] = lambda place: None, **books: object) -> str:
    place = Place(folder, WORKS)
    change(place)
    _, wrong = wrong_in_the_end(place, works.app, replace(read_books(folder), **books))
    return "\n".join(wrong)


@pytest.fixture
def copy(killed: Path, tmp_path: Path) -> Path:
    shutil.copytree(killed, tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock"))
    return tmp_path / "copy"


def run_sql(place: Place, sql: str) -> None:
    with closing(sqlite3.connect(place.store)) as store, store:
        assert store.execute(sql).rowcount == 1


def test_nothing_is_wrong_as_it_is(copy: Path) -> None:
    assert wrong_if(copy) == ""


def test_an_acknowledged_event_that_is_nowhere_is_found(copy: Path) -> None:
    assert "want-nobody" in wrong_if(copy, accepted=("want-nobody",))


def test_an_effect_too_many_is_found(copy: Path) -> None:
    effects = read_books(copy).effects
    assert f"{effects[0].key}: done" in wrong_if(copy, effects=(*effects, effects[0]))


def test_an_undo_that_did_not_happen_is_found(copy: Path) -> None:
    effects = read_books(copy).effects
    undone = next(effect for effect in effects if effect.is_undo)
    left = tuple(effect for effect in effects if effect != undone)
    assert "but effects stand" in wrong_if(copy, effects=left)


def test_an_effect_that_is_missing_is_found(copy: Path) -> None:
    effects = read_books(copy).effects
    undone = {effect.key for effect in effects if effect.is_undo}
    standing = next(effect for effect in effects if effect.key not in undone)
    assert "never took effect" in wrong_if(copy, effects=tuple(effect for effect in effects if effect != standing))


def test_an_effect_nobody_asked_for_is_found(copy: Path) -> None:
    stray = Effect("Linear/nobody~0/charge#1")
    assert "Linear/nobody~0" in wrong_if(copy, effects=(*read_books(copy).effects, stray))


def test_a_transition_that_is_lost_is_found(copy: Path) -> None:
    last = "DELETE FROM history WHERE id = (SELECT max(id) FROM history)"
    assert "I3 " in wrong_if(copy, lambda place: run_sql(place, last))


def test_an_instance_that_is_stuck_is_found(copy: Path) -> None:
    place = Place(copy, WORKS)
    moods = ("well",) * 4
    emitted = place.call("emit", "WaitingWanted", json.dumps({"key": "for ever", "moods": moods}))
    assert emitted.returncode == 0, emitted.stderr
    assert place.call("run", "--until-idle").returncode == 0
    assert "Waiting/for%20ever~" in wrong_if(copy)


def test_what_is_wrong_says_its_seed_and_keeps_its_files() -> None:
    def part(folder: Path, rng: random.Random) -> Found:
        (folder / "evidence").write_text("")
        return Found({}, ("it broke",))

    [wrong] = kept_if_wrong("a part", part, 7).wrong
    folder = Path(wrong.partition("(")[2].rstrip(")"))
    assert wrong.startswith("a part, seed 7: it broke")
    assert (folder / "evidence").exists()
    shutil.rmtree(folder)


def test_a_share_is_proved() -> None:
    proved = prove(seed=1, share=0.02)
    assert proved.wrong == ()
    assert proved.figures["kills"] == 2
