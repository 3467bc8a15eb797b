"""What the participants expect as resources is what the app opens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from orchestrator import App
from tests.types.good import reserve_stock


@asynccontextmanager
async def open_text() -> AsyncGenerator[str]:
    yield "shop.db"


app = App("shop", participants=[reserve_stock], resources=open_text)  # error
