// The shipping of sagas/order_fulfilment.py in JavaScript: NATS and one file, nothing of ours.
//
//     npm install && node shipping.mjs nats://127.0.0.1:4222 shipping.jsonl
//
// It carries out ShipOrder, refuses one without items, and takes back with RecallOrder what was shipped. Its ledger is a
// file to which it only appends: one line holds the effect and the answer, or the tombstone of an undo, so that they are
// on disk together or not at all. The same key gets the same answer, and what was undone, even before it came, is never
// done.

import { createHash } from "node:crypto";
import { existsSync, fsyncSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";

import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, nanos } from "@nats-io/transport-node";

const TYPES = ["ShipOrder", "RecallOrder"];
const ACK_WAIT_MS = 5_000; // after which a command that we died with comes again

class Ledger {
  answers = new Map(); // key -> { digest, type, data }
  undone = new Set(); // keys

  constructor(path) {
    const whole = this.#read(existsSync(path) ? readFileSync(path) : Buffer.alloc(0));
    this.file = openSync(path, "a");
    ftruncateSync(this.file, whole); // of a line that we died with, a part may be there
  }

  #read(bytes) {
    const whole = bytes.lastIndexOf("\n") + 1;
    for (const line of bytes.subarray(0, whole).toString().split("\n").slice(0, -1)) this.#remember(JSON.parse(line));
    return whole;
  }

  #remember({ key, undone, digest, type, data }) {
    if (undone) this.undone.add(undone);
    else this.answers.set(key, { digest, type, data });
  }

  keep(entry) {
    const line = Buffer.from(JSON.stringify(entry) + "\n");
    for (let written = 0; written < line.length; ) written += writeSync(this.file, line, written);
    fsyncSync(this.file);
    this.#remember(entry);
  }
}

// What a shop does: this much is ours to fill in.
function ship(order) {
  if (order.items.length === 0) return { type: "NothingToShip", data: { order_id: order.order_id } };
  const shipped = order.items.map((line) => [line.product_id, line.quantity]);
  const tracking = `${order.country.slice(0, 2).toUpperCase()}-${order.order_id}`;
  return { type: "OrderShipped", data: { tracking }, order_id: order.order_id, shipped };
}

function done(ledger, command) {
  const key = command.id;
  const digest = createHash("sha256").update(JSON.stringify(command.data)).digest("hex");
  if (ledger.undone.has(key)) return fatal("it was undone already");
  const before = ledger.answers.get(key);
  if (before && before.digest !== digest) return fatal("this key came with another payload before");
  if (!before) ledger.keep({ key, digest, ...ship(command.data) });
  return ledger.answers.get(key);
}

// It needs no answer of the do, and succeeds where there is nothing to undo.
function undone(ledger, command) {
  if (!ledger.undone.has(command.undoes)) ledger.keep({ undone: command.undoes });
  return { type: "Done", data: {} };
}

const fatal = (error) => ({ type: "Failure", data: { reason: "fatal", error } });

// Carry it out, and say what came of it: a CloudEvent whose `inreplyto` is the command's id, its key.
function replyTo(ledger, command) {
  const { type, data } = command.undoes ? undone(ledger, command) : done(ledger, command);
  const attempt = command.attempt ?? 1;
  return {
    specversion: "1.0",
    id: `${command.id}:${type}:${attempt}`,
    source: "/shipping",
    type,
    inreplyto: command.id,
    attempt,
    correlationid: command.correlationid || command.id,
    datacontenttype: "application/json",
    data,
  };
}

async function serve(client, type, ledger, prefix) {
  const subject = `${prefix}commands.${type}`;
  const manager = await jetstreamManager(client);
  const stream = await streamOf(manager, subject);
  const durable_name = `shipping-${type}`;
  await manager.consumers.add(stream, {
    durable_name,
    filter_subject: subject,
    ack_policy: AckPolicy.Explicit,
    ack_wait: nanos(ACK_WAIT_MS),
  });
  const consumer = await jetstream(client).consumers.get(stream, durable_name);
  for await (const message of await consumer.consume({ max_messages: 50 })) {
    try {
      await answer(client, message, ledger);
    } catch (error) {
      console.error(`comes again: ${error}`); // the server is away: what is not acknowledged comes again
    }
  }
}

async function streamOf(manager, subject) {
  try {
    return await manager.streams.find(subject);
  } catch {
    // Nobody has sent or taken any yet, or somebody is faster than we are.
    await manager.streams.add({ name: subject.replaceAll(".", "-"), subjects: [subject] }).catch(() => {});
    return await manager.streams.find(subject);
  }
}

async function answer(client, message, ledger) {
  let command, reply;
  try {
    command = message.json();
    reply = replyTo(ledger, command);
  } catch (error) {
    console.error(`not a command: ${error}`);
    message.term(); // it would never be one
    return;
  }
  await jetstream(client).publish(command.replyto, JSON.stringify(reply), { msgID: reply.id });
  message.ack(); // not before the server has our answer
}

const [url, path, prefix = ""] = process.argv.slice(2);
const ledger = new Ledger(path);
const client = await connect({ servers: url, maxReconnectAttempts: -1 });
await Promise.all(TYPES.map((type) => serve(client, type, ledger, prefix)));
