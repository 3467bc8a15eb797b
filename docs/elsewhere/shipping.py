"""The shipping of sagas/order_fulfilment.py as a service of its own: plain Python, NATS and SQLite, nothing of ours.

    python docs/elsewhere/shipping.py nats://127.0.0.1:4222 shop_data/shipping.db

It carries out ShipOrder, refuses one without items, and takes back with RecallOrder what was shipped. What it keeps of
each key it keeps in the transaction of the effect: the same key gets the same answer, and what was undone, even before
it came, is never done.
"""

import asyncio
import hashlib
import json
import logging
import sqlite3
import sys
from contextlib import closing, suppress
from typing import Any

import nats
import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig
from nats.js.errors import APIError, NotFoundError

TABLES = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS shipped (key TEXT, order_id TEXT, product_id INTEGER, units INTEGER);
    CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, digest TEXT, type TEXT, data TEXT);
    CREATE TABLE IF NOT EXISTS undone (key TEXT PRIMARY KEY);"""
TYPES = ("ShipOrder", "RecallOrder")
AT_ONCE = 50
ACK_WAIT_S = 5  # after which a command that we died with comes again


def open_ledger(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=30)
    db.executescript(TABLES)
    return db


def reply_to(db: sqlite3.Connection, command: dict[str, Any]) -> dict[str, Any]:
    """Carry it out, and say what came of it: a CloudEvent whose `inreplyto` is the command's id, its key."""
    db.execute("BEGIN IMMEDIATE")
    with db:  # the effect, the answer and the tombstone of an undo are one transaction
        answer, data = _undone(db, command) if command.get("undoes") else _done(db, command)
    attempt = command.get("attempt", 1)
    return {
        "specversion": "1.0",
        "id": f"{command['id']}:{answer}:{attempt}",
        "source": "/shipping",
        "type": answer,
        "inreplyto": command["id"],
        "attempt": attempt,
        "correlationid": command.get("correlationid") or command["id"],
        "datacontenttype": "application/json",
        "data": data,
    }


def _done(db: sqlite3.Connection, command: dict[str, Any]) -> tuple[str, Any]:
    key, order = command["id"], command["data"]
    digest = hashlib.sha256(json.dumps(order, sort_keys=True).encode()).hexdigest()
    if db.execute("SELECT 1 FROM undone WHERE key = ?", [key]).fetchone():
        return "Failure", {"reason": "fatal", "error": "it was undone already"}
    before = db.execute("SELECT digest, type, data FROM answers WHERE key = ?", [key]).fetchone()
    if before and before[0] != digest:
        return "Failure", {"reason": "fatal", "error": "this key came with another payload before"}
    if before:
        return before[1], json.loads(before[2])
    answer, data = _ship(db, key, order)
    db.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", [key, digest, answer, json.dumps(data)])
    return answer, data


def _ship(db: sqlite3.Connection, key: str, order: dict[str, Any]) -> tuple[str, Any]:
    """What a shop does: this much is ours to fill in."""
    if not order["items"]:
        return "NothingToShip", {"order_id": order["order_id"]}
    lines = [(key, order["order_id"], line["product_id"], line["quantity"]) for line in order["items"]]
    db.executemany("INSERT INTO shipped VALUES (?, ?, ?, ?)", lines)
    return "OrderShipped", {"tracking": f"{order['country'][:2].upper()}-{order['order_id']}"}


def _undone(db: sqlite3.Connection, command: dict[str, Any]) -> tuple[str, Any]:
    """It needs no answer of the do, and succeeds where there is nothing to undo."""
    db.execute("INSERT OR IGNORE INTO undone VALUES (?)", [command["undoes"]])
    db.execute("DELETE FROM shipped WHERE key = ?", [command["undoes"]])
    return "Done", {}


async def serve(jetstream: JetStreamContext, wire_type: str, db: sqlite3.Connection, prefix: str) -> None:
    subject = f"{prefix}commands.{wire_type}"
    await make_stream(jetstream, subject)
    subscription = await jetstream.pull_subscribe(
        subject, durable=f"shipping-{wire_type}", config=ConsumerConfig(ack_wait=ACK_WAIT_S)
    )
    while True:
        with suppress(
            nats.errors.Error, OSError
        ):  # none came, or the server is away: what is not acknowledged comes again
            for message in await subscription.fetch(AT_ONCE, timeout=ACK_WAIT_S):
                await answer(jetstream, message, db)


async def make_stream(jetstream: JetStreamContext, subject: str) -> None:
    """Unless the subject has one."""
    try:
        await jetstream.find_stream_name_by_subject(subject)
    except NotFoundError:
        with suppress(APIError):  # somebody was faster
            await jetstream.add_stream(name=subject.replace(".", "-"), subjects=[subject])


async def answer(jetstream: JetStreamContext, message: Msg, db: sqlite3.Connection) -> None:
    try:
        command = json.loads(message.data)
        reply = reply_to(db, command)
    except (ValueError, KeyError, TypeError) as error:
        logging.warning("not a command: %r", error)
        await message.term()  # it would never be one
        return
    body = json.dumps(reply).encode()
    await jetstream.publish(command["replyto"], body, headers={"Nats-Msg-Id": reply["id"]})
    await message.ack()  # not before the server has our answer


async def main(url: str, ledger: str, prefix: str = "") -> None:
    with closing(open_ledger(ledger)) as db:
        client = await nats.connect(url, max_reconnect_attempts=-1)
        async with client, asyncio.TaskGroup() as tasks:
            for wire_type in TYPES:
                tasks.create_task(serve(client.jetstream(), wire_type, db, prefix))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
