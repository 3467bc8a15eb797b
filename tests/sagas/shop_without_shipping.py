"""The order example without its shipping: a service elsewhere ships."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from types import SimpleNamespace
from typing import Any

from orchestrator import App, open_store
from order_fulfilment import (
    PAYMENTS,
    Inventory,
    OrderFulfilment,
    Service,
    charge_card,
    folder,
    products,
    refund_card,
    release_stock,
    reserve_stock,
    shelves,
)


@asynccontextmanager
async def open_shop() -> AsyncGenerator[Any]:
    folder().mkdir(parents=True, exist_ok=True)
    payments = Service(folder(), "payments", PAYMENTS)
    async with open_store(shelves(folder())) as log:
        with closing(payments.db):
            inventory = Inventory(log)
            await inventory.stock(products())
            yield SimpleNamespace(inventory=inventory, payments=payments)


app = App(
    "shop",
    sagas=[OrderFulfilment],
    participants=[reserve_stock, release_stock, charge_card, refund_card],
    resources=open_shop,
)
