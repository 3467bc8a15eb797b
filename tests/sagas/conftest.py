"""The examples are files in a folder, as a user's own: they are imported from there."""

import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SAGAS = REPOSITORY / "sagas"
sys.path.insert(0, str(SAGAS))


def data_folder() -> Path:
    """Where the real orders and the bank's log would be: beside the repository, or where ORCHESTRATOR_DATA says."""
    return Path(os.environ.get("ORCHESTRATOR_DATA") or REPOSITORY.parent / "shared" / "data")


@pytest.fixture
def real_data() -> Path:
    """The folder with the real data; without it the test is skipped."""
    if not data_folder().is_dir():
        pytest.skip(f"no real data at {data_folder()}: set ORCHESTRATOR_DATA to its folder")
    return data_folder()
