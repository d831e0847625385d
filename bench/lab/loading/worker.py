"""One process of a load; `processes` starts it, and talks with it in lines of JSON.

It reads a `Job`, says that it is ready, reads the moment at which the load begins, tells each
second what it has done so far, and in the end what became of all. When its standard input ends,
because it is told so or the other end is gone, it ends the load early.
"""

import gc
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import trio
from pydantic import BaseModel, ConfigDict

from bench.lab.loading.client import Client, open_client
from bench.lab.loading.csv_sink import CsvSink, open_csv
from bench.lab.loading.custom import Context, find_client, messages
from bench.lab.loading.lines import Lines, line
from bench.lab.loading.messages import Message
from bench.lab.loading.plan import Plan
from bench.lab.loading.schedule import share
from bench.lab.loading.sender import Limits
from bench.lab.loading.target import Target, target_of
from bench.machine import open_many_files
from overlay.cli import FAILED, YOUNG_OBJECTS
from overlay.errors import MyxoError, alone

TELL_S = 1.0
"""Between two tellings of what was done so far."""

GRACE_S = 5.0
"""For what is under way when the load is ended early."""

COUNTS = ("asked", "sent", "failed", "unsent")
"""What is told so far."""


class Job(BaseModel):
    """What one process of a load does.

    Attributes:
        plan: the whole load.
        number, of: which share of it is this process's.
        seed: of every draw; the same in all processes, so that their shares are of one schedule.
        client_id, host: for traces.
        proxy: at which services are asked.
        traces: the file that they go to.
        connections, timeout_s: see `Limits`.
        verify: whether certificates must be good.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: Plan
    number: int
    of: int
    seed: int
    client_id: str
    host: str
    proxy: str | None = None
    traces: Path | None = None
    connections: int = 1000
    timeout_s: float = 60.0
    verify: bool = True

    def next_message(self, target: Target) -> Callable[[], Message]:
        """Return what makes this process's requests.

        Raises:
            BadInput: one cannot be made.
        """
        explained = target.of_myxo and self.traces is not None
        if self.plan.client is None:
            every = self.plan.messages(target, explained=explained)
            return islice(every, self.number, None, self.of).__next__
        random = Random(self.seed + self.number)  # noqa: S311  (load is no secret)
        context = Context(self.plan.parameters, self.client_id, random)
        return messages(find_client(self.plan.client), target, context, explained=explained)

    def part(self, whole: int) -> int:
        """Return how many of so many are this process's."""
        return whole // self.of + (self.number < whole % self.of)


def main() -> None:
    """Do the job that standard input says."""
    open_many_files()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
    try:
        trio.run(_work, restrict_keyboard_interrupt_to_checkpoints=True)
    except BaseException as exc:  # noqa: BLE001  (raised again unless a person can act on it)
        _refuse(exc)


def _refuse(exc: BaseException) -> None:
    error = alone(exc)
    if not isinstance(error, MyxoError):
        raise error
    _say({"error": str(error)})
    sys.exit(FAILED)


async def _work() -> None:
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
        orders = Lines(stdin)
        said = await orders.next()
        if said is not None:
            await _do(Job.model_validate(said), orders)


async def _do(job: Job, orders: Lines) -> None:
    target = target_of(job.plan.target, job.proxy)
    with ExitStack() as stack:
        sink: CsvSink | None = None
        if job.traces is not None:
            sink = stack.enter_context(open_csv(job.traces, fresh=False))
        async with open_client(
            target,
            job.next_message(target),
            client_id=job.client_id,
            host=job.host,
            sink=sink,
            seed=job.seed,
            limits=Limits(connections=job.connections, timeout_s=job.timeout_s),
            verify=job.verify,
        ) as client:
            ready_s = time.process_time()
            _say({"ready": True})
            begin = await orders.next()
            if begin is not None:
                await _drive(client, job, begin["begin"], orders)
        ended = {"tally": client.tally.as_json(), "lost_traces": client.lost_traces}
        _say(ended | {"cpu_s": time.process_time() - ready_s})


async def _drive(client: Client, job: Job, began: float, orders: Lines) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_early, client, orders)
        nursery.start_soon(_tell, client)
        await _send(client, job, began)
        await client.finish()
        nursery.cancel_scope.cancel()


async def _end_early(client: Client, orders: Lines) -> None:
    while await orders.next() is not None:
        pass
    client.stop()
    await trio.sleep(GRACE_S)
    client.abandon()


async def _send(client: Client, job: Job, began: float) -> None:
    plan = job.plan
    if plan.at_once is None:
        random = Random(job.seed)  # noqa: S311  (load is no secret)
        await client.run(share(plan.times(random), job.number, job.of), began)
        return
    count = None if plan.count is None else job.part(plan.count)
    await trio.sleep(max(began - time.monotonic(), 0.0))
    with trio.move_on_after(inf if plan.duration is None else plan.duration):
        await client.request(count, at_once=job.part(plan.at_once))


async def _tell(client: Client) -> None:
    while True:
        await trio.sleep(TELL_S)
        _say({"so_far": {name: getattr(client.tally, name) for name in COUNTS}})


def _say(what: dict[str, Any]) -> None:
    sys.stdout.buffer.write(line(what))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
