"""Envoy before a proxy: its folder, its process, and the socket at which the proxy serves it."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import structlog
import trio

from overlay.listeners import listen, port_of
from overlay.settings import split_address
from overlay.tls import PeerTls
from proxy.envoy.admin import Admin
from proxy.envoy.bootstrap import Files, bootstrap
from proxy.envoy.engine import Engine
from proxy.envoy.folder import Folder
from proxy.envoy.fronts import Front, meant
from proxy.envoy.process import EnvoyProcess, envoy_program
from proxy.frontend.clients import Clients
from proxy.frontend.edge import listen_outside
from proxy.frontend.grace import Grace
from proxy.route.exposure import exposure_of
from proxy.settings import LOOPBACK, ProxySettings

INSIDE = "inside"

MakeEngine = Callable[[Files, tuple[Front, ...], Admin, EnvoyProcess], Engine]
"""Makes an engine of what is known here."""

log = structlog.get_logger()


async def fronts_of(settings: ProxySettings) -> tuple[Front, ...]:
    """Return where Envoy is to listen, once it is certain that it can.

    Raises:
        AddressTaken: a port is in use; says by whom.
        SettingsInvalid: there is no Envoy.
    """
    envoy_program()
    scheme = "https" if settings.tls_cert else "http"
    exposure = exposure_of(settings.expose)
    port = await _free(await listen(LOOPBACK, settings.port, what="the proxy"))
    trusted = settings.trusted_forwarders
    found = [Front(INSIDE, LOOPBACK, port, trusted=trusted)]
    for number, text in enumerate(settings.listen):
        host, _ = split_address(text, LOOPBACK)
        port = await _free(await listen_outside(text, secured=bool(settings.tls_cert)))
        found.append(Front(f"outside{number}", host, port, scheme, exposure))
    return tuple(found)


async def _free(listener: trio.SocketListener) -> int:
    port = port_of(listener)
    await listener.aclose()
    return port


@asynccontextmanager
async def envoy_folder(key: int) -> AsyncIterator[Files]:
    """Yield the files of an Envoy, in a folder that only this user reads; it is removed.

    It is not below the state directory, because the path of a Unix socket is short.

    Args:
        key: the descriptor that Envoy reads the private key from that gateways are shown.
    """
    folder = Path(tempfile.mkdtemp(prefix="myxo-envoy-"))
    try:
        yield Files(folder, Path(f"/dev/fd/{key}"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def run_envoy(
    settings: ProxySettings,
    fronts: Sequence[Front],
    clients: Clients,
    grace: Grace,
    make_engine: MakeEngine,
    tls: PeerTls,
    *,
    task_status: trio.TaskStatus[Engine] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Have Envoy serve until cancelled; `started` when it listens.

    While it drains, what it passes on is still served and its leases are kept.

    Raises:
        EnvoyFailed: it does not start.
    """
    with in_memory(tls.key()) as key:
        async with envoy_folder(key) as files:
            admin = Admin(files.admin)
            process = EnvoyProcess(
                envoy_program(), files.bootstrap, settings.envoy_workers, admin, inherited=[key]
            )
            engine = make_engine(files, tuple(fronts), admin, process)
            process.ended = engine.envoy_ended
            boot = bootstrap(
                files,
                fronts,
                certificates=len(settings.certificates),
                mutual=settings.client_ca is not None,
            )
            Folder().write(files.bootstrap, boot)
            listener = await _listen_at(files.proxy)
            serve = partial(
                clients.serve_passed_on, sender=partial(meant, fronts={f.name: f for f in fronts})
            )
            hold = partial(
                trio.serve_listeners, serve, [listener], handler_nursery=grace.connections
            )
            async with (
                going_on(grace.connections, hold),
                going_on(grace.lasting, engine.run),  # it writes into the folder
                trio.open_nursery() as nursery,
            ):
                await nursery.start(process.run)
                log.info("envoy.ready", pid=process.pid, admin=str(files.admin))
                task_status.started(engine)


@asynccontextmanager
async def going_on(
    nursery: trio.Nursery, run: Callable[[], Awaitable[object]]
) -> AsyncIterator[None]:
    """Have something run in a nursery that outlasts the block; it has ended behind that."""
    scope, over = trio.CancelScope(), trio.Event()

    async def run_within() -> None:
        try:
            with scope:
                await run()
        finally:
            over.set()

    nursery.start_soon(run_within)
    try:
        yield
    finally:
        scope.cancel()
        with trio.CancelScope(shield=True):
            await over.wait()


@contextmanager
def in_memory(key: bytes) -> Iterator[int]:
    """Yield a descriptor that `key` can be read from, which is written to no disk."""
    descriptor = os.memfd_create("myxo-key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, key)
        yield descriptor
    finally:
        os.close(descriptor)


async def _listen_at(path: Path) -> trio.SocketListener:
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await sock.bind(str(path))
    path.chmod(0o600)
    sock.listen(1024)
    return trio.SocketListener(sock)
