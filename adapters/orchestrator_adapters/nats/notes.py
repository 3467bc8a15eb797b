"""What a person should know of a stream or consumer, its settings that lose messages first of all."""

from __future__ import annotations

from collections.abc import Iterator

from nats.js.api import AckPolicy, ConsumerInfo, RetentionPolicy, StorageType, StreamInfo

DAY_S = 86_400
SLACK_S = 1.0  # the server keeps whole nanoseconds


def stream_note(info: StreamInfo, keep_s: float) -> str:
    """In words, empty when there is nothing to say. `keep_s`: for how long a message is to be kept, by our settings."""
    return "; ".join(_of_stream(info, keep_s))


def _of_stream(info: StreamInfo, keep_s: float) -> Iterator[str]:
    config = info.config
    if config.storage == StorageType.MEMORY:
        yield "in memory: a restart of the server loses it all"
    if config.no_ack:
        yield "no_ack: it confirms nothing, so that nothing can be sent to it"
    if config.retention == RetentionPolicy.INTEREST:
        yield "retention interest: loses what is sent before a group exists"
    if config.retention == RetentionPolicy.WORK_QUEUE:
        yield "retention workqueue: for one group only"
    limits = {"max_msgs": config.max_msgs, "max_bytes": config.max_bytes, "per subject": config.max_msgs_per_subject}
    if reached := [name for name, limit in limits.items() if limit is not None and limit > 0]:
        yield f"loses the oldest beyond its limits ({', '.join(reached)}), taken or not"
    if config.max_age and config.max_age < keep_s - SLACK_S:  # else it is as the user said
        days = f"{config.max_age / DAY_S:g} days, taken or not, sooner than keep_days={keep_s / DAY_S:g}"
        yield f"loses what is older than {days}"
    if info.cluster is not None and info.cluster.name and config.num_replicas == 1:
        yield "one replica in a cluster: away while its server is"


def consumer_note(info: ConsumerInfo) -> str:
    """In words, empty when there is nothing to say."""
    return "; ".join(_of_consumer(info))


def _of_consumer(info: ConsumerInfo) -> Iterator[str]:
    config = info.config
    if config.deliver_subject:
        yield "a push consumer: remove it, one that is pulled from is needed"
    if config.ack_policy != AckPolicy.EXPLICIT:
        yield f"ack policy {config.ack_policy}: loses what is not yet in our store"
    if config.max_deliver is not None and config.max_deliver > 0:
        yield f"loses what was sent {config.max_deliver} times and not acknowledged"
    if config.backoff:
        yield "backoff: its times count in place of ack_wait"
