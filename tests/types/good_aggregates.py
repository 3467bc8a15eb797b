"""Every way to write aggregates and to use streams of events, in a module that both checkers and the import accept."""

from __future__ import annotations

from decimal import Decimal

from orchestrator import (
    Aggregate,
    Call,
    Cause,
    Command,
    Delivery,
    Event,
    EventLog,
    Orchestrator,
    Recorded,
    Repository,
    apply,
    listener,
    open_store,
    participant,
    upcast,
)
from tests.types.good import app


class AccountOpened(Event):
    owner: str


class MoneyDeposited(Event):
    amount: Decimal


class MoneyWithdrawn(Event, version=2):
    amount: Decimal
    fee: Decimal = Decimal(0)


@upcast(MoneyWithdrawn, from_version=1)
def without_fee(data: dict[str, object]) -> dict[str, object]:
    return data | {"fee": "0"}


class Deposit(Command):
    account: str
    amount: Decimal


class Account(Aggregate, name="account", version=3):
    owner: str = ""
    balance: Decimal = Decimal(0)
    amounts: list[Decimal] = []

    def open(self, owner: str) -> None:
        self.record(AccountOpened(owner))

    def deposit(self, amount: Decimal) -> Decimal:
        self.record(MoneyDeposited(amount))
        return self.balance

    @apply
    def opened(self, event: AccountOpened) -> None:
        self.owner = event.owner

    @apply
    def moved(self, event: MoneyDeposited | MoneyWithdrawn) -> None:
        self.balance += event.amount
        self.amounts.append(event.amount)


class SavingsAccount(Account):
    interest: Decimal = Decimal("0.01")


def without_a_store() -> Decimal:
    account = SavingsAccount.folded("42", [AccountOpened("ann"), MoneyDeposited(Decimal(10))])
    account.deposit(account.balance * account.interest)
    recorded: tuple[Event, ...] = account.recorded
    return account.balance + len(recorded) + account.version


async def aggregates(log: EventLog) -> Decimal:
    accounts = Repository(Account, log, publish=True, snapshot_every=100)
    account = Account.new("42")
    account.open("ann")
    await accounts.save(account, key="k")
    loaded: Account = await accounts.load("42")
    before: Account = await accounts.load("42", at_version=1)
    balance: Decimal = await accounts.update("42", lambda it: it.deposit(Decimal(1)), attempts=3, new=True)
    return balance + loaded.balance + before.balance


async def streams() -> list[Event]:
    async with open_store("sqlite:///events.db") as store:
        told = await store.append("a", [AccountOpened("ann")], expected_version=0, cause=Cause(user="ann"))
        await store.append("a", MoneyDeposited(Decimal(1)), expected_version=told.version, publish=True)
        await Repository(Account, store).load("42")
        found: list[Recorded] = [recorded async for recorded in store.read("a", from_version=2)]
        print(found[0].version, found[0].position, found[0].metadata.time, found[0].metadata.user, found[0].data)
        return [recorded.event async for recorded in store.read_all(told.position, types=[AccountOpened, "x"])]


async def embedded() -> None:
    async with Orchestrator(app) as orchestrator:
        await orchestrator.events.append("a", AccountOpened("ann"))


@participant
async def deposit(command: Deposit, call: Call) -> None:
    accounts = Repository(Account, call.events)
    await accounts.update(command.account, lambda account: account.deposit(command.amount), key=call.key)


@listener
async def note(event: AccountOpened, delivery: Delivery) -> None:
    await delivery.events.append("opened", event, key=delivery.id)
