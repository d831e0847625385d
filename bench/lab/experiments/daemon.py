"""The queue of experiments, and who runs them: first in, first out, some at once if that is asked.

The queue is in the database, so nothing is lost when this process is killed: what waits goes on
waiting, and what ran is failed when the same daemon starts again, with its data kept. Whoever
submits or cancels only writes there; the daemon looks twice a second.
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

import structlog
import trio

from bench.lab.errors import StoreFailed
from bench.lab.experiments import queries
from bench.lab.experiments.balancing import Balanced, without_network
from bench.lab.experiments.carrying_out import Note, carry_out
from bench.lab.experiments.recording import OpenNodes, record
from bench.lab.experiments.records import Experiment
from bench.lab.experiments.status import Change
from bench.lab.experiments.store import Store
from bench.lab.experiments.submission import Work, work_of
from bench.lab.experiments.telemetry import PERIOD_S
from bench.lab.load_hosts import LoadHosts
from overlay.errors import MyxoError

FLUSH_TIMEOUT_S = 30.0
"""For the traces that are on their way when an experiment is done."""

MAX_TOLD = 1000
"""Events of load hosts that wait to be written down."""

LOOK_S = 0.5
"""How soon a submission or a cancellation is seen; one query on an index each."""

RETRY_S = 2.0

DIED = "the daemon ended while this ran; what was recorded until then is kept"
STOPPED = "the daemon was stopped while this ran; what was recorded until then is kept"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    """How a daemon works.

    Attributes:
        parallel: experiments at once.
        look_s: seconds between looks at the queue.
        period_s: seconds between readings of telemetry.
        retry_s: seconds until a database that failed is asked again.
    """

    parallel: int = 1
    look_s: float = LOOK_S
    period_s: float = PERIOD_S
    retry_s: float = RETRY_S


@dataclass(frozen=True, slots=True)
class _End:
    exp_id: str
    change: Change
    time: float
    error: str


class _Event(NamedTuple):
    exp_id: str
    time: float
    name: str
    value: str


class Daemon:
    """Runs what is queued.

    Args:
        store: where the queue and everything else is.
        hosts: which send the load; their traces go to the store.
        open_nodes: opens what measures the machines, for one experiment.
        runner: this daemon's name among those that share the database, the same at each start.
        balanced: has services spread by the policy that an experiment names.
    """

    def __init__(
        self,
        store: Store,
        hosts: LoadHosts,
        open_nodes: OpenNodes,
        runner: str,
        pace: Pace,
        clock: Callable[[], float] = time.time,
        balanced: Balanced = without_network,
    ) -> None:
        self._balanced = balanced
        self._one_policy = trio.Lock()
        self._store = store
        self._hosts = hosts
        self._open_nodes = open_nodes
        self._runner = runner
        self._pace = pace
        self._clock = clock
        self._running: dict[str, trio.CancelScope] = {}
        self._ended: deque[_End] = deque()
        self._tell, self._told = trio.open_memory_channel[_Event](MAX_TOLD)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run experiments until cancelled; `started` once what a killed daemon left is settled.

        Raises:
            StoreFailed: the database does not answer at the start.
        """
        await self._fail_lost()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._note_told)
            task_status.started()
            while True:
                try:
                    await self._look(nursery)
                    wait_s = self._pace.look_s
                except StoreFailed as exc:
                    log.warning("database.failed", error=str(exc), retry_s=self._pace.retry_s)
                    wait_s = self._pace.retry_s
                await trio.sleep(wait_s)

    def tell(self, name: str, text: str) -> None:
        """Have it noted for each experiment that runs now that something happened to a host."""
        for exp_id in self._running:
            try:
                self._tell.send_nowait(_Event(exp_id, self._clock(), name, text))
            except trio.WouldBlock:
                log.warning("event.lost", exp_id=exp_id, name=name, text=text)

    async def _note_told(self) -> None:
        async for event in self._told:
            try:
                await self._store.write(queries.add_event, *event)
            except StoreFailed as exc:
                log.warning("event.lost", exp_id=event.exp_id, error=str(exc))

    async def _fail_lost(self) -> None:
        lost = await self._store.write(queries.fail_lost, self._runner, self._clock(), DIED)
        for exp_id in lost:
            log.warning("experiment.failed", exp_id=exp_id, error=DIED)

    async def _look(self, nursery: trio.Nursery) -> None:
        """Start what is next, if there is room, and cancel what is to be cancelled."""
        await self._tell_ends()
        for exp_id in await self._store.read(queries.to_cancel, self._runner):
            if exp_id in self._running:
                self._running[exp_id].cancel()
        while len(self._running) < self._pace.parallel:
            experiment = await self._store.write(queries.claim, self._runner, self._clock())
            if experiment is None:
                return
            await nursery.start(self._run_one, experiment)

    async def _run_one(self, experiment: Experiment, *, task_status: trio.TaskStatus[None]) -> None:
        exp_id = experiment.exp_id
        log.info("experiment.started", exp_id=exp_id, name=experiment.name)
        change, error = Change.FAIL, STOPPED
        try:
            with trio.CancelScope() as scope:
                self._running[exp_id] = scope
                task_status.started()
                change, error = await self._outcome(exp_id)
            if scope.cancelled_caught:
                change, error = Change.CANCEL, ""
        finally:
            del self._running[exp_id]
            self._ended.append(_End(exp_id, change, self._clock(), error))
            with trio.CancelScope(shield=True):
                await self._tell_ends()

    async def _outcome(self, exp_id: str) -> tuple[Change, str]:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    record, self._open_nodes, self._store, exp_id, self._pace.period_s, self._clock
                )
                outcome = await self._do(exp_id)
                nursery.cancel_scope.cancel()
        except Exception as exc:  # others that run, and all that wait, are not to fail for it
            log.exception("experiment.broken", exp_id=exp_id)
            return Change.FAIL, f"{type(exc).__name__}: {exc}"
        return outcome

    async def _do(self, exp_id: str) -> tuple[Change, str]:
        async def note(name: str, value: str) -> None:
            await self._store.write(queries.add_event, exp_id, self._clock(), name, value)

        try:
            work = work_of(await self._store.read(queries.task, exp_id))
            async with self._spread(work, note):
                await carry_out(work.steps, self._hosts, exp_id, note)
            with trio.move_on_after(FLUSH_TIMEOUT_S) as flushing:
                await self._hosts.flush()
            if flushing.cancelled_caught:
                await note("traces.late", f"some had not come {FLUSH_TIMEOUT_S:g} s after the end")
        except MyxoError as exc:
            return Change.FAIL, str(exc)
        return Change.FINISH, ""

    @asynccontextmanager
    async def _spread(self, work: Work, note: Note) -> AsyncIterator[None]:
        """Have services spread as is said; of several experiments that say so, one at a time.

        Raises:
            MyxoError: that cannot be.
        """
        if work.policy is None:
            yield
            return
        async with self._one_policy, self._balanced(work.services, work.policy):
            await note("policy", f"{work.policy} {' '.join(work.services)}")
            yield

    async def _tell_ends(self) -> None:
        """Write down what has ended; what the database does not take is kept for the next look."""
        while self._ended:
            end = self._ended.popleft()
            try:
                await self._store.write(queries.end, end.exp_id, end.change, end.time, end.error)
            except StoreFailed as exc:
                self._ended.appendleft(end)
                log.warning("database.failed", exp_id=end.exp_id, error=str(exc))
                return
            log.info("experiment.ended", exp_id=end.exp_id, how=end.change, error=end.error)
