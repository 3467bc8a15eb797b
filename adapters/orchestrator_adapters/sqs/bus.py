"""The bus itself: what it makes at AWS, and how it sends."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from orchestrator.errors import BusUnavailable
from orchestrator.ports import BusMessage, NotTaken, Place, Topic, Topology

from .connection import Connection, Denied, Missing, Refused, together
from .messages import QUEUE_NAME, TOPIC_NAME, Entry, calls, entry, fifo_name, lanes
from .settings import Settings, settings_of
from .subscription import SqsSubscription

SUBSCRIBED_S = 30.0
HEALTHY_S = 2.0
LONGEST_RETENTION_S = 14 * 86_400
HOUR_S = 3_600

Told = list[NotTaken | None]


class SqsBus:
    """A FIFO topic of SNS for each topic, a FIFO queue of SQS for each group, subscribed to the topics that it takes.

    One topic for all with a filter for each group would be fewer, but a changed filter counts only minutes later.

    The message group is the key, so a queue holds back what follows in a key while something of it is unsettled; a
    message without a key is a group of its own. The same id to the same topic within five minutes is one message.

    SNS takes and forgets what nobody is subscribed to, so for a message that is `expected` its subscriptions are looked
    up. That somebody is there is remembered for SUBSCRIBED_S: so long after the last subscription was removed by hand,
    such a message may be lost. That nobody is there is never remembered.
    """

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The bus that `sqs://eu-central-1/` names: a region, and options as in `Settings`. Errors: ConfigError."""
        return cls(settings_of(url))

    def __init__(self, settings: Settings) -> None:
        """Not open yet."""
        self._settings = settings
        self._connection = Connection(settings)
        self._subscribed: dict[str, float] = {}  # until when an SNS topic is known to have a subscriber
        self._tasks: TaskGroup | None = None
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Errors: none; AWS is reached when it is needed."""
        async with AsyncExitStack() as opening:
            opening.push_async_callback(self._connection.close)
            self._tasks = await opening.enter_async_context(anyio.create_task_group())
            opening.callback(self._tasks.cancel_scope.cancel)
            await self._connection.open()
            self._closing = opening.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._closing.aclose()

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        """Ten to a call, many calls at once, those of one key one after the other."""
        told: Told = [None] * len(messages)
        by_name: dict[str, list[Entry]] = {}
        for index, message in enumerate(messages):
            made = entry(index, message, self._settings.max_bytes)
            if isinstance(made, NotTaken):
                told[index] = made
            else:
                by_name.setdefault(made.name, []).append(made)
        await together([partial(self._publish, entries, told) for entries in by_name.values()])
        return told

    @asynccontextmanager
    async def subscribe(self, topics: Sequence[Topic], group: str, prefetch: int) -> AsyncGenerator[SqsSubscription]:
        """The group's queue. What was put into the queue itself, not sent to a topic, has the topic `""`, unless only
        one is taken.
        """
        url = await self._join(group, topics)
        names = {fifo_name(topic.name, TOPIC_NAME): topic.name for topic in topics}
        subscription = SqsSubscription(self._connection, url, names, prefetch)
        assert self._tasks is not None  # else there would be no URL
        subscription.begin(self._tasks)
        try:
            yield subscription
        finally:
            await subscription.leave()

    async def healthy(self) -> bool:
        """Whether SQS answers, within HEALTHY_S."""
        with anyio.move_on_after(HEALTHY_S):
            try:
                await self._connection.call("sqs", "list_queues", MaxResults=1)
            except Denied:
                return True  # it is an answer
            except BusUnavailable:
                return False
            return True
        return False

    async def survey(self, topology: Topology) -> list[Place]:
        """The group's queue, the topics, and the subscriptions that lead from one to the other."""
        queue = fifo_name(topology.group, QUEUE_NAME)
        arn = await self._connection.arn("sqs", queue)
        places = [await self._queue_place(queue)] if topology.takes else []
        for topic in topology.takes:
            places += await self._taken_places(topic.name, queue, arn)
        for sent in topology.sends:
            places.append(await self._sent_place(sent))
        return places

    async def set_up(self, topology: Topology) -> None:
        """Make the topics, the group's queue and its subscriptions."""
        if topology.takes:
            await self._join(topology.group, topology.takes)
        await together([partial(self._make_topic, fifo_name(sent, TOPIC_NAME)) for sent in topology.sends])

    async def _publish(self, entries: Sequence[Entry], told: Told) -> None:
        """Send those of one topic."""
        name = entries[0].name
        if any(each.expected for each in entries) and not await self._is_subscribed(name):
            entries = _without_expected(entries, told)
        await together([partial(self._send_lane, lane, told) for lane in lanes(entries)])

    async def _send_lane(self, lane: Sequence[Entry], told: Told) -> None:
        for call in calls(lane, self._settings.max_bytes):
            await self._send(call, told)

    async def _send(self, entries: Sequence[Entry], told: Told) -> None:
        """One call. A topic that is not there has no subscriber either."""
        name = entries[0].name
        try:
            await self._send_once(entries, told)
        except Missing:
            self._subscribed.pop(name, None)
            if entries := _without_expected(entries, told):
                await self._make_topic(name)
                await self._send_once(entries, told)
        except Refused as error:
            if len(entries) == 1:
                told[entries[0].index] = NotTaken(str(error))
            else:  # that one is wrong must not hold up the others
                for each in entries:
                    await self._send([each], told)

    async def _send_once(self, entries: Sequence[Entry], told: Told) -> None:
        arn = await self._connection.arn("sns", entries[0].name)
        requests = [each.request for each in entries]
        answer = await self._connection.call("sns", "publish_batch", TopicArn=arn, PublishBatchRequestEntries=requests)
        taken = {each["Id"] for each in answer.get("Successful", ())}
        failed = {each["Id"]: each for each in answer.get("Failed", ())}
        for each in entries:
            told[each.index] = None if each.request["Id"] in taken else _refusal(each, failed.get(each.request["Id"]))

    async def _is_subscribed(self, name: str) -> bool:
        if self._subscribed.get(name, 0.0) > anyio.current_time():
            return True
        if not await self._subscriptions(name):
            return False
        self._subscribed[name] = anyio.current_time() + SUBSCRIBED_S
        return True

    async def _subscriptions(self, name: str) -> dict[str, str] | None:
        """The subscriptions of a topic by what they lead to; None where there is no such topic."""
        arguments: dict[str, Any] = {"TopicArn": await self._connection.arn("sns", name)}
        found: dict[str, str] = {}
        while True:  # a FIFO topic has a hundred at most, which is one page
            try:
                page = await self._connection.call("sns", "list_subscriptions_by_topic", **arguments)
            except Missing:
                return None
            found |= {each["Endpoint"]: each["SubscriptionArn"] for each in page["Subscriptions"]}
            if not page.get("NextToken"):
                return found
            arguments["NextToken"] = page["NextToken"]

    async def _join(self, group: str, topics: Sequence[Topic]) -> str:
        """The URL of the group's queue, which is there and subscribed to the topics."""
        queue = fifo_name(group, QUEUE_NAME)
        arn = await self._connection.arn("sqs", queue)
        try:
            answer = await self._connection.call("sqs", "get_queue_url", QueueName=queue)
        except Missing:
            answer = await self._make_queue(queue, arn)
        await together([partial(self._lead, fifo_name(topic.name, TOPIC_NAME), arn) for topic in topics])
        return str(answer["QueueUrl"])

    async def _make_queue(self, queue: str, arn: str) -> Any:
        """With the right for the account's own topics to send to it, and as many messages a second as FIFO allows."""
        attributes = {
            "FifoQueue": "true",
            "DeduplicationScope": "messageGroup",
            "FifoThroughputLimit": "perMessageGroupId",
            "MessageRetentionPeriod": str(LONGEST_RETENTION_S),
            "VisibilityTimeout": str(self._settings.visibility),
            "Policy": _policy(arn, await self._connection.arn("sns", "*")),
        }
        return await self._connection.call("sqs", "create_queue", QueueName=queue, Attributes=attributes)

    async def _lead(self, name: str, queue_arn: str) -> None:
        """Lead a topic to the queue. Without attributes: a subscription that somebody made with others is left alone.

        Not raw: only the envelope tells which topic a message was sent to by somebody else's client.
        """
        topic_arn = await self._connection.arn("sns", name)
        arguments: dict[str, Any] = {"TopicArn": topic_arn, "Protocol": "sqs", "Endpoint": queue_arn}
        try:
            await self._connection.call("sns", "subscribe", **arguments)
        except Missing:
            await self._make_topic(name)
            await self._connection.call("sns", "subscribe", **arguments)

    async def _make_topic(self, name: str) -> None:
        attributes = {"FifoTopic": "true", "FifoThroughputScope": "MessageGroup"}
        try:
            await self._connection.call("sns", "create_topic", Name=name, Attributes=attributes)
        except Refused:  # it is there with other attributes
            await self._connection.call("sns", "create_topic", Name=name, Attributes={"FifoTopic": "true"})

    async def _queue_place(self, queue: str) -> Place:
        try:
            url = (await self._connection.call("sqs", "get_queue_url", QueueName=queue))["QueueUrl"]
            told = await self._connection.call("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=["All"])
        except Missing:
            return Place("SQS queue", queue, exists=False)
        return Place("SQS queue", queue, exists=True, note=_queue_note(told["Attributes"], self._settings.max_bytes))

    async def _taken_places(self, topic: str, queue: str, queue_arn: str) -> list[Place]:
        name = fifo_name(topic, TOPIC_NAME)
        found = await self._subscriptions(name)
        arn = (found or {}).get(queue_arn)
        note = ""
        if arn:
            told = await self._connection.call("sns", "get_subscription_attributes", SubscriptionArn=arn)
            note = _subscription_note(told["Attributes"])
        return [
            Place("SNS topic", name, exists=found is not None),
            Place("SNS subscription", f"{name} to {queue}", exists=arn is not None, note=note),
        ]

    async def _sent_place(self, topic: str) -> Place:
        name = fifo_name(topic, TOPIC_NAME)
        found = await self._subscriptions(name)
        note = "nobody is subscribed: SNS forgets what is sent to it" if found == {} else ""
        return Place("SNS topic", name, exists=found is not None, note=note)


def _without_expected(entries: Sequence[Entry], told: Told) -> list[Entry]:
    for each in entries:
        if each.expected:
            told[each.index] = NotTaken(f"nobody is subscribed to {each.topic} (SNS topic {each.name})")
    return [each for each in entries if not each.expected]


def _refusal(sent: Entry, failed: Mapping[str, Any] | None) -> NotTaken:
    if failed is None:
        return NotTaken(f"{sent.topic}: SNS did not say that it has it")
    is_final = bool(failed["SenderFault"]) and str(failed["Code"]).startswith("InvalidParameter")
    return NotTaken(f"{sent.topic}: {failed.get('Message', '')} ({failed['Code']})", is_final)


def _policy(queue_arn: str, topics_arn: str) -> str:
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {"ArnLike": {"aws:SourceArn": topics_arn}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def _queue_note(attributes: Mapping[str, str], most_bytes: int) -> str:
    """What of its settings loses messages."""
    notes: list[str] = []
    if (retention := int(attributes.get("MessageRetentionPeriod", LONGEST_RETENTION_S))) < LONGEST_RETENTION_S:
        notes.append(f"what is not taken within {retention / HOUR_S:g} h is lost")
    if "Policy" not in attributes:
        notes.append("it has no policy that lets SNS send to it: nothing arrives")
    if redrive := attributes.get("RedrivePolicy"):
        told = json.loads(redrive)
        notes.append(f"after {told['maxReceiveCount']} deliveries a message goes to {told['deadLetterTargetArn']}")
    if (size := int(attributes.get("MaximumMessageSize", 2 * most_bytes))) < 2 * most_bytes:
        notes.append(f"what is larger than {size:,} bytes in SNS's envelope is lost")
    return "; ".join(notes)


def _subscription_note(attributes: Mapping[str, str]) -> str:
    notes: list[str] = []
    if attributes.get("FilterPolicy"):
        notes.append("it has a filter policy: what does not match is lost")
    if attributes.get("RawMessageDelivery", "").lower() == "true":
        notes.append("it is raw: what others' clients send comes without its topic")
    return "; ".join(notes)
