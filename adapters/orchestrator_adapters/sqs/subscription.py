"""One member of a group: polls the group's queue, keeps what is unsettled, settles."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self
from uuid import uuid4

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from msgspec import Struct

from orchestrator.errors import BusUnavailable
from orchestrator.ports import Delivered

from .connection import BATCH, Connection, batches, together
from .messages import Received, received

POLLS = 8  # at once, while there is more than one poll can carry
LEAVE_S = 2.0


class _Receipt(Struct, frozen=True, eq=False):
    handle: str


class SqsSubscription:
    """Polls ahead while fewer than `prefetch` are unsettled.

    One poll waits at the broker; as long as polls come back full, more of them go out. A queue shows no message of a
    key while an earlier one of it is unsettled, but up to ten of a key come at once. Held longer than twelve hours, a
    message comes again: SQS knows no longer time.
    """

    def __init__(self, connection: Connection, url: str, topics: Mapping[str, str], prefetch: int) -> None:
        """`topics`: what the SNS topics are for, by their names."""
        self._connection = connection
        self._url = url
        self._topics = topics
        self._prefetch = prefetch
        self._ready: deque[Delivered] = deque()
        self._held: dict[_Receipt, float] = {}  # until when SQS keeps them for us, on the clock of the event loop
        self._polls = 0
        self._wanted = 0  # by polls under way
        self._failure: BusUnavailable | None = None
        self._left = anyio.Event()
        self._changed = anyio.Event()

    def begin(self, tasks: TaskGroup) -> None:
        """Poll in the background, until `leave`."""
        self._start(tasks, self._connection.settings.wait)
        tasks.start_soon(self._keep)

    async def leave(self) -> None:
        """Give back what is unsettled."""
        self._left.set()
        self._change()
        with anyio.move_on_after(LEAVE_S, shield=True):
            await self._give_back(list(self._held))
        self._held.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Delivered]:
        """Errors: BusUnavailable, from then on: subscribe anew."""
        await checkpoint()
        while not self._ready or self._failure:
            if self._failure:
                raise BusUnavailable(str(self._failure)) from self._failure
            await self._changed.wait()
        taken = list(self._ready)
        self._ready.clear()
        return taken

    async def ack(self, delivered: Sequence[Delivered]) -> None:
        """Delete these from the queue."""
        receipts = [each for each in dict.fromkeys(each.token for each in delivered) if each in self._held]
        await together([partial(self._delete, some) for some in batches(receipts)])

    async def lag(self) -> int:
        """By SQS's own count, which is approximate and may be a minute late."""
        names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
        told = await self._call("get_queue_attributes", AttributeNames=names)
        return sum(int(told["Attributes"].get(name, 0)) for name in names)

    def _start(self, tasks: TaskGroup, wait: int) -> None:
        self._polls += 1
        tasks.start_soon(self._poll, tasks, wait)

    async def _poll(self, tasks: TaskGroup, wait: int) -> None:
        """The first poll goes on for ever, and waits at the broker; the others while they come back full."""
        is_full = True
        try:
            while (wait or is_full) and not self._left.is_set() and not self._failure:
                if not (room := min(BATCH, self._prefetch - len(self._held) - self._wanted)) > 0:
                    if not wait:
                        break
                    await self._changed.wait()
                    continue
                is_full = await self._receive(room, wait) == BATCH
                if is_full and self._polls < POLLS:
                    self._start(tasks, 0)
        except BusUnavailable as error:
            self._failure = error
            self._change()
        finally:
            self._polls -= 1

    async def _receive(self, room: int, wait: int) -> int:
        """How many came. A poll that comes back when the subscriber has left gives back what it brought."""
        self._wanted += room
        try:
            told = await self._call(
                "receive_message",
                waits=wait,
                MaxNumberOfMessages=room,
                WaitTimeSeconds=wait,
                VisibilityTimeout=self._connection.settings.visibility,
                MessageAttributeNames=["All"],
                ReceiveRequestAttemptId=uuid4().hex,  # the driver's second attempt gets what the first one lost
            )
        finally:
            self._wanted -= room
        found = [received(message) for message in told.get("Messages", ())]
        if self._left.is_set():
            await self._give_back([_Receipt(each.handle) for each in found])
            return 0
        until = anyio.current_time() + self._connection.settings.visibility
        for each in found:
            self._take(each, until)
        self._change()
        return len(found)

    def _take(self, found: Received, until: float) -> None:
        """What nobody here asked for is left to a member who does: it is to be had again after the visibility time."""
        only = next(iter(self._topics.values())) if len(self._topics) == 1 else ""
        topic = self._topics.get(found.name) if found.name else only
        if topic is not None:
            receipt = _Receipt(found.handle)
            self._held[receipt] = until
            self._ready.append(Delivered(topic, found.body, found.headers, receipt))

    async def _keep(self) -> None:
        """Extend the time of what is unsettled, before two thirds of it are over."""
        visibility = self._connection.settings.visibility
        while not self._left.is_set():
            with anyio.move_on_after(visibility / 3):
                await self._left.wait()
                return
            soon = anyio.current_time() + visibility * 2 / 3
            due = [receipt for receipt, until in self._held.items() if until <= soon]
            try:
                await together([partial(self._set_visibility, some, visibility) for some in batches(due)])
            except BusUnavailable as error:
                self._failure = error
                self._change()
                return

    async def _set_visibility(self, receipts: Sequence[_Receipt], seconds: int) -> None:
        until = anyio.current_time() + seconds
        await self._batch("change_message_visibility_batch", receipts, VisibilityTimeout=seconds)
        self._held |= {receipt: until for receipt in receipts if receipt in self._held}

    async def _give_back(self, receipts: Sequence[_Receipt]) -> None:
        with suppress(BusUnavailable):  # then they come again when their time is over
            await together([partial(self._set_visibility, some, 0) for some in batches(receipts)])

    async def _delete(self, receipts: Sequence[_Receipt]) -> None:
        failed = await self._batch("delete_message_batch", receipts)
        for receipt in receipts:
            if receipt not in failed:
                self._held.pop(receipt, None)
        self._change()
        if failed:
            raise BusUnavailable(f"{self._connection.settings.place}: {next(iter(failed.values()))}")

    async def _batch(self, operation: str, receipts: Sequence[_Receipt], **more: int) -> dict[_Receipt, str]:
        """Those on which the service failed, with its words. A receipt too old for it is passed over."""
        entries = [{"Id": str(n), "ReceiptHandle": each.handle, **more} for n, each in enumerate(receipts)]
        told = await self._call(operation, Entries=entries)
        return {
            receipts[int(each["Id"])]: f"{each.get('Message', '')} ({each['Code']})"
            for each in told.get("Failed", ())
            if not each["SenderFault"]
        }

    async def _call(self, operation: str, waits: float = 0.0, **arguments: Any) -> Any:
        return await self._connection.call("sqs", operation, waits=waits, QueueUrl=self._url, **arguments)

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
