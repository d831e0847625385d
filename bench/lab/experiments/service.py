"""The daemon of experiments: the database, the load hosts, and the queues that feed it."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial

import structlog
import trio

from bench.lab.errors import LabError
from bench.lab.experiments.balancing import balanced_in
from bench.lab.experiments.daemon import Daemon, Pace
from bench.lab.experiments.database import shown
from bench.lab.experiments.experiments import Experiments
from bench.lab.experiments.nodes import MeasuredHosts, open_every_node
from bench.lab.experiments.presence import LOCK, leave_word
from bench.lab.experiments.redis_queue import RedisQueue
from bench.lab.experiments.settings import ExperimentdSettings
from bench.lab.experiments.store import SqlTraceSink, open_store
from bench.lab.request_trace import TraceSink
from overlay.advertising import system_hostname
from overlay.notify import notify
from overlay.state_dir import open_state_dir

log = structlog.get_logger()


Tell = Callable[[str, str], None]
"""Takes what happened to a load host: a name, and words."""

OpenHosts = Callable[
    [ExperimentdSettings, TraceSink, Tell], AbstractAsyncContextManager[MeasuredHosts]
]
"""Opens the way to the load hosts, whose traces go to the sink."""


async def run(
    settings: ExperimentdSettings,
    open_hosts: OpenHosts,
    *,
    ready: Callable[[], None] | None = None,
) -> None:
    """Run what is queued until cancelled.

    Args:
        settings: the daemon's settings.
        open_hosts: opens the load hosts.
        ready: called once experiments are run.

    Raises:
        StoreFailed: the database does not answer at the start.
        LabError: another such daemon runs with this state directory.
    """
    daemon: Daemon | None = None

    def tell(name: str, text: str) -> None:
        if daemon is not None:
            daemon.tell(name, text)

    open_state_dir(settings.state_dir)
    with _alone(settings):
        async with (
            open_store(settings.database_url()) as store,
            open_hosts(settings, SqlTraceSink(store), tell) as hosts,
            trio.open_nursery() as nursery,
        ):
            pace = Pace(settings.parallel, period_s=settings.telemetry_period_s)
            open_nodes = partial(open_every_node, settings.hostname, hosts)
            daemon = Daemon(
                *(store, hosts, open_nodes, settings.runner, pace), balanced=balanced_in(settings)
            )
            await nursery.start(daemon.run)
            if settings.redis:
                nursery.start_soon(RedisQueue(settings.redis, Experiments(store)).run)
            log.info("experimentd.ready", database=shown(store.url), runner=settings.runner)
            if ready is not None:
                ready()
            notify("READY=1")


@contextmanager
def _alone(settings: ExperimentdSettings) -> Iterator[None]:
    """See that no other daemon of this name runs: each would take the other's runs for lost."""
    path = settings.state_dir / LOCK
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise LabError(
                f"another experimentd runs with the state directory {settings.state_dir}; stop it, "
                "or give this one another --state-dir"
            ) from exc
        leave_word(fd, (settings.hostname or system_hostname()) if settings.standalone else "")
        yield
    finally:
        os.close(fd)
