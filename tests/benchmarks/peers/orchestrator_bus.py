"""The order saga here, its participants in another process: both on SQLite as it is shipped, a broker between them.

Of BUS_URL and BUS_PREFIX. `--work` is the other process, which is started by the first.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

import anyio

from orchestrator import Orchestrator
from orchestrator.topics import TopicSettings
from tests.benchmarks.peers.elsewhere import elsewhere, like_a_daemon, until_told
from tests.benchmarks.peers.measuring import Load, Options, checkpoint, drive, options
from tests.benchmarks.peers.orchestrator_sqlite import OrderPlaced, app


async def run(options: Options) -> None:
    url, topics = os.environ["BUS_URL"], TopicSettings(prefix=os.environ["BUS_PREFIX"])
    store = options.dir / "orders.db"
    async with (
        elsewhere("orchestrator_bus", options.dir) as other,
        Orchestrator(app.sagas_only(), f"sqlite:///{store}", url, topics=topics) as orchestrator,
    ):

        async def order(number: int) -> None:
            run = await orchestrator.start(OrderPlaced(str(number), number))
            await run.end()

        load = Load(options, (other.pid,))
        await drive(order, load, options.in_flight)
        load.report(commits=orchestrator.stats().commits)
    checkpoint(store)


async def work(options: Options) -> None:
    url, topics = os.environ["BUS_URL"], TopicSettings(prefix=os.environ["BUS_PREFIX"])
    async with Orchestrator(app.work_only(), f"sqlite:///{options.dir / 'work.db'}", url, topics=topics):
        await until_told()


if __name__ == "__main__":
    main = work if "--work" in sys.argv else run
    like_a_daemon()
    given = options([word for word in sys.argv[1:] if word != "--work"])
    anyio.run(main, given, backend_options={"use_uvloop": find_spec("uvloop") is not None})
