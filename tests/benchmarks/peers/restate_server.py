"""The order saga as a Restate service with `ctx.run` steps and a list of compensations, as its guide to sagas has it.

The server is started here, on ports of its own, with its defaults (which sync its log to the disk); the service runs in
this process under hypercorn, and so does the customer, who sends HTTP over kept connections.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Awaitable, Callable

import restate
from hypercorn.asyncio import serve
from hypercorn.config import Config
from restate.exceptions import TerminalError

from tests.benchmarks.peers.measuring import Load, Options, drive, options

orders = restate.Service("Orders")


async def reserve_stock(order_id: str) -> str:
    return f"r-{order_id}"


async def release_stock(order_id: str) -> None:
    return None


async def pay(order_id: str, total: int) -> None:
    if total % 10 == 0:
        raise TerminalError("limit", status_code=409)


async def ship(order_id: str) -> None:
    return None


@orders.handler()
async def place(ctx: restate.Context, order: dict[str, int]) -> str:
    order_id, total = str(order["number"]), order["number"]
    compensations: list[Callable[[], Awaitable[None]]] = []
    try:
        compensations.append(lambda: ctx.run_typed("release", release_stock, order_id=order_id))
        await ctx.run_typed("reserve", reserve_stock, order_id=order_id)
        await ctx.run_typed("pay", pay, order_id=order_id, total=total)
        await ctx.run_typed("ship", ship, order_id=order_id)
    except TerminalError:
        for compensation in reversed(compensations):
            await compensation()
        raise
    return "completed"


class Connections:
    """HTTP connections that are kept and used again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, body: object) -> int:
        """The status of the answer."""
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if "content-length:" in answer:
            await reader.readexactly(int(answer.partition("content-length:")[2].split()[0]))
        else:
            while size := int(await reader.readline(), 16):
                await reader.readexactly(size + 2)
            await reader.readline()
        self._idle.append((reader, writer))
        return int(answer.split()[1])

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


async def opened(port: int) -> None:
    """Wait until something listens there."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


async def register(admin: int, service: int) -> None:
    """The server answers with an error until it is ready."""
    await opened(admin)
    connections = Connections(admin)
    while await connections.post("/deployments", {"uri": f"http://127.0.0.1:{service}"}) >= 300:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    connections.close()


async def run(options: Options) -> None:
    node, ingress, admin, service = free_ports(4)
    environment = os.environ | {
        "RESTATE_BASE_DIR": str(options.dir / "restate"),
        "RESTATE_BIND_IP": "127.0.0.1",
        "RESTATE_BIND_PORT": str(node),
        "RESTATE_INGRESS__BIND_PORT": str(ingress),
        "RESTATE_ADMIN__BIND_PORT": str(admin),
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_DISABLE_TELEMETRY": "true",
        "RESTATE_LOG_FILTER": "error",
    }
    config = Config()
    config.bind = [f"127.0.0.1:{service}"]
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(restate.app([orders]), config, shutdown_trigger=stop.wait))  # type: ignore
    command = [os.environ["RESTATE_SERVER"], "--no-logo"]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)  # noqa: ASYNC220 begun once
    try:
        await opened(service)
        async with asyncio.timeout(60):
            await register(admin, service)
            await opened(ingress)
        customers = Connections(ingress)

        async def order(number: int) -> None:
            status = await customers.post("/Orders/place", {"number": number})
            assert status == (409 if number % 10 == 0 else 200), status

        load = Load(options, (server.pid,))
        await drive(order, load, options.in_flight)
        load.report()
        customers.close()
    finally:
        server.terminate()
        server.wait(60)
        stop.set()
        await serving


if __name__ == "__main__":
    asyncio.run(run(options()))
