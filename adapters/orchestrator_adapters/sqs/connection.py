"""The edge to AWS: the clients, made when first needed, and their errors, said as the port says them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from orchestrator.errors import BusUnavailable

from .settings import Settings

T = TypeVar("T")

AT_ONCE = 64  # connections to each service
ATTEMPTS = 2
BATCH = 10  # the most that one call may carry
CLOSE_S = 2.0
MISSING = {"NotFound", "AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}
REFUSED = {"InvalidParameter", "InvalidParameterValue", "ParameterValueInvalid", "ParamValidationError"}
DENIED = {"AccessDenied", "AccessDeniedException", "AuthorizationError"}


class Missing(BusUnavailable):
    """The topic or queue of the call is not there."""


class Refused(BusUnavailable):
    """What was in the call is not what the service takes."""


class Denied(BusUnavailable):
    """These credentials have not the right to do it."""


class Connection:
    """Calls of SNS and SQS within a bounded time. Opening it loads the driver; the first call reaches AWS."""

    def __init__(self, settings: Settings) -> None:
        """Not open yet."""
        self.settings = settings
        self._lock = anyio.Lock()
        self._clients: dict[str, Any] = {}
        self._closing = AsyncExitStack()
        self._driver: tuple[Any, Any] | None = None
        self._account = ""
        self._partition = ""

    async def open(self) -> None:
        """Allow calls."""
        self._driver = await anyio.to_thread.run_sync(_load, self.settings)

    async def close(self) -> None:
        """Let go of the connections."""
        self._driver = None
        self._clients = {}
        with anyio.move_on_after(CLOSE_S, shield=True):
            await self._closing.aclose()

    async def call(self, service: str, operation: str, *, waits: float = 0.0, **arguments: Any) -> Any:
        """What the operation answers. `waits`: the seconds that the service itself may take.

        Errors: BusUnavailable and its Missing and Refused.
        """
        with self._errors(waits):
            clients = self._clients or await self._connected()
            return await getattr(clients[service], operation)(**arguments)

    async def arn(self, service: str, name: str) -> str:
        """The full name of a topic or queue of this account and region."""
        if not self._clients:
            with self._errors():
                await self._connected()
        return f"arn:{self._partition}:{service}:{self.settings.region}:{self._account}:{name}"

    async def _connected(self) -> dict[str, Any]:
        if self._driver is None:
            raise BusUnavailable(f"{self.settings.place}: the bus is not open")
        async with self._lock, AsyncExitStack() as opening:
            if self._clients:  # somebody else was first
                return self._clients
            sns, sqs = [await opening.enter_async_context(self._client(*self._driver, name)) for name in ("sns", "sqs")]
            async with self._client(*self._driver, "sts") as sts:
                identity = await sts.get_caller_identity()
            self._account, self._partition = identity["Account"], identity["Arn"].split(":")[1]
            self._closing = opening.pop_all()
            self._clients = {"sns": sns, "sqs": sqs}
        return self._clients

    def _client(self, session: Any, config: Any, service: str) -> Any:
        endpoint = self.settings.endpoint or None
        return session.create_client(service, region_name=self.settings.region, endpoint_url=endpoint, config=config)

    @contextmanager
    def _errors(self, waits: float = 0.0) -> Generator[None]:
        """Raise what the port promises in place of what the driver raises."""
        seconds = self.settings.timeout + waits
        try:
            with anyio.fail_after(seconds):
                yield
        except TimeoutError as error:
            raise BusUnavailable(f"{self.settings.place}: no answer within {seconds:g} s") from error
        except OSError as error:
            raise BusUnavailable(f"{self.settings.place}: {error}") from error
        except Exception as error:
            if not type(error).__module__.startswith(("botocore", "aiobotocore")):
                raise
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> BusUnavailable:
        told: dict[str, Any] = getattr(error, "response", {}).get("Error", {})
        code = str(told.get("Code", type(error).__name__))
        text = f"{self.settings.place}: {told.get('Message') or error} ({code})"
        if code in MISSING:
            return Missing(text)
        if code in REFUSED:
            return Refused(text)
        return Denied(text) if code in DENIED else BusUnavailable(text)


def _load(settings: Settings) -> tuple[Any, Any]:
    """Import the driver and read its tables: a second's work, in a thread."""
    for name in ("aiobotocore.credentials", "botocore.credentials"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell of every credential that they find
    session = import_module("aiobotocore.session").AioSession()
    session.register_component("data_loader", _tables())
    config = import_module("aiobotocore.config").AioConfig(
        connect_timeout=settings.timeout,
        read_timeout=settings.timeout + settings.wait,
        max_pool_connections=AT_ONCE,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
    )
    return session, config


@cache
def _tables() -> Any:
    """What the driver knows of the services, read before a client asks for it in the event loop."""
    loader = import_module("botocore.loaders").create_loader()
    for data in ("endpoints", "partitions", "sdk-default-configuration", "_retry"):
        loader.load_data(data)
    for service in ("sns", "sqs", "sts"):
        loader.load_service_model(service, "service-2")
        loader.load_service_model(service, "endpoint-rule-set-1")
    return loader


async def together(jobs: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Do these at once. Errors: BusUnavailable, of the first that fails; the others are cancelled."""
    failures: list[BusUnavailable] = []

    async def do(job: Callable[[], Awaitable[None]]) -> None:
        try:
            await job()
        except BusUnavailable as error:
            failures.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for job in jobs:
            tasks.start_soon(do, job)
    if failures:
        raise failures[0]


def batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many as one call may carry."""
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
