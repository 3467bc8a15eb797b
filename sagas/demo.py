"""Watch orders being fulfilled and undone by a daemon that is killed in the middle and started again.

    python sagas/demo.py

It takes about 20 seconds, and runs sagas/order_fulfilment.py on 830 real orders if their folder is there (beside this
repository, or named by ORCHESTRATOR_DATA), else on the twelve of the sample. It only calls `orchestrator`, as you could
by hand. What it writes is in a new folder, which is left for you to look at.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
APP = HERE / "order_fulfilment.py"
ORCHESTRATOR = (sys.executable, "-c", "from orchestrator.operate.cli import main; main(prog_name='orchestrator')")
ENDS = {"completed": "fulfilled", "compensated": "undone"}
PATIENCE_S = 120.0

MOODS = {  # everybody takes a second, a tenth of the cards is declined, every parcel needs two attempts
    "SHOP_INVENTORY": "late=1",
    "SHOP_PAYMENTS": "late=1 decline=10",
    "SHOP_SHIPPING": "late=1 fail=1",
}


def main() -> None:
    orders, products = inputs()
    demo = Demo(Path(tempfile.mkdtemp(prefix="saga-demo-")), orders, products)
    try:
        demo.play()
    finally:
        demo.kill()


def inputs() -> tuple[Path, Path]:
    """The orders and the stock: the real ones, or the sample."""
    real = Path(os.environ.get("ORCHESTRATOR_DATA") or HERE.parents[1] / "shared" / "data")
    if (real / "northwind_orders.jsonl").is_file():
        return real / "northwind_orders.jsonl", real / "northwind_products.jsonl"
    return HERE / "sample_orders.jsonl", HERE / "sample_products.jsonl"


class Demo:
    """A daemon, and somebody who watches it."""

    def __init__(self, folder: Path, orders: Path, products: Path) -> None:
        self.folder = folder
        self.orders = orders
        self.names = {
            order["order_id"]: order["ship_name"] for order in map(json.loads, orders.read_bytes().splitlines())
        }
        self.store = f"sqlite:///{folder / 'shop.db'}"
        shop = {"SHOP_DATA": str(folder / "ledgers"), "SHOP_PRODUCTS": str(products)}
        settings = {"ORCHESTRATOR_APP": str(APP), "ORCHESTRATOR_STORE": self.store}
        self.environment = {**os.environ, **MOODS, **shop, **settings}
        self.daemon: subprocess.Popen[bytes] | None = None
        self.ended: set[str] = set()
        self.began = time.monotonic()

    def play(self) -> None:
        """The whole of it."""
        print(f"{len(self.names)} orders from {self.orders}; all that is written goes to {self.folder}")
        self.start()
        self.show(*ORCHESTRATOR, "emit", "OrderPlaced", "--file", str(self.orders))
        self.watch(share=0.3)
        print(f"\n$ kill -9 {self.kill()}\n", flush=True)
        self.watch(seconds=1.5)
        self.start()
        self.watch(share=1.0)
        print("\nSent a second time, the same orders change nothing:")
        self.show(*ORCHESTRATOR, "emit", "OrderPlaced", "--file", str(self.orders))
        for status in ENDS:  # the one with the longest story
            instances = self.ask("list", "OrderFulfilment", "--status", status, "-n", "100000")["items"]
            order_id = max(instances, key=lambda it: it["version"])["key"]
            self.show(*ORCHESTRATOR, "history", f"OrderFulfilment/{order_id}")
        self.show(sys.executable, str(APP), "books")
        print(f"\nLook further with  orchestrator status --store {self.store}")

    def start(self) -> None:
        """Start the daemon, and wait until it answers."""
        with (self.folder / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen([*ORCHESTRATOR, "run"], stderr=log, env=self.environment)
        print(f"\n$ orchestrator run {APP}\n  pid {self.daemon.pid}, it logs to {self.folder}/daemon.log", flush=True)
        deadline = time.monotonic() + PATIENCE_S
        while not self.ask("status").get("item", {}).get("daemon"):
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"it does not answer:\n{(self.folder / 'daemon.log').read_text()}")
            time.sleep(0.1)

    def kill(self) -> int:
        """kill -9. Returns the process's id, 0 if there was none."""
        if self.daemon is None:
            return 0
        pid = self.daemon.pid
        self.daemon.kill()
        self.daemon.wait()
        self.daemon = None
        return pid

    def watch(self, share: float = 2.0, seconds: float = PATIENCE_S) -> None:
        """Tell how it goes until that share of the orders has ended, or the time is over."""
        deadline = time.monotonic() + seconds
        while len(self.ended) < share * len(self.names) and time.monotonic() < deadline:
            time.sleep(0.3)
            self.tell(self.ask("list", "OrderFulfilment", "-n", "100000").get("items", []))

    def tell(self, instances: list[dict[str, str]]) -> None:
        """A line with the counts, and some of the orders that have ended since the last."""
        counts = Counter(it["status"] for it in instances)
        daemon = f"pid {self.daemon.pid}" if self.daemon else "dead"
        print(
            f"\n{time.monotonic() - self.began:5.1f} s  daemon {daemon:<10}",
            f"{counts['running']:>4} under way {counts['compensating']:>4} being undone",
            f"{counts['completed']:>4} fulfilled {counts['compensated']:>4} undone",
            flush=True,
        )
        news = [it for it in instances if it["status"] in ENDS and it["key"] not in self.ended]
        for it in news[:3]:
            print(f"         {it['key']} {self.names[it['key']]}: {ENDS[it['status']]}. {it['why'] or ''}")
        self.ended |= {it["key"] for it in news}

    def ask(self, *words: str) -> dict[str, Any]:
        """What a reading verb answers as JSON; nothing, if there is no store yet."""
        done = subprocess.run([*ORCHESTRATOR, *words, "--json"], env=self.environment, capture_output=True)
        answer: dict[str, Any] = json.loads(done.stdout or "{}")
        return answer

    def show(self, *command: str) -> None:
        """Run a command as a person would, and show it."""
        words = (
            ("orchestrator", *command[len(ORCHESTRATOR) :]) if command[:3] == ORCHESTRATOR else ("python", *command[1:])
        )
        print(f"\n$ {' '.join(words)}", flush=True)
        subprocess.run(command, env=self.environment, check=True)


if __name__ == "__main__":
    main()
