"""A repository has aggregates of one class."""

from __future__ import annotations

from orchestrator import EventLog, Repository
from tests.types.good_aggregates import Account, MoneyDeposited, SavingsAccount


async def wrong(log: EventLog) -> None:
    accounts = Repository(SavingsAccount, log)
    await accounts.save(Account.new("1"))  # error
    await accounts.update("1", lambda it: it.withdraw(1))  # error
    it = await accounts.load("1")
    it.balance = "much"  # error
    it.version = 7  # error
    await log.append("a", "an event")  # error
    print((await log.append("a", MoneyDeposited(it.balance))).versions)  # error
