"""A share of the BPI Challenge's log, projected under kill -9; `python -m tests.proof projections` takes all of it."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from orchestrator.projecting.files import Files, directory_of

from .projections import Books, applications, project_and_kill
from .projections.applications import STORE

needs_data = pytest.mark.skipif(not applications.DATA.exists(), reason=f"{applications.DATA} is not here")


@needs_data
def test_the_tables_are_always_a_plain_count_of_the_events(tmp_path: Path) -> None:
    proved = project_and_kill(tmp_path, random.Random(1), limit=5_000, kills=4)
    assert proved.wrong == ()
    assert proved.figures["kills"] == 4
    assert int(proved.figures["rebuilds"]) >= 2

    number = Files(directory_of(tmp_path / STORE), "Funnel").current()
    with sqlite3.connect(directory_of(tmp_path / STORE) / f"Funnel.{number}.db") as db:  # and the proof can fail
        db.execute("UPDATE funnel SET offered = offered + 1 WHERE month = '2011-10'")
    db.close()
    books = Books(tmp_path)
    books.look_as_reader()
    assert books.wrong == ["Funnel, read: it is not a count of the first 5000 events"]
