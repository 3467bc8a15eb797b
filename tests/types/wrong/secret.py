"""A secret is not the value itself."""

from __future__ import annotations

from orchestrator import Secret
from tests.types.good import ChargeCard


def cards(card: Secret[str]) -> str:
    ChargeCard("1", card.reveal(), card)  # error
    return card  # error
