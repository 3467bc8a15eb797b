"""Messages without sagas: two processes send each other as many as they are told to, and take and acknowledge those of
the other, by the native client alone. Of BUS_URL and BUS_PREFIX; `--sagas` says how many each sends.

As fast as a correct client may: a hundred are sent before their confirms are awaited, what came together is
acknowledged together where the protocol can (Kafka's positions, RabbitMQ's tags, SQS's batches), nothing is stored or
looked into, and any number may be under way. Of ours so many as there are orders, each with one message at a time.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from itertools import count
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import anyio
from msgspec import Raw

from orchestrator.cloudevents import text_headers, to_cloud_event
from orchestrator.wire import Envelope, Kind
from tests.benchmarks.peers.elsewhere import elsewhere, like_a_daemon, until_told
from tests.benchmarks.peers.measuring import Load, Options, options

AT_ONCE = 100  # sent before their confirms are awaited; ours sends as many
PREFETCH = 256  # as ours
KEYS = 256
KEY = "Order/1024"
COMMAND = Envelope(  # what ours sends on the average
    id=f"{KEY}~k3f9a1b2/reserve#1",
    kind=Kind.COMMAND,
    type="ReserveStock",
    data=Raw(b'{"order_id":"1024"}'),
    time=1_700_000_000.25,
    saga="Order",
    key="1024",
    attempt=1,
    correlation_id="0123456789abcdef0123456789abcdef",
    causation_id="0123456789abcdef0123456789abcdef",
)
BODY = to_cloud_event(COMMAND, "/orchestrator/orders", deadline=1_700_000_060.25, reply_to="replies.orders")
HEADERS = text_headers(COMMAND)


class Client(Protocol):
    """A native client: `publish` returns when all is confirmed, `take` when some messages came and are acknowledged."""

    async def publish(self, numbers: Sequence[int]) -> None: ...
    async def take(self) -> int: ...


@asynccontextmanager
async def over_nats(url: str, send: str, take: str) -> AsyncGenerator[Client]:
    import nats
    from nats.errors import TimeoutError as NothingCame
    from nats.js.errors import APIError

    async with await nats.connect(url) as client:
        jetstream = client.jetstream(publish_async_max_pending=10 * AT_ONCE)
        for topic in (send, take):
            try:
                await jetstream.add_stream(name=topic.replace(".", "-"), subjects=[topic])
            except APIError:  # the other process was faster
                await jetstream.find_stream_name_by_subject(topic)
        subscription = await jetstream.pull_subscribe(take, durable="bare")
        ids = count()

        class OverNats:
            async def publish(self, numbers: Sequence[int]) -> None:
                futures = [
                    await jetstream.publish_async(send, BODY, headers=HEADERS | {"Nats-Msg-Id": f"{send} {next(ids)}"})
                    for _ in numbers
                ]
                await asyncio.gather(*futures)

            async def take(self) -> int:
                try:
                    messages = await subscription.fetch(PREFETCH, timeout=1)
                except NothingCame:
                    return 0
                for message in messages:
                    await message.ack()
                return len(messages)

        yield OverNats()


@asynccontextmanager
async def over_kafka(url: str, send: str, take: str) -> AsyncGenerator[Client]:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    login = {"bootstrap_servers": urlsplit(url).netloc}
    admin = AIOKafkaAdminClient(**login)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 4, 1) for topic in (send, take)])
    await admin.close()
    headers = [(name, value.encode()) for name, value in HEADERS.items()]
    async with (
        AIOKafkaProducer(acks="all", enable_idempotence=False, max_batch_size=128 * 1024, **login) as producer,
        AIOKafkaConsumer(
            take, group_id=f"bare-{take}", enable_auto_commit=False, auto_offset_reset="earliest", **login
        ) as consumer,
    ):

        class OverKafka:
            async def publish(self, numbers: Sequence[int]) -> None:
                sent = [
                    await producer.send(send, BODY, key=f"{KEY}{n % KEYS}".encode(), headers=headers) for n in numbers
                ]
                await asyncio.gather(*sent)

            async def take(self) -> int:
                found = await consumer.getmany(timeout_ms=1_000, max_records=PREFETCH)
                if found:
                    await consumer.commit()
                return sum(len(part) for part in found.values())

        yield OverKafka()


@asynccontextmanager
async def over_rabbitmq(url: str, send: str, take: str) -> AsyncGenerator[Client]:
    import aiormq
    from pamqp.commands import Basic

    async with await aiormq.connect(url) as publishing, await aiormq.connect(url) as consuming:
        sender, taker = await publishing.channel(), await consuming.channel()
        for topic in (send, take):
            await taker.queue_declare(topic, durable=True, arguments={"x-queue-type": "quorum"})
        came: asyncio.Queue[int] = asyncio.Queue()
        await taker.basic_qos(prefetch_count=PREFETCH)

        async def on_message(message: Any) -> None:
            came.put_nowait(message.delivery_tag)

        await taker.basic_consume(take, on_message)
        properties = Basic.Properties(delivery_mode=2, headers=dict(HEADERS))

        class OverRabbitMQ:
            async def publish(self, numbers: Sequence[int]) -> None:
                async with asyncio.TaskGroup() as tasks:
                    for _ in numbers:
                        sending = sender.basic_publish(
                            BODY, routing_key=send, properties=properties, mandatory=True, wait=False
                        )
                        tasks.create_task(sending)

            async def take(self) -> int:
                tags = [await came.get()]
                while not came.empty():
                    tags.append(came.get_nowait())
                await taker.basic_ack(tags[-1], multiple=True, wait=False)
                return len(tags)

        yield OverRabbitMQ()


@asynccontextmanager
async def over_sqs(url: str, send: str, take: str) -> AsyncGenerator[Client]:
    from aiobotocore.session import AioSession

    parts = urlsplit(url)
    place: dict[str, Any] = {"region_name": parts.netloc, "endpoint_url": parse_qs(parts.query)["endpoint"][0]}
    fifo = {"FifoTopic": "true"}, {"FifoQueue": "true"}
    names = {topic: topic.replace(".", "-") + ".fifo" for topic in (send, take)}
    async with AsyncExitStack() as stack:
        sns = await stack.enter_async_context(AioSession().create_client("sns", **place))
        sqs = await stack.enter_async_context(AioSession().create_client("sqs", **place))
        arn = (await sns.create_topic(Name=names[send], Attributes=fifo[0]))["TopicArn"]
        mine = (await sns.create_topic(Name=names[take], Attributes=fifo[0]))["TopicArn"]
        queue = (await sqs.create_queue(QueueName=names[take], Attributes=fifo[1]))["QueueUrl"]
        endpoint = mine.replace(":sns:", ":sqs:")
        await sns.subscribe(TopicArn=mine, Protocol="sqs", Endpoint=endpoint, Attributes={"RawMessageDelivery": "true"})
        ids = count()

        async def call(numbers: Sequence[int]) -> None:
            entries = [
                {
                    "Id": str(n),
                    "Message": BODY.decode(),
                    "MessageGroupId": f"{KEY}{n % KEYS}".replace("/", "-"),
                    "MessageDeduplicationId": f"{names[send]}{next(ids)}",
                }
                for n in numbers
            ]
            told = await sns.publish_batch(TopicArn=arn, PublishBatchRequestEntries=entries)
            assert len(told["Successful"]) == len(entries)

        class OverSqs:
            async def publish(self, numbers: Sequence[int]) -> None:
                await asyncio.gather(*(call(numbers[at : at + 10]) for at in range(0, len(numbers), 10)))

            async def take(self) -> int:
                told = await sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
                entries = [
                    {"Id": str(n), "ReceiptHandle": each["ReceiptHandle"]}
                    for n, each in enumerate(told.get("Messages", ()))
                ]
                if entries:
                    await sqs.delete_message_batch(QueueUrl=queue, Entries=entries)
                return len(entries)

        yield OverSqs()


CLIENTS: dict[str, Callable[..., Any]] = {
    "nats": over_nats,
    "kafka": over_kafka,
    "amqp": over_rabbitmq,
    "sqs": over_sqs,
}


@asynccontextmanager
async def connected(send: str, take: str) -> AsyncGenerator[Client]:
    url, prefix = os.environ["BUS_URL"], os.environ["BUS_PREFIX"]
    async with CLIENTS[urlsplit(url).scheme](url, prefix + send, prefix + take) as client:
        yield client


async def exchange(client: Client, many: int, taken: Callable[[int], None] = lambda _: None) -> None:
    """Send so many, and take as many."""

    async def send() -> None:
        for at in range(0, many, AT_ONCE):
            await client.publish(range(at, min(many, at + AT_ONCE)))

    async def take() -> None:
        left = many
        while left > 0:
            left -= (came := await client.take())
            taken(came)

    await both(send(), take())


async def both(*work: Awaitable[None]) -> None:
    """At the same time."""
    await asyncio.gather(*work)


async def run(options: Options) -> None:
    more = ("--warm", str(options.warm), "--sagas", str(options.sagas))
    async with elsewhere("bare_bus", options.dir, *more) as other, connected("there", "back") as client:
        other.tell()
        await exchange(client, options.warm)
        await other.wait()
        load = Load(options, (other.pid,))
        began = asyncio.get_running_loop().time()

        def taken(came: int) -> None:
            for _ in range(came):
                load.ended(began)

        other.tell()
        await exchange(client, options.sagas, taken)
        await other.wait()
        figures = load.figures()
        load.report(sagas=2 * figures["sagas"])


async def work(options: Options) -> None:
    async with connected("back", "there") as client:
        await until_told()  # SNS forgets what is sent before somebody subscribes
        await exchange(client, options.warm)
        await until_told()
        await exchange(client, options.sagas)
        await until_told()


if __name__ == "__main__":
    main = work if "--work" in sys.argv else run
    like_a_daemon()
    given = options([word for word in sys.argv[1:] if word != "--work"])
    anyio.run(main, given, backend_options={"use_uvloop": find_spec("uvloop") is not None})
