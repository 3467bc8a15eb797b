"""The same service with FastStream (`pip install 'faststream[nats]'`), on the ledger and with the rules of shipping.py.

python docs/elsewhere/shipping_faststream.py nats://127.0.0.1:4222 shop_data/shipping.db
"""

import asyncio
import json
import sys
from contextlib import closing

import nats
from faststream import AckPolicy, FastStream
from faststream.nats import JStream, NatsBroker, PullSub
from faststream.nats.annotations import NatsMessage
from nats.js.api import ConsumerConfig
from shipping import ACK_WAIT_S, AT_ONCE, TYPES, make_stream, open_ledger, reply_to


async def main(url: str, path: str, prefix: str = "") -> None:
    broker = NatsBroker(url, max_reconnect_attempts=-1)
    with closing(open_ledger(path)) as ledger:
        async with await nats.connect(url, max_reconnect_attempts=-1) as client:
            jetstream = client.jetstream()

            async def carry_out(message: NatsMessage) -> None:
                command = json.loads(message.body)
                reply = reply_to(ledger, command)
                # Not what the broker publishes of itself: that is confirmed only for a stream whose name is known.
                await jetstream.publish(command["replyto"], json.dumps(reply).encode())

            for wire_type in TYPES:
                subject = f"{prefix}commands.{wire_type}"
                await make_stream(jetstream, subject)
                subscriber = broker.subscriber(
                    subject,
                    stream=JStream(await jetstream.find_stream_name_by_subject(subject), declare=False),
                    durable=f"shipping-{wire_type}",
                    config=ConsumerConfig(ack_wait=ACK_WAIT_S),
                    pull_sub=PullSub(batch_size=AT_ONCE),
                    ack_policy=AckPolicy.NACK_ON_ERROR,  # acknowledged when `carry_out` returns
                )
                subscriber(carry_out)
            await FastStream(broker).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
