"""The program of a Dask scheduler or worker that is an instance of a service of Myxo.

The process that holds the instance's port forks one for each client, so that the next one finds
nothing of the last. A client's connection is upgraded to `myxo-dask/1`; it says in a line what is
to run, hears in a line at which address that is, and what runs ends when the connection does.
"""

import asyncio
import json
import os
import signal
import socket
from contextlib import suppress
from types import FrameType
from typing import Any

PROTOCOL = "myxo-dask/1"
BACKLOG = 16
MAX_LINE = 1 << 20
CLOSE_S = 10.0
"""For what runs to end in order."""


def main() -> None:
    """Serve one client after the other at the port that is named, until told to end."""
    listener = socket.create_server(("127.0.0.1", int(os.environ["SERVICE_PORT"])), backlog=BACKLOG)
    child = 0

    def end(_number: int, _frame: FrameType | None) -> None:
        if child:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        child = os.fork()
        if child == 0:
            _be_of_use(listener, connection)
        connection.close()
        os.waitpid(child, 0)
        child = 0


def _be_of_use(listener: socket.socket, connection: socket.socket) -> None:
    """Serve one client in a process of its own, and end that."""
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        listener.close()
        asyncio.run(_serve(connection))
        status = 0
    finally:
        os._exit(status)


async def _serve(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection, limit=MAX_LINE)
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    if f"upgrade: {PROTOCOL}".encode() not in head.lower().split(b"\r\n"):
        text = b"a node of a Dask cluster\n"
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(text)
        )
        writer.write(text)
        await writer.drain()
        writer.close()
        return
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n"
        % PROTOCOL.encode()
    )
    await writer.drain()
    await _run(json.loads(await reader.readline()), reader, writer)


async def _run(said: dict[str, Any], reader: asyncio.StreamReader, writer: Any) -> None:
    """Run what a client asked for, until it goes or the node ends by itself."""
    node = await _node(said)
    try:
        writer.write(json.dumps({"address": node.address}).encode() + b"\n")
        await writer.drain()
        ends = [asyncio.ensure_future(reader.read()), asyncio.ensure_future(node.finished())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    except ConnectionError:
        pass
    finally:
        with suppress(TimeoutError):
            await asyncio.wait_for(node.close(), CLOSE_S)


async def _node(said: dict[str, Any]) -> Any:
    from distributed import Scheduler, Security, Worker  # noqa: PLC0415  (after the fork)

    pem = {
        f"tls_{role}_{part}": said["tls"][part]
        for role in ("scheduler", "worker", "client")
        for part in ("cert", "key")
    }
    security = Security(  # type: ignore[no-untyped-call]
        tls_ca_file=said["tls"]["ca"], require_encryption=True, **pem
    )
    common: dict[str, Any] = {
        "security": security,
        "protocol": "tls",
        "dashboard_address": "127.0.0.1:0",
    }
    if said["role"] == "scheduler":
        return await Scheduler(dashboard=False, **common)
    return await Worker(
        said["scheduler"],
        name=said["name"],
        nthreads=said["threads"],
        dashboard=False,
        **common,
    )


if __name__ == "__main__":
    main()
