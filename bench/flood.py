"""A thousand requests at once, for services that run nowhere, over four hosts.

Each host of the lab has a Docker engine (or, with `--runtime process`, starts processes), an
allocator and a proxy, and each proxy gets a quarter of the requests for each service, all in one
moment. What was started is told by the engines' events, or written down by the processes
themselves, not by Myxo. Beside the flood a bystander, whose services are another owner's, asks one
that runs, and new ones: before the flood and while it lasts.

It ends when all are answered, or at a deadline, and says then how far it came.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPException
from statistics import median
from typing import Any

import docker

from bench import backend
from bench.client import OK
from bench.command import Report, run
from bench.crowd import Asked, ask_at_once
from bench.errors import NetworkFailed
from bench.lab_network import HUB, PROXY_PORT, LabNetwork, lab_network
from bench.netlab.plan import make_plan
from bench.stats import quantile, table
from overlay.spec import Image, ServiceSpec

HOSTS = ("a1", "a2", "a3", "a4")
OWNER, OTHER = "flooder", "bystander"
WARM = "bystander-warm"
WARM_PAUSE_S = 0.05
"""Between two requests of the bystander."""

START_TIMEOUT_S = 20.0
_LABEL = "myxo.service"


@dataclass(frozen=True, slots=True)
class Size:
    """How large the flood is.

    Attributes:
        deadline_s: after which it is over, answered or not.
        before_s: how long the bystander is alone.
        colds: new services that the bystander asks for, before and during the flood.
    """

    requests: int
    services: int
    deadline_s: float
    before_s: float
    colds: int


FULL = Size(requests=1000, services=50, deadline_s=200.0, before_s=5.0, colds=3)
QUICK = Size(requests=100, services=5, deadline_s=15.0, before_s=1.0, colds=1)


@dataclass(slots=True)
class Bystander:
    """What another owner sees.

    Attributes:
        warm_s: of each request for what runs.
        cold_s: of each request for what is new.
        failed: requests of either kind that were not answered 200.
    """

    warm_s: list[float] = field(default_factory=list)
    cold_s: list[float] = field(default_factory=list)
    failed: int = 0


def measure(quick: bool, runtime: str = "docker") -> Report:
    """Return all figures of this benchmark.

    Raises:
        NoEngine, LabFailed, NetworkFailed: it could not be measured.
    """
    size = QUICK if quick else FULL
    with_engines = [{"name": name, "engine": runtime == "docker"} for name in HOSTS]
    plan = make_plan(hosts=[{"name": HUB}, *with_engines], preset="lan")
    with lab_network(
        plan, allocators=HOSTS, proxies=HOSTS, runtime=runtime, owners=(OWNER, OTHER)
    ) as network:
        makes = _Images(network) if runtime == "docker" else _Processes(network)
        return _measure(network, makes, size, runtime)


class _Images:
    """Services in containers; starts are counted by the engines."""

    def __init__(self, network: LabNetwork) -> None:
        self._network = network
        first, *others = HOSTS
        self._image: Image = self._on(first, backend.image)
        reference = self._image.reference
        # Made anew, it would be another image to each engine: its digest is that of its making.
        content = self._on(first, lambda client: b"".join(client.get_image(reference)))
        for host in others:
            self._on(host, lambda client: client.load_image(content))
        self._began = 0

    def spec(self, name: str) -> ServiceSpec:
        """Return what the service `name` is."""
        del name
        return ServiceSpec(image=self._image, port=backend.PORT)

    def begin(self) -> None:
        """Count starts from now on."""
        self._began = int(time.time())

    def starts(self) -> Counter[tuple[str, str]]:
        """Return how often each service was started on each host since then."""
        found: Counter[tuple[str, str]] = Counter()
        filters = {"type": "container", "event": "start", "label": _LABEL}
        until = int(time.time()) + 1
        for host in HOSTS:
            events = self._on(
                host,
                lambda client: list(
                    client.events(since=self._began, until=until, filters=filters, decode=True)
                ),
            )
            found.update((event["Actor"]["Attributes"][_LABEL], host) for event in events)
        return found

    def _on(self, host: str, act: Callable[[docker.APIClient], Any]) -> Any:
        url = self._network.lab.host(host).environment["DOCKER_HOST"]
        with closing(docker.APIClient(base_url=url, version="auto", timeout=60)) as client:
            return act(client)


class _Processes:
    """Services as processes, each of which writes down that it was started."""

    def __init__(self, network: LabNetwork) -> None:
        self._file = network.lab.folder / "starts"
        self._program = backend.program()
        self.begin()

    def spec(self, name: str) -> ServiceSpec:
        """Return what the service `name` is."""
        tells = f'echo {name} "$(hostname)" >> {self._file}'
        return ServiceSpec(process=f"{tells}; exec {self._program} $SERVICE_PORT")

    def begin(self) -> None:
        """Count starts from now on."""
        self._file.write_text("")

    def starts(self) -> Counter[tuple[str, str]]:
        """Return how often each service was started on each host since then."""
        lines = (line.split() for line in self._file.read_text().splitlines())
        return Counter((name, host) for name, host in lines)


def _measure(network: LabNetwork, makes: _Images | _Processes, size: Size, runtime: str) -> Report:
    names = [f"flood-{n}" for n in range(size.services)]
    colds = [f"bystander-{n}" for n in range(2 * size.colds)]
    network.add({name: makes.spec(name) for name in names}, OWNER)
    network.add({name: makes.spec(name) for name in (WARM, *colds)}, OTHER)
    _first(network, WARM)
    before, during = Bystander(), Bystander()
    with _standing_by(network, colds[: size.colds], before, START_TIMEOUT_S):
        time.sleep(size.before_s)
    crowd = [
        Asked(
            network.connect(HOSTS[(i // size.services) % len(HOSTS)]),
            network.url(names[i % size.services]),
        )
        for i in range(size.requests)
    ]
    makes.begin()
    with _standing_by(network, colds[size.colds :], during, size.deadline_s):
        took_s = ask_at_once(crowd, size.deadline_s)
    starts = Counter({key: n for key, n in makes.starts().items() if key[0] in set(names)})
    return report(crowd, starts, took_s, before, during, runtime)


def _first(network: LabNetwork, name: str) -> None:
    """Have a service started; the definitions may be on their way still."""
    deadline = time.monotonic() + START_TIMEOUT_S
    said = "nothing"
    while time.monotonic() < deadline:
        asked = Asked(network.connect(HOSTS[0]), network.url(name))
        ask_at_once([asked], START_TIMEOUT_S)
        if asked.ok:
            return
        said = f"{asked.answer.status}: {asked.answer.text}" if asked.answer else said
        time.sleep(0.1)
    raise NetworkFailed(f"{name} was not started, the answer was {said}\n{network.log()}")


@contextmanager
def _standing_by(
    network: LabNetwork, colds: list[str], seen: Bystander, timeout_s: float
) -> Iterator[None]:
    """Have the bystander ask for the length of a block, and until its new ones are answered."""
    over = threading.Event()

    def ask_warm() -> None:
        while not over.wait(WARM_PAUSE_S):
            try:
                seen.warm_s.append(_ask(network, WARM, timeout_s))
            except (OSError, HTTPException):
                seen.failed += 1

    def ask_cold() -> None:
        for name in colds:
            try:
                seen.cold_s.append(_ask(network, name, timeout_s))
            except (OSError, HTTPException):
                seen.failed += 1

    threads = [threading.Thread(target=act) for act in (ask_warm, ask_cold)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        threads[1].join(timeout_s)
        over.set()
        for thread in threads:
            thread.join(timeout_s)


def _ask(network: LabNetwork, name: str, timeout_s: float) -> float:
    """Return the seconds until a request through the first host's proxy is answered 200."""
    with closing(HTTPConnection("127.0.0.1", PROXY_PORT)) as connection:
        connection.sock = network.connect(HOSTS[0])
        connection.sock.settimeout(timeout_s)
        began = time.perf_counter()
        connection.request("GET", f"/{name}/")
        with connection.getresponse() as answer:
            answer.read()
            if answer.status != OK:
                raise HTTPException(f"{name} was answered {answer.status}")
        return time.perf_counter() - began


def duplicates(starts: Mapping[tuple[str, str], int]) -> int:
    """Return the starts of a service on a host beyond one; none ends meanwhile, none is full."""
    return sum(number - 1 for number in starts.values())


def report(
    crowd: list[Asked],
    starts: Counter[tuple[str, str]],
    took_s: float,
    before: Bystander,
    during: Bystander,
    runtime: str,
) -> Report:
    """Return the figures of a flood that is over.

    Raises:
        NetworkFailed: no request was answered.
    """
    answered = [a.answer.first_byte_s for a in crowd if a.answer is not None and a.ok]
    if not answered:
        raise NetworkFailed(f"no request of the flood was answered: {_failures(crowd)}")
    figures: dict[str, Any] = {
        "requests": len(crowd),
        "services": len({a.url for a in crowd}),
        "runtime": runtime,
        "starts": starts.total(),
        "duplicate_starts": duplicates(starts),
        "failed": len(crowd) - len(answered),
        "failures": _failures(crowd),
        "p50_s": quantile(answered, 0.5),
        "p99_s": quantile(answered, 0.99),
        "took_s": took_s,
        "bystander_failed": before.failed + during.failed,
    }
    rows = [
        ["requests, for services", f"{len(crowd):,}, for {figures['services']}"],
        ["not answered 200", str(figures["failed"]) + _said(figures["failures"])],
        ["starts, on hosts", f"{figures['starts']}, on {len({host for _, host in starts})}"],
        ["starts of a service on a host beyond one", str(figures["duplicate_starts"])],
        ["to the first byte, s: p50", f"{figures['p50_s']:.2f}"],
        ["p99", f"{figures['p99_s']:.2f}"],
        ["all were answered, or it was over, after, s", f"{took_s:.1f}"],
    ]
    for what, seen in (("before", before), ("during", during)):
        warm = median(seen.warm_s) * 1000 if seen.warm_s else None
        cold = median(seen.cold_s) if seen.cold_s else None
        figures |= {f"bystander_warm_p50_ms_{what}": warm, f"bystander_cold_s_{what}": cold}
        rows.append([f"a bystander's warm request {what} the flood, ms", _shown(warm, 1)])
        rows.append([f"its cold request {what} the flood, s", _shown(cold, 2)])
    return Report(figures, table([f"a flood of cold requests, {runtime} runtime", ""], rows))


def _failures(crowd: list[Asked]) -> dict[str, int]:
    """Return how many were answered with which other status, or not at all."""
    return dict(
        Counter("none" if a.answer is None else str(a.answer.status) for a in crowd if not a.ok)
    )


def _said(failures: Mapping[str, int]) -> str:
    said = ", ".join(f"{number} × {status}" for status, number in sorted(failures.items()))
    return f" ({said})" if said else ""


def _shown(value: float | None, digits: int) -> str:
    return "not answered" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    run(
        "flood",
        "Many cold requests at once over four hosts.",
        measure,
        runtimes={"process": partial(measure, runtime="process")},
    )
