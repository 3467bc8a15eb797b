"""Where a store that is a file lies."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote


def store_file(url: str) -> Path | None:
    """The file that `sqlite:///relative.db` or `sqlite:////absolute.db` names; None: another kind of store."""
    scheme, _, rest = url.partition(":///")
    name = unquote(rest.partition("?")[0])
    return Path(name) if scheme == "sqlite" and name and "\0" not in name else None
