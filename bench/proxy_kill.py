"""One of three instances is killed under load: which requests fail, and how slow the others get."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.client import OK, AnswerFailed
from bench.open_load import OpenLoop, Sent
from bench.stats import quantile, table

RATE = 1000
CONNECTIONS = 64
INSTANCES = 3
TIMEOUT_S = 30.0


@dataclass(slots=True)
class Found:
    """Of all kills.

    Attributes:
        before_s: latencies of the second before each.
        after_s: latencies of the second after each.
        failed: requests that were not answered 200.
    """

    kills: int = 0
    requests: int = 0
    failed: list[Sent] = field(default_factory=list)
    before_s: list[float] = field(default_factory=list)
    after_s: list[float] = field(default_factory=list)

    def take(self, sent: list[Sent], killed_at: float) -> None:
        """Take in one load and when a kill fell in it, in seconds from its beginning."""
        self.kills += 1
        self.requests += len(sent)
        self.failed += [one for one in sent if one.status != OK]
        for one in sent:
            if killed_at - 1 <= one.due_s < killed_at:
                self.before_s.append(one.latency_s)
            elif killed_at <= one.due_s < killed_at + 1:
                self.after_s.append(one.latency_s)


def measure(
    url: str, addresses: Callable[[], list[str]], *, kills: int
) -> tuple[dict[str, Any], str]:
    """Return figures and a table.

    Args:
        url: of a service that the network keeps `INSTANCES` instances of, by processes.
        addresses: where they listen now.
        kills: how many loads, with one kill in each.

    Raises:
        AnswerFailed: there are not so many instances in time.
    """
    found = Found()
    for _ in range(kills):
        victim = await_instances(addresses)[0]
        load = OpenLoop(url, rate=RATE, duration_s=2.2, connections=CONNECTIONS)
        time.sleep(1.1)
        killed_at = time.monotonic() - load.began
        os.kill(process_at(victim), signal.SIGKILL)
        found.take(load.ended(), killed_at)
    figures = {
        "failed_on_kill": len(found.failed),
        "kills": found.kills,
        "requests_on_kill": found.requests,
        "p99_before_kill_ms": quantile(found.before_s, 0.99) * 1000,
        "p99_after_kill_ms": quantile(found.after_s, 0.99) * 1000,
    }
    columns = [f"one of {INSTANCES} killed under {RATE:,}/s", "requests", "failed"]
    columns += ["p99 of the second before, ms", "of the second after"]
    row = [f"{found.kills} times", f"{found.requests:,}", str(len(found.failed))]
    row += [f"{figures[f'p99_{when}_kill_ms']:.1f}" for when in ("before", "after")]
    return figures, table(columns, [row])


def await_instances(addresses: Callable[[], list[str]]) -> list[str]:
    """Return the addresses once there are `INSTANCES` of them.

    Raises:
        AnswerFailed: not in time.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while len(found := addresses()) < INSTANCES:
        if time.monotonic() > deadline:
            raise AnswerFailed(f"there are {len(found)} instances, not {INSTANCES}")
        time.sleep(0.1)
    return found


def process_at(address: str) -> int:
    """Return the process of the bench's server that listens at `address`.

    Raises:
        AnswerFailed: there is none.
    """
    port = address.rpartition(":")[2].encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile
        if words[1:2] == [port] and b"/answer-" in words[0]:
            return int(entry.name)
    raise AnswerFailed(f"no process of the bench listens at {address}")
