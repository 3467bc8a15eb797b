"""Decides, from the files that are there, which one goes on, which one is built on, and which ones go."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from ..projection import Shape
from .rows import Bookmark


class Plan(Struct, frozen=True):
    """What to do with the files of a projection at a start.

    live     the file that is read, and goes on to be kept up to date; None: there is none, or one that does not fit
    build    the file to be built until it can take the other's place; None: nothing is to be built
    is_new   it is to be made first
    remove   files to be removed
    """

    live: int | None
    build: int | None
    is_new: bool
    remove: tuple[int, ...]


def plan(shape: Shape, current: int | None, found: Mapping[int, Bookmark | None], strange: frozenset[int]) -> Plan:
    """`found`: the bookmark of every file, None where it cannot be read; `strange`: those that come from another log
    than the store's, as after a backup was put back.

    A file that does not fit the class is read on until another is built, and is not kept up to date meanwhile.
    """

    def fits(number: int) -> bool:
        bookmark = found[number]
        return bookmark is not None and bookmark.is_of(shape) and number not in strange

    begun = [number for number in found if number > (current or 0)]
    live = current if current is not None and fits(current) else None
    build = next((number for number in sorted(begun, reverse=True) if fits(number)), None)
    is_new = build is None and live is None
    if is_new:
        build = max(found, default=0) + 1
    remove = tuple(sorted(number for number in found if number not in (current, build)))
    return Plan(live, build, is_new, remove)


def may_switch(build: Bookmark, live: Bookmark | None, head: int) -> bool:
    """Whether readers may be given what was built: it knows no less than what they have, or, where that is not kept up
    to date, all that there was when it was asked (`head`).
    """
    if build.reason:
        return False
    if live is not None and not live.reason:
        return build.position >= live.position
    return build.position >= head
