"""Whether an open instance can be hosted by this code (R18)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..definition import Definition
from ..errors import AppError
from ..ports import Standing

SHOWN = 20


def check_standing(app: str, sagas: Mapping[str, Definition], standing: Iterable[Standing]) -> None:
    """Errors: AppError, naming the open instances whose saga, step or migration is not in this code."""
    found = [line for each in standing for line in problems(sagas, each)]
    if not found:
        return
    shown = "".join(f"\n  {line}" for line in found[:SHOWN])
    more = f"\n  and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise AppError(
        f"app {app!r} cannot go on with what is stored:{shown}{more}\n"
        "bring back what is missing, add the migration, or end these instances with the code they were begun with"
    )


def problems(sagas: Mapping[str, Definition], standing: Standing) -> Iterator[str]:
    """What this code lacks for open instances that stand so."""
    others = f" and {standing.count - 1:,} more" if standing.count > 1 else ""
    where = f"{standing.saga}/{standing.key}{others}" if standing.key else f"{standing.count:,} of {standing.saga}"
    definition = sagas.get(standing.saga)
    if definition is None:
        yield f"{where}: there is no saga {standing.saga}"
        return
    for step in dict.fromkeys(standing.steps):
        if step not in definition.steps:
            yield f"{where}: stands in step {step}, which {standing.saga} does not have"
    if standing.definition_version > definition.version:
        yield (
            f"{where}: is of version {standing.definition_version}, newer than this code's {standing.saga} "
            f"(version {definition.version})"
        )
    for version in range(standing.definition_version, definition.version):
        if version not in definition.migrations:
            yield f"{where}: is of version {standing.definition_version}; there is no @migrate(from_version={version})"
