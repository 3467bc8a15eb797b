"""`python -m tests.golden`: write what is not kept yet."""

from __future__ import annotations

from .generations import GENERATIONS
from .writing import KEPT, write

for number, generation in GENERATIONS.items():
    if not (KEPT / str(number)).exists():
        write(generation, KEPT / str(number))
        print(f"generation {number} is written to {KEPT / str(number)}")
