"""The clients of one load host: started, told what to do, and missed when they end."""

import hashlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
import trio

from bench.lab.errors import LoadFailed
from bench.lab.hosts.assignments import Assignment, Assignments
from bench.lab.hosts.child import Child, Job
from bench.lab.hosts.messages import (
    Answered,
    ClientRow,
    Clients,
    SendRequests,
    Work,
)
from bench.lab.load_hosts import MAX_CLIENTS
from bench.lab.loading.target import target_of
from bench.lab.request_trace import RequestTrace

STARTS_AT_ONCE = 4
"""Processes; more would only make each other wait for a core."""

BROKEN_KEPT = 20
"""Clients that ended badly, of which it is told why."""

ONCE_TIMEOUT_S = 60.0

Take = Callable[[Sequence[RequestTrace]], None]

log = structlog.get_logger()


class Crew:
    """The clients of this host; made by `open_crew`.

    Attributes:
        host: the load host's name.
        broken: what is told of the last clients that ended although they were not to.
    """

    def __init__(self, nursery: trio.Nursery, host: str, proxy: str | None) -> None:
        self.host = host
        self.broken: deque[str] = deque(maxlen=BROKEN_KEPT)
        self._nursery = nursery
        self._proxy = proxy
        self._children: dict[str, Child] = {}
        self._assignments = Assignments()
        self._numbers: Counter[str] = Counter()
        self._starting = trio.CapacityLimiter(STARTS_AT_ONCE)
        self._expected = 0

    def rows(self) -> list[ClientRow]:
        """Return how each client is."""
        children = sorted(self._children.values(), key=lambda c: (c.job.service, c.number))
        return [child.row for child in children]

    async def spawn(self, num: int, work: Work, app: Path | None, take: Take | None) -> list[str]:
        """Start so many clients, all or none; return their ids.

        Args:
            num: how many.
            work: what they are to ask for.
            app: the folder of a custom client.
            take: is given the traces of their requests; None if nobody wants them.

        Raises:
            BadInput: `work` names neither a service nor a URL.
            LoadFailed: there are too many, or one does not start.
        """
        target_of(work.service, self._proxy)
        if len(self._children) + self._expected + num > MAX_CLIENTS:
            raise LoadFailed(
                f"{self.host} has {len(self._children)} of at most {MAX_CLIENTS} clients"
            )
        self._expected += num
        try:
            jobs = [self._job(work, app, traced=take is not None) for _ in range(num)]
            started, trouble = await self._start(jobs, take or _ignore)
        finally:
            self._expected -= num
        if trouble:
            await self._close(started)
            raise LoadFailed(trouble)
        return [child.job.client for child in started]

    async def ask_once(self, work: Work, app: Path | None) -> Answered:
        """Send one request, in a process of its own, and return what was answered.

        Raises:
            BadInput: `work` names neither a service nor a URL.
            LoadFailed: the process does not come so far.
        """
        target_of(work.service, self._proxy)
        child = Child(self._job(work, app, traced=False, once=True), _ignore)
        async with self._starting:
            await self._nursery.start(self._run, child)
        with trio.move_on_after(ONCE_TIMEOUT_S):
            await child.ended.wait()
        if child.answered is None:
            raise LoadFailed(f"{child.job.client} told no answer: {child.broken or 'it hangs'}")
        return child.answered

    async def set_rate(self, which: Clients, rate: float) -> int:
        """Have clients send `rate` requests a second together; return how many they are.

        Raises:
            LoadFailed: there are no such clients.
        """
        chosen = self._chosen(which)
        await self._share(chosen, rate)
        return len(chosen)

    async def send(self, order: SendRequests) -> int:
        """Have clients begin to send requests; return the assignment's number.

        Raises:
            LoadFailed: there are no such clients.
        """
        chosen = self._chosen(order)
        waiting = {child.job.client for child in chosen}
        assignment = Assignment(order.count, order.inter_arrival, waiting)
        number = self._assignments.add(assignment)
        for child in chosen:
            await child.send(number, assignment)
        return number

    async def flush(self) -> None:
        """Return once the traces of all requests that have ended were handed out."""
        async with trio.open_nursery() as nursery:
            for child in self._children.values():
                nursery.start_soon(child.flush)

    def assignment(self, number: int) -> Assignment:
        """Return an assignment.

        Raises:
            LoadFailed: there is none of that number.
        """
        return self._assignments.get(number)

    async def close(self, which: Clients) -> int:
        """End clients after what they have under way; return how many.

        Raises:
            LoadFailed: there are no such clients.
        """
        chosen = self._chosen(which)
        await self._close(chosen)
        return len(chosen)

    def _chosen(self, which: Clients) -> list[Child]:
        if which.clients is not None:
            gone = [client for client in which.clients if client not in self._children]
            if gone:
                raise LoadFailed(f"{gone[0]} is no client of {self.host}, or has ended")
            return [self._children[client] for client in which.clients]
        found = [child for child in self._children.values() if _is_of(child.job, which)]
        if not found:
            raise LoadFailed(f"{self.host} has no clients of {which.service}: spawn some first")
        return found

    def _job(self, work: Work, app: Path | None, *, traced: bool, once: bool = False) -> Job:
        number = self._numbers[work.service]
        self._numbers[work.service] += 1
        client = f"{self.host}:{work.service}:{number}"
        return Job(
            client=client,
            host=self.host,
            service=work.service,
            proxy=self._proxy,
            app=None if app is None else str(app),
            parameters=work.parameters,
            exp_id=work.exp_id,
            seed=None if work.seed is None else _seed_of(work.seed, client),
            arrival=work.arrival,
            traced=traced,
            once=once,
        )

    async def _start(self, jobs: Sequence[Job], take: Take) -> tuple[list[Child], str]:
        """Return the clients that started, and why one did not."""
        started: dict[str, Child] = {}
        troubles: list[str] = []

        async def start(job: Job) -> None:
            child = Child(job, take)
            async with self._starting:
                if troubles:
                    return
                try:
                    await self._nursery.start(self._run, child)
                except LoadFailed as exc:
                    troubles.append(str(exc))
                else:
                    started[job.client] = child
                    if not child.ended.is_set():
                        self._children[job.client] = child

        async with trio.open_nursery() as starting:
            for job in jobs:
                starting.start_soon(start, job)
        in_order = [started[job.client] for job in jobs if job.client in started]
        return in_order, "".join(troubles[:1])

    async def _run(
        self, child: Child, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run a client to its end; if that was not asked for, its rate is the others' to send."""
        await child.run(task_status=task_status)
        self._children.pop(child.job.client, None)
        if not child.broken:
            return
        log.warning("client.broken", client=child.job.client, why=child.broken)
        self.broken.append(f"{child.job.client}: {child.broken}")
        others = [c for c in self._children.values() if _alike(c.job, child.job)]
        if child.row.rps and others:
            await self._share(others, child.row.rps + sum(c.row.rps for c in others))

    async def _share(self, chosen: Sequence[Child], rate: float) -> None:
        """Deal a rate out, each client's turn as far from the others' as can be."""
        for place, child in enumerate(chosen):
            await child.set_rate(rate / len(chosen), place / len(chosen))

    async def _close(self, chosen: Sequence[Child]) -> None:
        async with trio.open_nursery() as closing:
            for child in chosen:
                closing.start_soon(child.close)


@asynccontextmanager
async def open_crew(host: str, proxy: str | None) -> AsyncIterator[Crew]:
    """Yield a crew without clients; those that there are at the end of the block are killed.

    Args:
        host: the load host's name.
        proxy: the address at which services are asked; None for this machine's proxy.
    """
    async with trio.open_nursery() as nursery:
        yield Crew(nursery, host, proxy)
        nursery.cancel_scope.cancel()


def _is_of(job: Job, which: Clients) -> bool:
    return job.service == which.service and which.exp_id in {None, job.exp_id}


def _alike(one: Job, other: Job) -> bool:
    return (one.service, one.exp_id) == (other.service, other.exp_id)


def _seed_of(seed: int, client: str) -> int:
    """Return a client's own seed, so that no two draw the same."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{client}".encode()).digest()[:8], "big")


def _ignore(traces: Sequence[RequestTrace]) -> None:
    """Let traces go that nobody wants."""
