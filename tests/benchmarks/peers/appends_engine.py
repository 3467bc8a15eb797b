"""The same appends through a running engine: `Orchestrator.events`."""

from __future__ import annotations

from importlib.util import find_spec

import anyio

from tests.benchmarks.peers.appends_orchestrator import run_engine
from tests.benchmarks.peers.measuring import options

if __name__ == "__main__":
    anyio.run(run_engine, options(), backend_options={"use_uvloop": find_spec("uvloop") is not None})
