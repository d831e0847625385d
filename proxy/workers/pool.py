"""The workers of a proxy: started, started again when they die, and ended with the proxy.

They run in the proxy's grace (`frontend/grace.py`), beside its own connections: when those are to
end so are the workers, in the same time, and who is not through by then is killed as these are cut.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import structlog
import trio
from prometheus_client import Counter

from overlay.cli import SUPERVISED
from overlay.definitions import Definitions
from overlay.handover import Handover
from overlay.node import Node
from proxy.frontend.grace import Grace
from proxy.guard.limiting import Rates
from proxy.serving import Serving
from proxy.settings import ProxySettings
from proxy.workers.attending import Attendant, Shared
from proxy.workers.counts import Past, Row
from proxy.workers.link import Link
from proxy.workers.messages import FROM_WORKER, FromWorker, Retire

RESTART_FIRST_S, RESTART_MOST_S = 0.1, 10.0
HEALTHY_AFTER_S = 10.0
"""What ran for so long is started again at once."""

SOONER_S = 0.5
"""So much before the proxy's own time to drain is over a worker's is: it closes what it holds."""

_DAEMONS_OWN = (SUPERVISED, "NOTIFY_SOCKET", "MYXO_PROXY_TAKEOVER")

log = structlog.get_logger()


class Workers:
    """Keeps the workers of a proxy running once `begin` was called."""

    def __init__(
        self,
        node: Node,
        definitions: Definitions,
        serving: Serving,
        rates: Rates,
        settings: ProxySettings,
        grace: Grace,
    ) -> None:
        self._shared = Shared(node, definitions, settings, rates, serving.routes, serving.clients)
        self._grace = grace
        self._count = settings.workers - 1
        self._log_level = settings.log_level
        self._running: dict[int, Attendant] = {}
        self._past = Past()
        self._died = Counter(
            "myxo_proxy_workers_died",
            "Workers that ended although they were not to.",
            registry=node.metrics,
        )

    def begin(self, listeners: Mapping[str, trio.SocketListener]) -> None:
        """Have workers accept on these listeners."""
        if not self._count:
            return
        self._shared.listeners.update(listeners)
        for _ in range(self._count):
            self._grace.connections.start_soon(self._keep)
        self._grace.listeners.start_soon(self._follow_definitions)

    def wake(self) -> None:
        """Tell workers soon what is news."""
        for attendant in self._running.values():
            attendant.wake()

    async def count(self) -> None:
        """Have the workers tell what they have counted."""
        async with trio.open_nursery() as nursery:
            for attendant in self._running.values():
                nursery.start_soon(attendant.count)

    def counts(self) -> Iterable[Row]:
        """Return what they told, and what those that are gone had."""
        return chain(self._past.rows(), *(a.rows for a in self._running.values()))

    async def decided(self, about: str) -> list[dict[str, Any]]:
        """Return what the workers decided about a request or a service."""
        found: list[dict[str, Any]] = []

        async def ask(attendant: Attendant) -> None:
            found.extend(await attendant.decided(about))

        async with trio.open_nursery() as nursery:
            for attendant in self._running.values():
                nursery.start_soon(ask, attendant)
        return found

    def status(self) -> list[dict[str, object]]:
        """Return what `myxo status` shows of them; requests as of the last scrape."""
        return [
            {
                "pid": pid,
                "accepts": attendant.accepting,
                "requests": sum(_requests(attendant.rows)),
            }
            for pid, attendant in self._running.items()
        ]

    async def _keep(self) -> None:
        """Keep one worker running until the proxy is to end, and then until it has ended."""
        delay_s = RESTART_FIRST_S
        while not self._grace.stopping.is_set():
            began = trio.current_time()
            code = await self._run_one()
            if self._grace.stopping.is_set():
                return
            self._died.inc()
            log.error("worker.died", code=code)
            if trio.current_time() - began > HEALTHY_AFTER_S:
                delay_s = RESTART_FIRST_S
            with trio.move_on_after(delay_s):
                await self._grace.stopping.wait()
            delay_s = min(2 * delay_s, RESTART_MOST_S)

    async def _run_one(self) -> int | None:
        """Run a worker to its end; return its exit code, None if it could not be started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.setblocking(False)
            try:
                process = await trio.lowlevel.open_process(
                    [
                        *(sys.executable, "-P", "-m", "proxy.workers.process"),
                        *(str(theirs.fileno()), self._log_level),
                    ],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=_environment(),
                )
            except OSError as exc:
                log.warning("worker.not_started", error=str(exc))
                return None
            theirs.close()
            return await self._attend(process, ours)

    async def _attend(self, process: trio.Process, sock: socket.socket) -> int | None:
        link = Link(Handover(trio.socket.from_stdlib_socket(sock)), FROM_WORKER)
        attendant = self._running[process.pid] = Attendant(self._shared, link)
        log.info("worker.started", pid=process.pid)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._talk, attendant, link)
                await process.wait()
                nursery.cancel_scope.cancel()
        finally:
            link.close()
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            del self._running[process.pid]
            self._past.add(attendant.rows)
        return process.returncode

    async def _talk(self, attendant: Attendant, link: Link[FromWorker]) -> None:
        """Attend to a worker; one that cannot be understood sees that this has ended, and ends."""
        try:
            await attendant.attend(self._grace.stopping, self._retire)
        except Exception:  # a bug that one worker meets must not end the others
            log.exception("worker.attendant_failed")
        link.close()

    def _retire(self) -> Retire:
        within_s = max(self._grace.retired_s, self._grace.drain_s) - SOONER_S
        return Retire(within_s=within_s, move=self._shared.clients.move is not None)

    async def _follow_definitions(self) -> None:
        while True:
            await self._shared.definitions.changed()
            self.wake()


def _environment() -> dict[str, str]:
    """Return a worker's: what the daemon was told it is told by the daemon."""
    kept = {name: value for name, value in os.environ.items() if name not in _DAEMONS_OWN}
    return kept | {"MYXO_CONFIG": os.devnull}


def _requests(rows: Iterable[Row]) -> Iterator[int]:
    for _, _, _, sample, _, value in rows:
        if sample == "myxo_proxy_requests_total":
            yield int(value)
