"""Every way to write a projection, in a module that both type checkers and the import accept."""

from __future__ import annotations

from orchestrator import App, Event, Orchestrator, Projection, Recorded, open_projection, project


class Opened(Event):
    account: str


class Paid(Event):
    account: str
    cents: int


class Refunded(Event):
    account: str
    cents: int


class Balances(Projection, version=2):
    tables = """
        CREATE TABLE balance (account TEXT PRIMARY KEY, cents INTEGER NOT NULL, moved REAL NOT NULL) STRICT;
        CREATE INDEX balance_cents ON balance (cents);
    """

    @project
    def opened(self, event: Opened, at: Recorded) -> None:
        self.db.execute("INSERT INTO balance VALUES (?, 0, ?)", (event.account, at.metadata.time.timestamp()))

    @project
    def moved(self, event: Paid | Refunded) -> None:
        sign = 1 if isinstance(event, Paid) else -1
        self._add(event.account, sign * event.cents)

    def _add(self, account: str, cents: int) -> None:
        self.db.execute("UPDATE balance SET cents = cents + ? WHERE account = ?", (cents, account))


class Counting(Projection):
    """A base of others."""

    @project
    def opened(self, event: Opened) -> None:
        self.db.execute("UPDATE counted SET n = n + 1")


class Counted(Counting):
    tables = "CREATE TABLE counted (n INTEGER NOT NULL) STRICT; INSERT INTO counted VALUES (0)"


app = App("bank", projections=[Balances, Counted])


async def use() -> int:
    async with Orchestrator(app, "memory://") as orchestrator:
        appended = await orchestrator.events.append("account-1", [Opened("1"), Paid("1", 5)])
        balances = orchestrator.projection(Balances)
        await balances.reached(appended)
        await balances.rebuild()
        with balances.open() as db:
            cents: int = db.execute("SELECT cents FROM balance").fetchone()[0]
        Balances(db).moved(Paid("1", cents))
        return cents


def read() -> None:
    open_projection("sqlite:///bank.db", Balances).close()
