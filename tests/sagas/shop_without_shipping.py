"""The order example without its shipping: a service elsewhere ships."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from orchestrator import App
from order_fulfilment import (
    INVENTORY,
    PAYMENTS,
    OrderFulfilment,
    Service,
    Shop,
    charge_card,
    folder,
    refund_card,
    release_stock,
    reserve_stock,
)


@asynccontextmanager
async def open_shop() -> AsyncGenerator[Any]:
    place = folder()
    place.mkdir(parents=True, exist_ok=True)
    inventory, payments = Service(place, "inventory", INVENTORY), Service(place, "payments", PAYMENTS)
    with closing(inventory.db), closing(payments.db):
        shop: Any = SimpleNamespace(inventory=inventory, payments=payments)
        Shop.stock(shop, Path(os.environ["SHOP_PRODUCTS"]))
        yield shop


app = App(
    "shop",
    sagas=[OrderFulfilment],
    participants=[reserve_stock, release_stock, charge_card, refund_card],
    resources=open_shop,
)
