"""Ids by chance."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.runtime.chance import DRAWN_AT_ONCE, new_id

FORKING = """
import os
from orchestrator.runtime.chance import new_id

new_id()
reading, writing = os.pipe()
if not (child := os.fork()):
    os.write(writing, new_id().encode())
    os._exit(0)
os.waitpid(child, 0)
print(os.read(reading, 32).decode(), new_id())
"""


def test_no_id_is_given_twice() -> None:
    with ThreadPoolExecutor(4) as threads:
        ids = list(threads.map(lambda _: new_id(), range(10 * DRAWN_AT_ONCE)))
    assert len(set(ids)) == len(ids)
    assert {len(id) for id in ids} == {32}
    assert all(int(id, 16) >= 0 for id in ids)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_child_gives_others() -> None:
    said = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, check=True, timeout=60)
    of_child, of_parent = said.stdout.split()
    assert of_child != of_parent
    assert len(of_child) == len(of_parent) == 32
