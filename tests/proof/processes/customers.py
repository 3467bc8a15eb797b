"""Who wants something of the daemons: letters drawn from a seed, for the works and for the example shop."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import msgspec
from msgspec import Raw

from orchestrator.operate.protocol import Emit

from .mail import Letter, cancel, event
from .works import (
    FORWARD_MOODS,
    MOODS,
    Cancelled,
    Decided,
    FamilyWanted,
    LinearWanted,
    ManyWanted,
    ParallelWanted,
    WaitingWanted,
)

WANTED = (LinearWanted, ParallelWanted, ManyWanted, FamilyWanted, WaitingWanted)
PRODUCTS = 6
SCARCE = 25  # units of the last product, so that some orders find it sold out


def moods(rng: random.Random, count: int) -> tuple[str, ...]:
    """Mostly all goes well, in the end."""
    often = rng.choice((("well",), ("well", "slow"), FORWARD_MOODS, MOODS))
    return tuple(rng.choice(often) for _ in range(count))


def works_letters(rng: random.Random) -> Iterator[list[Letter]]:
    """One saga after another, of every shape in turn, with all else that is said to it: before, after, or both."""
    number = 0
    while True:
        number += 1
        wanted = WANTED[number % len(WANTED)]
        key = str(number)
        count = rng.randint(4, 7) if wanted is ManyWanted else 4
        start = event(f"want-{key}", wanted(key, moods(rng, count)))
        letters = [start]
        if wanted is WaitingWanted:
            letters.append(event(f"decide-{key}", Decided(key, rng.random() < 0.8)))
        if wanted is LinearWanted and rng.random() < 0.3:
            letters.append(event(f"cancelled-{key}", Cancelled(key)))
        rng.shuffle(letters)
        if rng.random() < 0.1:
            letters.append(cancel(f"cancel-{key}", wanted.__name__.removesuffix("Wanted"), key))
        if rng.random() < 0.2:
            letters.append(start)  # once more
        yield letters


def shop_letters(rng: random.Random) -> Iterator[list[Letter]]:
    """Orders for the example shop."""
    number = 0
    while True:
        number += 1
        products = rng.sample(range(1, PRODUCTS + 1), rng.randint(1, 4))
        items = [{"product_id": n, "quantity": rng.randint(1, 3), "unit_price": 2.5} for n in products]
        order = {
            "order_id": f"K-{number}",
            "customer_id": "KIOSK",
            "ordered_at": "2025-03-01",
            "required_at": "2025-04-01",
            "ship_name": "A kiosk",
            "ship_country": "Norway",
            "freight": str(Decimal(number) / 4),
            "items": items,
        }
        line = {"type": "OrderPlaced", "id": f"order-{number}", "data": Raw(msgspec.json.encode(order))}
        yield [Letter(f"order-{number}", Emit(msgspec.json.encode(line)))]


def write_products(path: Path) -> None:
    """The shelves of the example shop."""
    units = [10_000] * (PRODUCTS - 1) + [SCARCE]
    products = [
        {"product_id": n, "name": f"product {n}", "units_in_stock": there} for n, there in enumerate(units, start=1)
    ]
    path.write_text("".join(json.dumps(product) + "\n" for product in products))
