"""Serves the API and the page, as `myxo lab api` does."""

import socket
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import cast

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from hypercorn.typing import Framework
from starlette.types import ASGIApp

from bench.lab.api.settings import ApiSettings
from bench.lab.errors import LabError
from bench.lab.experiments.store import open_store
from overlay.notify import notify

BACKLOG = 128
GRACE_S = 3.0
"""For answers that are under way when the server is stopped."""

log = structlog.get_logger()


class CannotListen(LabError):
    """The address is taken, or not this machine's."""


async def check(settings: ApiSettings) -> None:
    """See that the database can be used, before a server is started that would fail over it.

    Raises:
        StoreFailed, BadInput: it does not answer, or is of a kind that is not known.
    """
    async with open_store(settings.database_url()):
        pass


async def run(
    app: ASGIApp, host: str, port: int, *, ready: Callable[[int], None] | None = None
) -> None:
    """Serve until cancelled.

    Args:
        app: what answers.
        host: the address or name to listen at.
        port: 0 for any that is free.
        ready: called with the port once requests are answered.

    Raises:
        CannotListen: the address cannot be had.
    """
    with closing(_listening(host, port)) as listener:
        config = Config()
        # A duplicate: the server closes what it is given.
        config.bind = [f"fd://{listener.dup().detach()}"]
        config.accesslog = None
        config.errorlog = None
        config.graceful_timeout = GRACE_S
        config.include_server_header = False
        async with trio.open_nursery() as nursery:
            # Its way to be told to stop; a bare cancellation would cut what is under way.
            stop = trio.Event()
            await nursery.start(partial(_serve, app, config, stop))
            port = listener.getsockname()[1]
            log.info("api.ready", url=f"http://{_in_url(host)}:{port}/")
            if ready is not None:
                ready(port)
            notify("READY=1")
            try:
                await trio.sleep_forever()
            finally:
                stop.set()


async def _serve(
    app: ASGIApp,
    config: Config,
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.CancelScope(shield=True):
        framework = cast("Framework", app)  # the same interface, typed by each in its own way
        await serve(framework, config, shutdown_trigger=stop.wait, task_status=task_status)


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as exc:
        raise CannotListen(
            f"{host}:{port} cannot be listened at: {exc.strerror or exc}; give another --listen"
        ) from exc
    return listener


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
