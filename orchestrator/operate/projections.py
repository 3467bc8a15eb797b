"""Projections as people see them, from their files beside the store."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from ..ports import Store
from ..projecting.files import Files, directory_of, names_in
from ..projecting.looking import Built, Seen, State, look
from ..projecting.rows import Bookmark
from .view import BuildingView, PauseView, ProblemView, ProjectionView, moment

NOT_BUILT = "not built"  # it is in the app, and nothing has run it yet


async def projections(store: Store, path: Path, now: datetime, known: Iterable[str] = ()) -> list[ProjectionView]:
    """Those that have files beside the store at `path`, and those that are known besides, by name."""
    directory = directory_of(path)
    names = sorted({*names_in(directory), *known})
    return [view_of(await look(Files(directory, name), store, now.timestamp())) for name in names]


def view_of(seen: Seen) -> ProjectionView:
    """One projection."""
    current, building = seen.current, seen.building
    shown = current or building
    bookmark = shown.bookmark if shown is not None else None
    return ProjectionView(
        name=seen.name,
        state=NOT_BUILT if shown is None and seen.state is State.BUILDING else str(seen.state),
        version=current.bookmark.version if current is not None else None,
        position=bookmark.position if bookmark is not None else 0,
        behind=shown.behind if shown is not None else 0,
        behind_s=shown.behind_s if shown is not None else 0.0,
        applied=bookmark.applied if bookmark is not None else 0,
        updated_at=moment(bookmark.updated_at) if bookmark is not None else None,
        problem=_problem(seen.problem),
        paused=PauseView(by=seen.pause.by, since=moment(seen.pause.at), why=seen.pause.why) if seen.pause else None,
        building=_building(building) if building is not None else None,
        file=str(seen.path),
    )


def _problem(bookmark: Bookmark | None) -> ProblemView | None:
    if bookmark is None:
        return None
    return ProblemView(reason=bookmark.reason, position=bookmark.failed_position, since=moment(bookmark.failed_since))


def _building(built: Built) -> BuildingView:
    position, head = built.bookmark.position, built.bookmark.position + built.behind
    share = position / head if head else 1.0
    return BuildingView(version=built.bookmark.version, position=position, behind=built.behind, share=round(share, 4))
