"""The real runtime under virtual time, where every call of a port may go wrong, again and again in the same way.

`play` runs a `Scenario` under a plan of faults; an `Explorer` makes plans.
"""

from .explore import Broken, Explorer, Tried
from .faults import Fault, Plan, Port
from .ports import Broker, Disk, MemoryDisk
from .run import Ask, Line, Outside, Played, Restart, Scenario, Tell, play

__all__ = [
    "Ask",
    "Broken",
    "Broker",
    "Disk",
    "Explorer",
    "Fault",
    "Line",
    "MemoryDisk",
    "Outside",
    "Plan",
    "Played",
    "Port",
    "Restart",
    "Scenario",
    "Tell",
    "Tried",
    "play",
]
