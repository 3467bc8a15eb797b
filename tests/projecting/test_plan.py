"""Which file goes on, which is built, which goes: a row for each case."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator import Event, Projection, project
from orchestrator.projecting.plan import Plan, may_switch, plan
from orchestrator.projecting.rows import Bookmark
from orchestrator.projection import shape_of


class Paid(Event):
    cents: int


class Sums(Projection, version=2):
    tables = "CREATE TABLE sums (cents INTEGER)"

    @project
    def paid(self, event: Paid) -> None: ...


SHAPE = shape_of(Sums)
OURS = Bookmark("Sums", 2, SHAPE.digest, position=7)
OLDER = replace(OURS, version=1)
OTHER_TABLES = replace(OURS, digest="else")


@pytest.mark.parametrize(
    ("current", "found", "strange", "expected"),
    [
        (None, {}, (), Plan(None, 1, True, ())),
        (None, {1: OURS}, (), Plan(None, 1, False, ())),  # the first build goes on where it was
        (None, {1: OLDER}, (), Plan(None, 2, True, (1,))),
        (None, {1: None}, (), Plan(None, 2, True, (1,))),  # killed before it was a file
        (1, {1: OURS}, (), Plan(1, None, False, ())),
        (1, {1: OURS, 2: OURS}, (), Plan(1, 2, False, ())),  # a rebuild goes on
        (1, {1: OURS, 2: OLDER}, (), Plan(1, None, False, (2,))),  # of code that is not here any more
        (1, {1: OLDER}, (), Plan(None, 2, True, ())),  # a changed version is built anew; the old one is read
        (1, {1: OLDER, 2: OURS}, (), Plan(None, 2, False, ())),
        (1, {1: OTHER_TABLES}, (), Plan(None, 2, True, ())),
        (3, {2: OURS, 3: OURS}, (), Plan(3, None, False, (2,))),  # one that was replaced
        (1, {1: OURS}, (1,), Plan(None, 2, True, ())),  # a backup of the store was put back
        (1, {1: OURS, 2: OURS}, (2,), Plan(1, None, False, (2,))),
        (1, {1: None}, (), Plan(None, 2, True, ())),  # damaged
    ],
)
def test_a_start_decides_from_what_is_there(
    current: int | None, found: dict[int, Bookmark | None], strange: tuple[int, ...], expected: Plan
) -> None:
    assert plan(SHAPE, current, found, frozenset(strange)) == expected


@pytest.mark.parametrize(
    ("build", "live", "head", "expected"),
    [
        (OURS, OURS, 9, True),  # readers do not go back
        (OURS, replace(OURS, position=8), 9, False),
        (OURS, None, 7, True),
        (OURS, None, 8, False),
        (OURS, replace(OURS, position=3, reason="failed"), 9, False),  # not kept up to date: all there is
        (OURS, replace(OURS, position=8, reason="failed"), 7, True),
        (replace(OURS, reason="failed"), OURS, 7, False),
    ],
)
def test_readers_get_what_knows_no_less(build: Bookmark, live: Bookmark | None, head: int, expected: bool) -> None:
    assert may_switch(build, live, head) is expected
