"""What it costs to tell of requests: access log, W3C trace context, OpenTelemetry spans.

A proxy without any of it and one for each way stand before the same instance and are asked in turn,
in rounds: latency at 500/s on one connection, then requests a second by wrk. The collector of spans
is a server in C that reads them and answers 200.
"""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import trio

from bench import backend
from bench.client import ask_until_ok, latencies, requests_per_second
from bench.command import Report, run
from bench.hop import await_answer, running
from bench.machine import cpu_s
from bench.native import compiled
from bench.network import Network, joined_proxy, network, open_registrar
from bench.stats import quantile, spread, table
from overlay.names import ServiceName, service_name
from overlay.spec import ServiceSpec
from overlay.testing_ports import free_port

RATE = 500.0
CONNECTIONS = 32
NOTHING = "nothing"
TRACEPARENT = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
WAYS = (NOTHING, "access log", "traceparent passed on", "OpenTelemetry exporter")


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure: rounds of one block for each way, seconds a block."""

    rounds: int
    block_s: float
    load_s: float


FULL = Plan(rounds=7, block_s=3.0, load_s=3.0)
QUICK = Plan(rounds=3, block_s=0.5, load_s=1.0)


@dataclass(frozen=True, slots=True)
class Way:
    """A proxy that tells of requests in one way, and what was measured of it, round by round."""

    url: str
    pid: int
    fields: tuple[str, ...]
    p50_s: list[float] = field(default_factory=list)
    rps: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def take(self, plan: Plan) -> None:
        """Measure one round."""
        sent = latencies(self.url, rate=RATE, duration_s=plan.block_s, fields=self.fields)
        self.p50_s.append(quantile(sent, 0.5))
        before = cpu_s(self.pid)
        rate = requests_per_second(
            self.url, connections=CONNECTIONS, duration_s=plan.load_s, fields=self.fields
        )
        self.rps.append(rate)
        self.cpu_us.append((cpu_s(self.pid) - before) / (rate * plan.load_s) * 1e6)


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        AnswerFailed, NetworkFailed: it could not be measured.
    """
    plan = QUICK if quick else FULL
    name = service_name(f"bench-{secrets.token_hex(3)}")
    with ExitStack() as stack:
        founded = stack.enter_context(network("process"))
        trio.run(_add, founded, name)
        collector = stack.enter_context(_collector(founded.folder))
        log = str(founded.folder / "access.jsonl")
        flags = {"access log": ["--access-log", log]}
        flags["OpenTelemetry exporter"] = ["--otlp-endpoint", collector]
        ways: dict[str, Way] = {}
        for way in WAYS:
            port, pid = stack.enter_context(_proxy(founded, flags.get(way, [])))
            url = f"http://127.0.0.1:{port}/{name}/"
            ask_until_ok(url)
            fields = (TRACEPARENT,) if way == "traceparent passed on" else ()
            ways[way] = Way(url, pid, fields)
        for turn in range(plan.rounds):
            for way in list(ways)[:: 1 if turn % 2 else -1]:
                ways[way].take(plan)
    return report(ways)


def report(ways: Mapping[str, Way]) -> Report:
    """Return the figures and the table of what was found."""
    bare = ways[NOTHING]
    figures: dict[str, Any] = {}
    rows = []
    for name, way in ways.items():
        key = name.replace(" ", "_").lower()
        rps = median(way.rps) / median(bare.rps)
        p50 = median(way.p50_s) / median(bare.p50_s)
        cpu = median(way.cpu_us) / median(bare.cpu_us)
        figures |= {f"{key}_rps_ratio": rps, f"{key}_p50_ratio": p50, f"{key}_cpu_ratio": cpu}
        milliseconds = spread([s * 1000 for s in way.p50_s]).text(3)
        measured = [milliseconds, spread(way.rps).text(0), spread(way.cpu_us).text(0)]
        rows.append([name, *measured, f"{p50:.2f}", f"{rps:.2f}", f"{cpu:.2f}"])
    columns = ["what is told", "p50, ms", "requests/s", "CPU µs/request"]
    return Report(figures, table([*columns, "÷ nothing: p50", "requests/s", "CPU"], rows))


async def _add(founded: Network, name: ServiceName) -> None:
    """Add a service and have it started."""
    async with open_registrar(founded) as registrar:
        spec = ServiceSpec(process=f"exec {backend.program()} $SERVICE_PORT", idle_pause_s=0)
        await registrar.add(name, spec)
        await trio.to_thread.run_sync(ask_until_ok, founded.url(name))


@contextmanager
def _collector(folder: Path) -> Iterator[str]:
    """Run what takes spans; yield its URL."""
    port, log = free_port(), folder / "collector.log"
    with running([str(compiled("bodies")), str(port)], log) as process:
        await_answer(f"http://127.0.0.1:{port}/0", process, log)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _proxy(founded: Network, flags: list[str]) -> Iterator[tuple[int, int]]:
    """Run a further proxy of this machine; yield its port and process id when it is ready."""
    port = free_port()
    arguments = [str(port), *flags, "--p2p-listen-addr", f"127.0.0.1:{free_port()}"]
    arguments += ["--prom-listen-addr", f"127.0.0.1:{free_port()}"]
    with joined_proxy(founded, f"proxy-{port}", arguments) as pid:
        yield port, pid


if __name__ == "__main__":
    run("telemetry", "What it costs to tell of requests.", measure)
