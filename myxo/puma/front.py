"""The front of a program: a proxy at its port, where each service answers at its path.

It is a proxy as any other, told in its environment what the configuration says, and in a file which
path leads to which service. Where routes come from a file of the user's (`rds`), that is looked at
twice a second, as editors replace files in ways of their own.
"""

import json
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog
import trio

from myxo.daemons import Daemon
from myxo.network import Part
from myxo.puma.access_log import following
from myxo.puma.configuration import PumaConfig, read_routes
from myxo.puma.database import routed
from myxo.puma.errors import ConfigInvalid
from myxo.supervisor import STOP_TIMEOUT_S, supervised
from overlay.names import ServiceName
from overlay.records import Role
from overlay.settings import control_path

LOOK_S = 0.5
CLOSE_S = 2.0
"""What a proxy needs to end beside the time that requests have."""

log = structlog.get_logger()


@asynccontextmanager
async def serving(
    config: PumaConfig, names: Mapping[str, ServiceName], part: Part, port: int
) -> AsyncIterator[None]:
    """Run the front for the length of a block, which begins when it answers.

    Args:
        config: the program's.
        names: of its services, by their keys.
        part: of this machine in its network.
        port: of the front.

    Raises:
        ConfigInvalid: the file of routes cannot be used.
        DaemonFailed: the proxy does not start.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="myxo-puma-")))
        paths = _Paths(folder / "paths.json", config, names)
        paths.write()
        environment = {"MYXO_PROXY_PATHS": str(paths.file), **_environment(config, folder)}
        if config.logging is not None:
            await stack.enter_async_context(following(folder / "log", config.logging))
        drain_s = config.http_connection_manager.drain_timeout or 0.0
        patience_s = max(STOP_TIMEOUT_S, drain_s + CLOSE_S)
        supervisor = await stack.enter_async_context(supervised(patience_s))
        await supervisor.start([_proxy(part, port, environment)])
        if config.dynamodb is not None and config.database_key is not None:
            control = control_path(part.state_dir, Role.PROXY, str(port))
            name = names[config.database_key]
            await stack.enter_async_context(routed(control, name, config.dynamodb.config))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(paths.follow)
            yield
            nursery.cancel_scope.cancel()


def _environment(config: PumaConfig, folder: Path) -> dict[str, str]:
    """Return what the proxy is told."""
    manager = config.http_connection_manager
    said = {
        "ACCESS_LOG": None if config.logging is None else folder / "log",
        "IDLE_TIMEOUT_S": manager.idle_timeout,
        "DRAIN_S": manager.drain_timeout,
        "OTLP_ENDPOINT": None if manager.tracing is None else manager.tracing.otlp_endpoint,
    }
    return {f"MYXO_PROXY_{k}": str(v) for k, v in said.items() if v is not None}


def _proxy(part: Part, port: int, environment: Mapping[str, str]) -> Daemon:
    flags = ["--state-dir", str(part.state_dir), "--log-level", "warning"]
    # Any ports: the well-known ones are those of the machine's own proxy.
    flags += ["--p2p-listen-addr", ":0", "--prom-listen-addr", "127.0.0.1:0"]
    flags += [word for address in part.bootstraps for word in ("--bootstrap", address)]
    flags += ["--admin", part.admin] if part.admin else []
    secret = {"P2P_PSK": part.psk} if part.psk else {}
    return Daemon("proxy", [*flags, str(port)], {**environment, **secret})


class _Paths:
    """The file that tells the proxy which path leads where."""

    def __init__(self, file: Path, config: PumaConfig, names: Mapping[str, ServiceName]) -> None:
        self.file = file
        self._config, self._names = config, names
        rds = config.http_connection_manager.rds
        self._rds = None if rds is None else rds.path
        self._stamp = self._look()

    def write(self) -> None:
        """Write it anew.

        Raises:
            ConfigInvalid: the user's file of routes cannot be used.
        """
        routes = dict(self._config.http_connection_manager.route_config)
        if self._rds is not None:
            routes |= read_routes(self._rds, self._config)
        paths = self._config.paths(routes)
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps({path: self._names[key] for path, key in paths.items()}))
        fresh.replace(self.file)

    async def follow(self) -> None:
        """Write it anew when the user's file changes."""
        while self._rds is not None:
            await trio.sleep(LOOK_S)
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self.write()
                except ConfigInvalid as exc:
                    log.warning("puma.routes_unusable", error=str(exc), kept="the ones before")

    def _look(self) -> tuple[int, int, int] | None:
        if self._rds is None:
            return None
        try:
            found = self._rds.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size
