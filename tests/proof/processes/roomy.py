"""`orchestrator` on a disk of a given size: PROOF_ROOM names a file that holds how many pages the store may have."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.operate.cli import main
from orchestrator_adapters.sqlite.connection import TxConnection

_execute = TxConnection.execute


def _execute_in_room(
    connection: TxConnection, sql: str | Callable[[sqlite3.Connection], Any], parameters: Any = (), /
) -> sqlite3.Cursor:
    if not isinstance(sql, str):
        room = Path(os.environ["PROOF_ROOM"])
        pages = int(room.read_text()) if room.exists() else 0
        _execute(connection, f"PRAGMA max_page_count = {pages or 1 << 30}")
    return _execute(connection, sql, parameters)


TxConnection.execute = _execute_in_room  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
