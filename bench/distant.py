"""Cold requests over long links, beside a bare start on the machine that they reach.

On the host lab a proxy on one host and an allocator with a Docker engine on another, and between
them a link that gets longer and longer. A cold request cannot take less than the engine's own time
and the ways there and back, to ask for the instance and to send the request: bare + 2 RTT.
"""

import secrets
import time
from contextlib import closing
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import docker

from bench import backend
from bench.bare import Bare
from bench.client import OK, Answer, AnswerFailed, ask
from bench.command import Report, run
from bench.lab_network import HUB, LabNetwork, lab_network
from bench.netlab.plan import make_plan
from bench.network import is_stocked
from bench.stats import table
from overlay.spec import ServiceSpec

CALLER, MACHINE = "caller", "machine"
RTTS_S = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3)
"""Links of 0 to 150 ms one way."""

STARTS, STARTS_QUICK = 20, 3
BUDGET_S, BUDGET_QUICK_S = 40.0, 3.0
"""For each distance; on a busy machine there are fewer starts than planned."""

WARM_UP = 1
"""The first request finds no connection to the gateway."""


STOCKED_TIMEOUT_S = 20.0
STOCKED_STEP_S = 0.1


@dataclass(slots=True)
class Found:
    """What was found at one distance, in seconds; `failed` were not answered by a start."""

    rtt_s: float
    bare: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Median cold ÷ (median bare + 2 RTT)."""
        return median(self.cold) / (median(self.bare) + 2 * self.rtt_s)


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        LabFailed, NetworkFailed, AnswerFailed: it could not be measured.
    """
    hosts = [{"name": HUB}, {"name": CALLER}, {"name": MACHINE, "engine": True}]
    with lab_network(
        make_plan(hosts=hosts, preset="lan"),
        allocators=[MACHINE],
        proxies=[CALLER],
        runtime="docker",
    ) as network:
        machine = network.lab.host(MACHINE)
        url = machine.environment["DOCKER_HOST"]
        with closing(docker.APIClient(base_url=url, version="auto", timeout=60)) as client:
            spec = ServiceSpec(image=backend.image(client), port=backend.PORT)
            bare = Bare(client, spec, machine.inside)
            starts, budget_s = (STARTS_QUICK, BUDGET_QUICK_S) if quick else (STARTS, BUDGET_S)
            return report([_at(network, bare, spec, rtt, starts, budget_s) for rtt in RTTS_S])


def _at(
    network: LabNetwork, bare: Bare, spec: ServiceSpec, rtt_s: float, starts: int, budget_s: float
) -> Found:
    """Measure at one distance; the registry is far from neither."""
    network.lab.link(CALLER, MACHINE).set(delay_s=rtt_s / 2)
    found = Found(rtt_s)
    prefix = f"far-{secrets.token_hex(3)}"
    names = [f"{prefix}-{n}" for n in range(starts + WARM_UP)]
    network.add(dict.fromkeys(names, spec))
    caller = network.lab.host(CALLER)
    end = time.monotonic() + budget_s
    for number, name in enumerate(names):
        if number > WARM_UP and time.monotonic() > end:
            break
        bare.prepare()
        _await_stock(network)
        url = network.url(name)
        answer = caller.inside(lambda url=url: ask(url))  # type: ignore[misc]
        if number >= WARM_UP:
            take(found, answer)
            found.bare.append(bare.start())
            bare.remove()
    network.delete(names)
    if not found.cold:
        raise AnswerFailed(f"no cold start at {rtt_s * 1000:.0f} ms: {found.failed[-1]}")
    return found


def _await_stock(network: LabNetwork) -> None:
    """Return when both starts find a sandbox."""
    deadline = time.monotonic() + STOCKED_TIMEOUT_S
    while not is_stocked(network.status(MACHINE)):
        if time.monotonic() > deadline:
            raise AnswerFailed("the allocator has not filled its stock of sandboxes")
        time.sleep(STOCKED_STEP_S)


def take(found: Found, answer: Answer) -> None:
    """Take in an answer, which counts only if it waited for a start."""
    if answer.status == OK and "start" in answer.server_timing:
        found.cold.append(answer.first_byte_s)
    else:
        found.failed.append(f"{answer.status}: {answer.text}")


def report(found: list[Found]) -> Report:
    """Return the figures of all distances."""
    figures: dict[str, Any] = {"starts": sum(len(at.cold) for at in found)}
    figures["failed"] = sum(len(at.failed) for at in found)
    figures["success"] = figures["starts"] / (figures["starts"] + figures["failed"])
    figures["cold_ratio_far_max"] = max(at.ratio for at in found if at.rtt_s)
    rows = []
    for at in found:
        figures[f"cold_ratio_{at.rtt_s * 1000:.0f}ms"] = at.ratio
        times = (at.rtt_s, median(at.bare), median(at.cold), median(at.bare) + 2 * at.rtt_s)
        rtt, bare, cold, least = (f"{seconds * 1000:.0f}" for seconds in times)
        done = f"{len(at.cold)} of {len(at.cold) + len(at.failed)}"
        rows.append([rtt, done, bare, least, cold, f"{at.ratio:.2f}"])
    columns = ["RTT, ms", "started", "bare, ms", "bare + 2 RTT", "cold", "cold ÷ (bare + 2 RTT)"]
    return Report(figures, table(columns, rows))


if __name__ == "__main__":
    run("distant", "Cold requests over long links.", measure)
