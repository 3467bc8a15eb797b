"""How fast it is: `python -m tests.benchmarks [versus|shapes|growth|events|projections|bus]`, see `--help` of each.

versus (the default): the order saga beside its peers and beside what SQLite allows.
shapes: other sagas. growth: with much in the store. events: appends to streams. projections: read models of the log.
bus: behind a broker, beside its native client.
"""

from __future__ import annotations

import sys

from tests.benchmarks import versus

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["growth", *rest]:
            from tests.benchmarks import growth

            growth.main(rest)
        case ["events", *rest]:
            from tests.benchmarks import events

            events.main(rest)
        case ["projections", *rest]:
            from tests.benchmarks import projections

            projections.main(rest)
        case ["shapes", *rest]:
            from tests.benchmarks import shapes

            shapes.main(rest)
        case ["bus", *rest]:
            from tests.benchmarks import bus

            bus.main(rest)
        case ["versus", *rest]:
            versus.main(rest)
        case rest:
            versus.main(rest)
