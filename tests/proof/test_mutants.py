"""The test of the tester can fail: a bug that is none survives, and a patch that does not fit says so."""

from __future__ import annotations

from collections.abc import Generator
from difflib import unified_diff

import pytest

from tests.proof.mutants.found import Again, Found
from tests.proof.mutants.patches import Mutant, mutant, mutants
from tests.proof.mutants.proving import false_alarms, hunted, proved
from tests.proof.mutants.trees import ROOT, DoesNotApply, Tree, tree

FEWEST = 40
QUICK = ("outbox-row-never-removed", "key-made-at-publish", "undo-order-forward")

PLACE = "orchestrator/runtime/committer.py"


@pytest.fixture(scope="module")
def here() -> Generator[Tree]:
    with tree() as found:
        yield found


def rewritten(name: str, before: str, after: str) -> Mutant:
    """A patch that puts one text in the place of another."""
    text = f"{before}\n" + (ROOT / PLACE).read_text().partition("\n")[2]
    lines, others = text.splitlines(keepends=True), text.replace(before, after).splitlines(keepends=True)
    diff = "".join(unified_diff(lines, others, f"a/{PLACE}", f"b/{PLACE}", n=2))
    return mutant(name, f"# says the same in other words (R1)\n# caught by: simulation linear / twice\n{diff}")


def first_line() -> str:
    return (ROOT / PLACE).read_text().splitlines()[0]


def test_there_are_enough_of_them_and_each_says_what_it_breaks() -> None:
    found = mutants()
    assert len(found) >= FEWEST
    assert len({one.name.partition("-")[2] for one in found}) == len(found)
    assert all(one.hints and one.files for one in found)


def test_every_patch_applies_and_leaves_no_trace(here: Tree) -> None:
    for one in mutants():
        before = [(here.path / name).read_bytes() for name in one.files]
        with here.with_bug(one):
            assert [(here.path / name).read_bytes() for name in one.files] != before, one.name
        assert [(here.path / name).read_bytes() for name in one.files] == before


def test_some_are_caught(here: Tree) -> None:
    chosen = [one for one in mutants() if one.name.partition("-")[2] in QUICK]
    assert len(chosen) == len(QUICK)
    found = proved(here, chosen)
    assert not found.wrong
    assert found.figures["caught"] == len(QUICK)
    table = str(found.figures["mutant | rule | caught by | what it said"]).splitlines()
    assert all("| simulation " in line for line in table[1:])


def test_a_patch_that_changes_nothing_survives_and_is_reported(here: Tree) -> None:
    one = hunted(here, rewritten("00-harmless", first_line(), '"""In other words."""'), ladder=())
    assert one.found is None
    assert one.survives == "it survives"
    assert str(one) == "00-harmless | R1 | nothing | it survives"


def test_a_patch_whose_place_has_changed_is_reported(here: Tree) -> None:
    one = rewritten("00-elsewhere", "what is not there", "what would be")
    with pytest.raises(DoesNotApply), here.with_bug(one):
        pass
    assert "00-elsewhere no longer applies" in hunted(here, one).survives


def test_code_that_does_not_run_is_not_counted_as_caught(here: Tree) -> None:
    one = hunted(here, rewritten("00-broken", first_line(), "raise"))
    assert one.found is None
    assert "does not run" in one.survives


def test_a_catcher_that_always_fails_is_noticed(here: Tree) -> None:
    path = here.path / "tests" / "test_always.py"
    path.write_text("def test_it() -> None:\n    raise AssertionError\n")
    alarms = false_alarms(here, [Found("test", "it failed", Again(test="tests/test_always.py::test_it"))])
    path.unlink()
    assert len(alarms) == 1
    assert "says so without any bug" in alarms[0]
