"""The log of a memory store: what every other store must do with appends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice

from .errors import DuplicateMessage, VersionConflict
from .ports import MAX_PAGE
from .recorded import Append, Appended, Logged, Stretch


class MemoryLog:
    """Events by position, by stream, and by id."""

    def __init__(self) -> None:
        """Without events."""
        self._rows: list[Logged] = []
        self._streams: dict[str, list[Logged]] = {}
        self._ids: dict[str, Logged] = {}

    def problem(self, appends: Sequence[Append]) -> VersionConflict | DuplicateMessage | None:
        """Why these appends, of one transition, must not be stored, or None."""
        ids = [event.id for append in appends for event in append.events]
        if any(id in self._ids for id in ids) or len(set(ids)) < len(ids):
            return DuplicateMessage(f"in the log already: {', '.join(ids)}")
        versions: dict[str, int] = {}
        for append in appends:
            actual = versions.get(append.stream, self.version(append.stream))
            if append.expected_version not in (None, actual):
                return VersionConflict.of_stream(append.stream, append.expected_version or 0, actual)
            versions[append.stream] = actual + len(append.events)
        return None

    def store(self, append: Append) -> Appended:
        """Put its events at the end of the stream and of the log."""
        stream = self._streams.setdefault(append.stream, [])
        for event in append.events:
            row = Logged(len(self._rows) + 1, append.stream, len(stream) + 1, event)
            self._rows.append(row)
            stream.append(row)
            self._ids[event.id] = row
        return Appended(len(stream), len(self._rows))

    def version(self, stream: str) -> int:
        """How many events a stream has."""
        return len(self._streams.get(stream, ()))

    def stream(self, name: str, after: int, limit: int) -> list[Logged]:
        """The events of a stream after a version."""
        return self._streams.get(name, [])[max(0, after) :][: page_size(limit)]

    def log(self, after: int, limit: int, types: Collection[str]) -> Stretch:
        """The events after a position, of these types."""
        after = max(0, after)
        behind = islice(self._rows, after, None)
        rows = tuple(islice((row for row in behind if not types or row.envelope.type in types), page_size(limit)))
        is_page_full = len(rows) == page_size(limit)
        return Stretch(rows, rows[-1].position if is_page_full else max(after, len(self._rows)))

    def logged(self, id: str) -> Logged | None:
        """The event of this id."""
        return self._ids.get(id)

    @property
    def last_position(self) -> int:
        """How many events there are."""
        return len(self._rows)


def page_size(limit: int) -> int:
    """A limit as it is kept."""
    return max(1, min(limit, MAX_PAGE))
