"""One member of a consumer group: hands out messages, commits the prefix of each partition that is settled."""

# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUntypedBaseClass=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Self

import anyio
from aiokafka import ConsumerRebalanceListener  # type: ignore[import-untyped]
from aiokafka import errors as kafka_errors

from orchestrator.ports import Delivered, Topic

from .cluster import Cluster, ms
from .options import kafka_name


class KafkaSubscription(ConsumerRebalanceListener):  # type: ignore[misc]
    """Messages of the partitions that are this member's. When partitions are taken away, what is unsettled of them is
    somebody else's, and acknowledging it does nothing.
    """

    def __init__(self, cluster: Cluster, consumer: Any, topics: Sequence[Topic], group: str, prefetch: int) -> None:
        """Made by `KafkaBus.subscribe`."""
        self._cluster = cluster
        self._consumer = consumer
        self._topics = {kafka_name(topic.name): topic for topic in topics}
        self._group = group
        self._prefetch = prefetch
        self._starts: dict[Any, int] = {}
        self._shares: dict[Any, _Share] = {}
        self._joined = anyio.Event()
        self._changed = anyio.Event()
        self._committing = anyio.Lock()

    async def join(self) -> None:
        """Return when the group has let this member in, and has a position in all that is this member's."""
        options = self._cluster.options
        with self._cluster.asking(self._cluster.asker, seconds=options.timeout_s + options.session_s):
            partitions = await self._cluster.partitions(self._topics.keys())
            await self._consumer.start()
            self._starts = await self._find_starts(partitions)
            self._consumer.subscribe(list(self._topics), listener=self)
            await self._joined.wait()

    async def _find_starts(self, partitions: Sequence[Any]) -> dict[Any, int]:
        """Where the group begins, in topics that are new to it."""
        known = {partition.topic for partition in await self._cluster.committed(self._group, partitions)}
        new = [partition for partition in partitions if partition.topic not in known]
        first = [partition for partition in new if self._topics[partition.topic].from_start]
        ends: dict[Any, int] = await self._consumer.end_offsets(new) if new else {}
        return ends | (await self._consumer.beginning_offsets(first) if first else {})

    async def on_partitions_assigned(  # pyright: ignore[reportIncompatibleMethodOverride]  the driver awaits it
        self, assigned: Collection[Any]
    ) -> None:
        """Commit where the group begins, so that nothing is missed if we die before the first message is settled."""
        starts = {partition: self._starts[partition] for partition in assigned if partition in self._starts}
        with anyio.fail_after(self._cluster.options.timeout_s):  # the driver would try for ever
            known = await self._cluster.committed(self._group, starts)
            new = {partition: offset for partition, offset in starts.items() if partition not in known}
            for partition, offset in new.items():
                self._consumer.seek(partition, offset)
            if new:
                await self._consumer.commit(new)
        for partition in starts:
            del self._starts[partition]
        self._joined.set()

    def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        """Forget what is with us of these partitions."""
        for partition in revoked:
            self._shares.pop(partition, None)
        self._change()

    def leave(self) -> None:
        """Whatever is unsettled is not ours any more."""
        self._shares.clear()
        self._change()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Delivered]:
        """What has come, as soon as there is room; looks after the broker when nothing comes for long."""
        patience = self._cluster.options.timeout_s
        while True:
            while not (room := self._prefetch - sum(len(share.unsettled) for share in self._shares.values())):
                await self._changed.wait()
            with self._cluster.asking(self._cluster.asker, seconds=2 * patience):
                with anyio.move_on_after(patience):
                    batch = await self._consumer.getmany(timeout_ms=ms(patience), max_records=room)
                    if batch:
                        return [self._hand_over(partition, one) for partition, part in batch.items() for one in part]
                await self._consumer.end_offsets(await self._cluster.partitions(self._topics.keys()))

    def _hand_over(self, partition: Any, record: Any) -> Delivered:
        share = self._shares.get(partition)
        if share is None:
            share = self._shares[partition] = _Share(record.offset)
        share.unsettled[record.offset] = None
        share.next = record.offset + 1
        headers = {name.lower(): (value or b"").decode(errors="replace") for name, value in record.headers}
        return Delivered(self._topics[record.topic].name, record.value or b"", headers, (share, record.offset))

    async def ack(self, delivered: Sequence[Delivered]) -> None:
        """Commit, of each partition, the position before which all is settled."""
        for each in delivered:
            share, offset = each.token
            share.unsettled.pop(offset, None)
        self._change()
        with self._cluster.asking():
            await self._commit()

    async def _commit(self) -> None:
        async with self._committing:  # who waited here finds its own committed by the one before
            shares = dict(self._shares)
            positions = {partition: share.settled for partition, share in shares.items() if share.is_ahead}
            if positions:
                try:
                    await self._consumer.commit(positions)
                except (kafka_errors.CommitFailedError, kafka_errors.IllegalStateError):
                    return  # a rebalance came between: they go to somebody, perhaps to us, once more
                for partition, position in positions.items():
                    shares[partition].committed = position

    async def lag(self) -> int:
        """From the group's positions to the ends of the topics."""
        with self._cluster.asking(self._cluster.asker):
            partitions = await self._cluster.partitions(self._topics.keys())
            committed = await self._cluster.committed(self._group, partitions)
            firsts = await self._consumer.beginning_offsets(partitions)
            ends = await self._consumer.end_offsets(partitions)
        return sum(max(0, ends[one] - max(firsts[one], committed.get(one, 0))) for one in partitions)

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


class _Share:
    """What of one partition is with us, from when it was assigned until it is revoked."""

    def __init__(self, first: int) -> None:
        self.unsettled: dict[int, None] = {}  # offsets, in order
        self.next = first  # to be handed over
        self.committed = first

    @property
    def settled(self) -> int:
        """The position before which all is settled."""
        return next(iter(self.unsettled), self.next)

    @property
    def is_ahead(self) -> bool:
        """Whether the broker has to be told."""
        return self.settled > self.committed
