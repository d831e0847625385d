"""A run on workers: where they run, what each is sent, and what came of it.

the engine that is named, or this machine's, or none ─► the workers' image, if one answers
    ─► a network (fleet.py) ─► an order for each share ─► a result for each
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import trio

from allocator.engine.client import accepts_calls
from bench.lab.errors import BadInput
from bench.lab.queueing import engine, fleet
from bench.lab.queueing.engine import BASE, EngineAddress
from bench.lab.queueing.replay import Serving, mean_size
from bench.lab.queueing.results import WorkerResult
from bench.lab.traces.rows import Request, mean_gap
from bench.lab.traces.splitting import Share


@dataclass(frozen=True, slots=True)
class Where:
    """Where workers are to run.

    Attributes:
        runtime: auto is containers where an engine answers.
        engine: the engine for them; None is this machine's.
        base: the image that theirs is made from.
    """

    runtime: Literal["auto", "docker", "process"] = "auto"
    engine: EngineAddress | None = None
    base: str = BASE


def run_on_workers(
    requests: Sequence[Request], shares: Sequence[Share], serving: Serving, where: Where
) -> tuple[fleet.Runtime, list[WorkerResult]]:
    """Have a worker serve each share; return what they ran as, and their results.

    Args:
        requests: the whole trace.
        shares: what each worker gets of it.
        serving: how.
        where: they run.

    Raises:
        MyxoError: it cannot be done; says why. It may come in a group.
    """
    if len(shares) > fleet.MOST_WORKERS:
        raise BadInput(
            f"{len(shares)} workers are asked for; as services there may be {fleet.MOST_WORKERS}"
        )
    size = mean_size(requests)
    orders = [order(number, share, serving, size) for number, share in enumerate(shares, 1)]
    if where.engine is not None:
        engine.spoken(where.engine)
    with engine.named(where.engine):
        runtime = _runtime(where)
        image = None if runtime == "process" else trio.run(engine.worker_image, where.base)
        with fleet.place(runtime, own=where.engine is not None) as at:
            answers = trio.run(partial(fleet.ask_workers, at, fleet.spec_of(image), orders))
    return runtime, [
        WorkerResult(n, len(share.requests), mean_gap(share.requests), one.host, one.figures)
        for n, (share, one) in enumerate(zip(shares, answers, strict=True), 1)
    ]


def _runtime(where: Where) -> fleet.Runtime:
    if where.runtime == "auto":
        return "docker" if where.engine is not None or accepts_calls() else "process"
    return where.runtime


def order(worker: int, share: Share, serving: Serving, size: float) -> Mapping[str, Any]:
    """Return what a worker is sent.

    Args:
        worker: its number.
        share: what it is to serve.
        serving: how.
        size: mean of all files of the trace.
    """
    return {
        "worker": worker,
        "arrivals": share.arrivals,
        "sizes": [request.filesize for request in share.requests],
        "service": serving.service,
        "mean": serving.mean,
        "mean_size": size,
        "customers": serving.customers,
        "seed": serving.seed,
    }
