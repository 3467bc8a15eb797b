"""Sagas as strangers write them: those that are right are explored to the end, quickly."""

from __future__ import annotations

import time
from typing import Any

import pytest

from orchestrator.checking import explore, states, world
from orchestrator.checking.check import children_among
from orchestrator.definition import definition_of
from orchestrator.machine import Instance
from orchestrator.testing import check
from tests.machine import cast

from . import odd, wrong

RIGHT = [
    odd.Renewal,
    odd.Poll,
    odd.Endless,
    odd.Reminded,
    odd.Signatures,
    odd.Restarted,
    odd.Computed,
    odd.Family,
    odd.Packed,
    odd.ThreeSteps,
    odd.FiveSteps,
    odd.FourBranches,
    odd.Eight,
    odd.EightNamed,
]


@pytest.mark.parametrize("saga", RIGHT, ids=lambda saga: saga.__name__)
def test_a_right_saga_is_green_without_any_bound(saga: Any) -> None:
    report = check(saga)
    assert report.ok
    assert not report.cut
    assert "completed" in report.ends
    assert not report.missing


@pytest.mark.parametrize(
    ("saga", "seconds"),
    [
        (odd.ThreeSteps, 1),
        (cast.Linear, 1),
        (odd.FiveSteps, 10),
        (odd.FourBranches, 10),
        (odd.Eight, 10),
        (odd.EightNamed, 10),
        (odd.Family, 10),
    ],
)
def test_it_is_quick(saga: Any, seconds: float) -> None:
    """In processor time, for the machine may have other things to do."""
    began = time.process_time()
    check(saga)
    assert time.process_time() - began < seconds


def test_a_saga_that_counts_without_end_is_never_green_by_itself() -> None:
    report = check(odd.Counted, strict=False)
    assert not report.ok
    assert "nothing wrong so far, stopped unfinished at 10 visits" in str(report)
    assert "give visits to say how many are enough" in str(report)
    with pytest.raises(AssertionError, match="stopped unfinished"):
        check(odd.Counted)
    enough = check(odd.Counted, visits=4)
    assert enough.ok
    assert "nothing wrong within 4 visits" in str(enough)


def test_a_loop_that_has_an_end_needs_no_number() -> None:
    assert check(odd.Poll).reached == ""  # twenty times round
    assert check(wrong.Votes).reached == ""


@pytest.mark.parametrize("saga", [cast.Disk, odd.ThreeSteps, odd.FiveSteps, odd.Renewal, cast.NoWayBack, cast.Branches])
def test_a_child_is_undone_by_its_parent_at_every_moment(saga: Any) -> None:
    alone = check(saga, strict=False)
    as_child = check(saga, as_child=True, strict=False)
    assert [it.what for it in as_child.violations] == [it.what for it in alone.violations]
    assert "compensated" in as_child.ends
    assert as_child.states > alone.states  # a completed one is undone too


def test_the_sagas_that_others_start_are_known() -> None:
    assert children_among(map(definition_of, [odd.Family, cast.Disk, odd.Poll])) == {"Disk"}


@pytest.mark.parametrize(
    "saga", [odd.ThreeSteps, cast.Linear, cast.FanOut, cast.Machine, odd.Signatures, odd.Renewal, cast.Choosy]
)
def test_nothing_an_operator_asks_breaks_a_right_saga(saga: Any) -> None:
    report = check(saga, verbs=True)
    assert report.ok
    assert "killed" in report.ends
    assert report.states > check(saga).states


BOTH = [
    cast.Linear,
    cast.FanOut,
    cast.Approval,
    cast.Machine,
    cast.Choosy,
    odd.Computed,
    odd.Renewal,
    odd.Signatures,
    wrong.Forgetful,
    wrong.Hasty,
    wrong.Late,
    wrong.Parent,
    wrong.TooLate,
    wrong.Partial,
    wrong.Again,
    wrong.Unheard,
    odd.Packed,
]


@pytest.mark.parametrize("saga", BOTH, ids=lambda saga: saga.__name__)
def test_what_is_merged_and_left_out_hides_nothing(saga: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same is found when every instance that differs in anything is a state of its own."""
    quick = check(saga, visits=2, no_tombstones=True, strict=False)
    monkeypatch.setattr(states.Keys, "of", _all_of)
    monkeypatch.setattr(world.World, "_is_new", lambda *_: True)
    monkeypatch.setattr(explore.Explorer, "_compare_elements", lambda *_: None)
    monkeypatch.setattr(states.Keys, "of_call", lambda self, visit, call, running: b"%d" % call.index)
    slow = check(saga, visits=2, no_tombstones=True, strict=False, max_states=6_000)
    assert slow.states >= quick.states
    quickly, slowly = ({it.what: it.moves for it in report.violations} for report in (quick, slow))
    exact = {what: moves for what, moves in slowly.items() if "within 2 visits" not in what}
    assert {what: moves for what, moves in quickly.items() if "within 2 visits" not in what} == exact
    assert set(quick.ends) == set(slow.ends)
    assert quick.missing == slow.missing
    assert set(quick.without_tombstone) == set(slow.without_tombstone)


def _all_of(self: states.Keys, instance: Instance) -> bytes:
    return states._encode(instance)
