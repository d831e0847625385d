"""A Dask cluster on the machines of the network: Dask's own scheduler and workers, as services.

    from distributed import Client
    from myxo.dask import MyxoCluster

    with MyxoCluster(n_workers=4) as cluster, Client(cluster) as client:
        total = client.submit(sum, client.map(f, items)).result()

Each node is an instance that one connection of this program's holds: opening it starts a worker
near and where there is room, closing it ends that, also when this program dies. Among themselves
nodes speak Dask's protocol over TLS, both ends with a certificate of this cluster alone, at free
ports of all interfaces: machines must reach each other by TCP.
"""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import trio
from distributed.core import Status
from distributed.deploy.spec import ProcessInterface, SpecCluster
from distributed.security import Security

from myxo.dask_node import MAX_LINE, PROTOCOL
from myxo.mapping.errors import NoWorkers
from myxo.mapping.run import NO_ROOM, UNKNOWN_SERVICE
from myxo.mapping.workers import CORE_MILLICORES, Workers, owned
from myxo.services.proxy_address import ProxyAddress, proxy_address
from overlay.spec import ServiceSpec

COMMAND = 'exec "$SERVICE_PYTHON" -m myxo.dask_node'
RETRY_S = 1.0
GREET_S = 30.0
"""For a node to start and say where it is; one that is another program's says nothing."""

SCHEDULER_S = 90.0
"""Until a scheduler must run."""


@dataclass(slots=True)
class _Lane:
    """A connection that holds a node."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    address: str


class _Refused(Exception):
    """The proxy gave no node for now."""


@dataclass(slots=True)
class _Source:
    """Where nodes of one kind are had.

    Attributes:
        workers: the service.
        said: to each node of it.
    """

    workers: Workers
    said: dict[str, Any]
    registering: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def open(self, **more: Any) -> _Lane:
        """Start a node.

        Raises:
            _Refused: there is no room, or it went away.
            NoWorkers: there never will be one here.
        """
        try:
            reader, writer = await asyncio.open_connection(
                self.workers.proxy.host, self.workers.proxy.port, limit=MAX_LINE
            )
        except OSError as exc:
            raise NoWorkers(f"no proxy answers at {self.workers.proxy} ({exc})") from exc
        try:
            async with asyncio.timeout(GREET_S):
                return await self._greet(reader, writer, more)
        except TimeoutError as exc:
            writer.close()
            raise _Refused("the node says nothing") from exc
        except BaseException:
            writer.close()
            raise

    async def _greet(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, more: dict[str, Any]
    ) -> _Lane:
        writer.write(
            f"GET / HTTP/1.1\r\nHost: {self.workers.service}.myxo.localhost\r\n"
            f"Connection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n".encode()
        )
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            if status != 101:  # noqa: PLR2004  (Switching Protocols)
                await self._refused(status, head)
            writer.write(json.dumps(self.said | more).encode() + b"\n")
            answer = json.loads(await reader.readline())
        except (ConnectionError, asyncio.IncompleteReadError, ValueError, IndexError) as exc:
            raise _Refused("the node went away before it was one") from exc
        return _Lane(reader, writer, str(answer["address"]))

    async def _refused(self, status: int, head: bytes) -> None:
        if status == UNKNOWN_SERVICE:
            async with self.registering:
                await asyncio.to_thread(trio.run, self.workers.register)
        elif status not in NO_ROOM:
            raise NoWorkers(f"the proxy gives no node: {head.splitlines()[0].decode()}")
        raise _Refused(f"no room: {status}")


class _Node(ProcessInterface):
    """A scheduler or worker as Dask's clusters hold them."""

    def __init__(self, scheduler: str | None = None, name: Any = None, *, source: _Source) -> None:
        super().__init__(scheduler=scheduler, name=name)  # type: ignore[no-untyped-call]
        self._source = source
        self._more = {"scheduler": scheduler, "name": name}
        self._task: asyncio.Task[None] | None = None
        self._lane: _Lane | None = None

    async def close(self) -> None:
        """Let the node end."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._lane is not None:
            self._lane.writer.close()
        await super().close()  # type: ignore[no-untyped-call]


class MyxoScheduler(_Node):
    """A scheduler; there when it is started."""

    async def start(self) -> None:
        """Have it run.

        Raises:
            NoWorkers: it does not.
            TimeoutError: there is no room for it.
        """
        async with asyncio.timeout(SCHEDULER_S):
            while self._lane is None:
                try:
                    self._lane = await self._source.open()
                except _Refused:
                    await asyncio.sleep(RETRY_S)
        self.address = self._lane.address
        await super().start()  # type: ignore[no-untyped-call]


class MyxoWorker(_Node):
    """A worker; it comes when there is room, and another one when it is lost."""

    async def start(self) -> None:
        """Begin to have one."""
        self._task = asyncio.create_task(self._hold())
        await super().start()  # type: ignore[no-untyped-call]

    async def _hold(self) -> None:
        while True:
            try:
                self._lane = await self._source.open(**self._more)
                await self._lane.reader.read()
                self._lane.writer.close()
            except (_Refused, ConnectionError):
                pass
            except NoWorkers:
                self.status = Status.failed
                self._event_finished.set()
                return
            await asyncio.sleep(RETRY_S)


class MyxoCluster(SpecCluster):
    """A Dask cluster; `scale`, `adapt` and `close` are Dask's.

    Args:
        n_workers: to begin with.
        threads: of a worker, each with a core of its own.
        proxy: as of `myxo.map`.
        options: Dask's own, of `SpecCluster`: `asynchronous`, `name`, …

    Raises:
        RuntimeError: no scheduler could be started; its cause says why.
    """

    def __init__(
        self,
        n_workers: int = 0,
        *,
        threads: int = 1,
        proxy: str | None = None,
        **options: Any,
    ) -> None:
        security = Security.temporary()  # type: ignore[no-untyped-call]
        where = proxy_address(proxy)
        tls = {
            "ca": security.tls_ca_file,
            "cert": security.tls_client_cert,
            "key": security.tls_client_key,
        }
        scheduler = _Source(_service(where, 0), {"role": "scheduler", "tls": tls})
        worker = _Source(
            _service(where, threads * CORE_MILLICORES),
            {"role": "worker", "threads": threads, "tls": tls},
        )
        one = {"cls": MyxoWorker, "options": {"source": worker}}
        super().__init__(  # type: ignore[no-untyped-call]
            workers=dict.fromkeys(range(n_workers), one),
            scheduler={"cls": MyxoScheduler, "options": {"source": scheduler}},
            worker=one,
            security=security,
            **options,
        )


def _service(proxy: ProxyAddress, cpu_millicores: int) -> Workers:
    spec = ServiceSpec(process=COMMAND, concurrency=1, cpu_millicores=cpu_millicores)
    return owned(proxy, "dask", spec)
