"""Three machines with a Docker engine each: where a service starts, and what it lives through.

The hosts are the host lab's, with a delay on every link; h3 has no room for what the tests add. The
tests share the network, each adds a service of its own, and each can be run alone: all hosts are on
and see each other, over the links as they were at first, when it begins.
"""

import http.client
import json
import math
import shlex
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import docker
import pytest
import trio

from bench.netlab.hosts import Host
from bench.netlab.lab import Lab
from bench.netlab.testing import labs, within
from myxo.status import read_status
from tests.template import start_inside

pytestmark = [pytest.mark.netns, pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

DELAYS_MS = {("h1", "h2"): 20, ("h1", "h3"): 40, ("h2", "h3"): 5}
"""One way: h3 is near h2, and far from h1."""

SOFT_MS = 30
"""Within it are h2 and h3 for each other; nobody for h1."""

NEEDED_MIB, SMALL_MIB = 64, 32
"""What an instance needs, and what h3 has."""

DAEMONS = {
    "h1": {"bootstrap", "registry", "allocator", "proxy"},
    "h2": {"allocator", "proxy"},
    "h3": {"allocator", "proxy"},
}

IMAGE = "myxo-test-where:latest"
WHERE = "/cgi-bin/where"
HELD = "/cgi-bin/held"
ASKS = "/cgi-bin/asks"
GO = "/www/go"
SCRIPTS = {
    # With its length: what was broken off behind the last byte of a body without is no answer.
    "where": "#!/bin/sh\nsaid=$(hostname)\nprintf 'Content-Type: text/plain\\r\\n"
    "Content-Length: %d\\r\\n\\r\\n%s' ${#said} $said\n",
    "asks": "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'; "
    f"wget -qO- http://$PROXY_IP:$PROXY_PORT/$QUERY_STRING{WHERE}\n",
    "held": f"#!/bin/sh\nuntil [ -e {GO} ]; do sleep 0.1; done; exec /www/cgi-bin/where\n",
}
COMMAND = "trap 'exit 0' TERM; httpd -f -p $SERVICE_PORT -h /www & wait"

SEEN_TIMEOUT_S = 180.0
"""Far more than any of this takes; a machine that is busy with other things takes its time."""


@dataclass
class Machine:
    """A host, what runs on it from boot on, and its engine."""

    host: Host
    command: list[str]

    @property
    def name(self) -> str:
        """Its name in the network and in the lab."""
        return self.host.name

    def boot(self) -> None:
        """Start what starts when the machine does."""
        self.host.start(self.command)

    def daemons(self) -> list[dict[str, Any]]:
        """Return what its daemons say of themselves."""
        return trio.run(read_status, self.host.folder / "state")

    def daemon(self, role: str) -> dict[str, Any]:
        """Return what one of its daemons says of itself."""
        return next(d for d in self.daemons() if d["role"] == role)

    def sees(self) -> dict[str, set[str]]:
        """Return the roles that its proxy sees alive on each host, its own included."""
        found: dict[str, set[str]] = {self.name: {"proxy"}}
        for peer in self.daemon("proxy")["peers"]:
            if peer["state"] in {"alive", "here"}:
                found.setdefault(peer["host"], set()).add(peer["role"])
        return found

    def rtt_s(self, host: str) -> float:
        """Return how far its proxy measured another host's allocator to be."""
        found = [p for p in self.daemon("proxy")["peers"] if p["host"] == host]
        rtts = [p["measured_rtt_s"] for p in found if p["role"] == "allocator"]
        return math.inf if not rtts or rtts[0] is None else float(rtts[0])

    def knows(self, service: str) -> bool:
        """Whether its proxy knows of an instance of a service."""
        return any(i["service"] == service for i in self.daemon("proxy")["instances"])

    @contextmanager
    def engine(self) -> Iterator[docker.DockerClient]:
        """A client of its engine."""
        client = docker.DockerClient(base_url=self.host.environment["DOCKER_HOST"], timeout=60)
        try:
            yield client
        finally:
            client.close()

    def containers(self, service: str) -> list[str]:
        """Return the ids of the containers of a service that run here."""
        with self.engine() as engine:
            filters = {"label": f"myxo.service={service}"}
            found = engine.containers.list(filters=filters, ignore_removed=True)
            return sorted(container.id for container in found)

    def hostnames(self) -> set[str]:
        """Return what the containers that run here are called inside."""
        with self.engine() as engine:
            found = engine.containers.list(ignore_removed=True)
            return {container.attrs["Config"]["Hostname"] for container in found}

    def ask(self, service: str, path: str = WHERE) -> tuple[int, str]:
        """Return status and text of what this machine's proxy answers."""
        connection = http.client.HTTPConnection("127.0.0.1", 4200)
        connection.sock = self.host.inside(
            lambda: socket.create_connection(("127.0.0.1", 4200), SEEN_TIMEOUT_S)
        )
        try:
            connection.request("GET", f"/{service}{path}")
            answer = connection.getresponse()
            return answer.status, answer.read().decode().strip()
        finally:
            connection.close()


@dataclass
class Three:
    """The network; h1 founded it, the others joined by the line that was printed there."""

    lab: Lab
    machines: dict[str, Machine]

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def on(self) -> list[Machine]:
        """Return the machines that are on."""
        return [m for m in self.machines.values() if m.host.is_on]

    def add(self, service: str, **fields: Any) -> str:
        """Register a service on h1; return its name."""
        conf = self["h1"].host.folder / f"{service}.json"
        conf.write_text(json.dumps({"MemoryReq": NEEDED_MIB} | fields))
        add = ["registry-cli", "add", "--conf", str(conf), "--image", IMAGE, service]
        self["h1"].host.run(add)
        return service

    def add_near_h3(self, service: str, **fields: Any) -> str:
        """Register a service; once a request on h3 has it started on h2, everybody knows of it."""
        self.add(service, **fields)
        assert self.host_of(self["h3"].ask(service)) == "h2"
        within(SEEN_TIMEOUT_S, lambda: all(m.knows(service) for m in self.on()), self.report)
        return service

    def host_of(self, answer: tuple[int, str]) -> str | None:
        """Return the host whose instance gave an answer; None once the instance is gone."""
        status, text = answer
        assert status == http.HTTPStatus.OK, f"{status} {text}\n{self.report()}"
        return next((m.name for m in self.on() if text in m.hostnames()), None)

    def where(self, service: str) -> dict[str, int]:
        """Return how many instances of a service each host that is on runs."""
        counted = {m.name: len(m.containers(service)) for m in self.on()}
        return {name: count for name, count in counted.items() if count}

    def await_whole(self) -> None:
        """Return when the network is complete in every proxy's eyes."""
        within(
            SEEN_TIMEOUT_S,
            lambda: all(m.sees() == DAEMONS for m in self.machines.values()),
            self.report,
        )

    def await_distances(self) -> None:
        """Return when h3 is near h2, and far from h1, in its proxy's eyes."""
        h3 = self["h3"]
        within(
            SEEN_TIMEOUT_S,
            lambda: h3.rtt_s("h2") < SOFT_MS / 1000 < h3.rtt_s("h1"),
            self.report,
        )

    def mend(self) -> None:
        """Switch on what is off, and have all links as they were at first."""
        self.lab.heal()
        for (one, other), ms in DELAYS_MS.items():
            self.lab.link(one, other).set(delay_s=ms / 1000)
        for machine in self.machines.values():
            if not machine.host.is_on:
                machine.host.power_on()
                machine.boot()
        self.await_whole()
        self.await_distances()

    def report(self) -> str:
        """Return what each machine that is on says, for when a test fails."""
        said = []
        for machine in self.on():
            seen = [machine.host.run(["myxo", w], check=False) for w in ("status", "why")]
            log = max(machine.host.folder.glob("*-myxo.log"), key=lambda path: path.stat().st_mtime)
            tail = "\n".join(log.read_text().splitlines()[-20:])
            told = "\n".join(done.stdout + done.stderr for done in seen)
            said.append(f"--- {machine.name}\n{told}\n{tail}")
        return "\n".join(said)


@pytest.fixture(scope="module")
def founded(busybox_root: Callable[[Mapping[str, str]], bytes]) -> Iterator[Three]:
    """Three hosts with engines, the network on them, and the tests' image on the first."""
    with labs(start_inside) as make:
        lab = make(
            hosts=[{"name": name, "engine": True} for name in DAEMONS],
            links=[{"between": pair, "delay_ms": ms} for pair, ms in DELAYS_MS.items()],
        )
        h1, h2, h3 = lab.hosts
        up = ["myxo", "up", "--runtime", "docker"]
        printed = h1.start(up).printed()
        line = next(line for line in printed.splitlines() if "myxo join" in line)
        join = [*shlex.split(line), "--runtime", "docker"]
        small = [*join, f"--allocator-flag=--memory-mib={SMALL_MIB}"]
        machines = [Machine(h1, up), Machine(h2, join), Machine(h3, small)]
        three = Three(lab, {machine.name: machine for machine in machines})
        with ThreadPoolExecutor() as threads:
            list(threads.map(Machine.boot, machines[1:]))
        scripts = {f"www/cgi-bin/{name}": text for name, text in SCRIPTS.items()}
        _make_image(machines[0], busybox_root(scripts))
        yield three


def _make_image(machine: Machine, root: bytes) -> None:
    """Give one engine the image; the others get it from there."""
    with machine.engine() as engine:
        run = f"CMD {json.dumps(['/bin/sh', '-c', COMMAND])}"
        engine.api.import_image_from_data(root, repository=IMAGE, changes=[run])


@pytest.fixture
def three(founded: Three) -> Three:
    """The network, complete."""
    founded.mend()
    return founded


@dataclass
class Caller:
    """Asks for a service on one machine, one request after the other, until the block ends."""

    machine: Machine
    service: str
    three: Three
    answers: list[tuple[int, str]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Ask until told to stop."""
        while not self.stop.wait(0.02):
            try:
                self.answers.append(self.machine.ask(self.service))
            except (OSError, http.client.HTTPException) as exc:
                self.answers.append((0, repr(exc)))

    def await_answers_from(self, name: str) -> None:
        """Return when an instance on the host `name` has answered a request that began now."""
        began = len(self.answers) + 1  # one may be under way
        within(
            SEEN_TIMEOUT_S,
            lambda: any(self.three.host_of(a) == name for a in set(self.answers[began:])),
            lambda: f"{set(self.answers[began:])}\n{self.three.report()}",
        )

    def failed(self) -> set[tuple[int, str]]:
        """Return the answers that were none."""
        return {answer for answer in self.answers if answer[0] != http.HTTPStatus.OK}


@pytest.fixture
def calling(three: Three) -> Iterator[Callable[[str, str], Caller]]:
    """`calling("h3", service)` keeps asking there until the test is over."""
    callers: list[tuple[Caller, threading.Thread]] = []

    def start(name: str, service: str) -> Caller:
        caller = Caller(three[name], service, three)
        thread = threading.Thread(target=caller.run)
        thread.start()
        callers.append((caller, thread))
        return caller

    yield start
    for caller, thread in callers:
        caller.stop.set()
        thread.join()


def _holder(three: Three, service: str, but: str = "") -> Machine:
    """Return the machine on which a request for HELD is being served, once it is."""
    found: list[Machine] = []

    def serving() -> bool:
        found[:] = [m for m in three.on() if m.name != but and _holds(m, service)]
        return bool(found)

    within(SEEN_TIMEOUT_S, serving, three.report)
    return found[0]


def _holds(machine: Machine, service: str) -> bool:
    with machine.engine() as engine:
        running = [engine.containers.get(each).top() for each in machine.containers(service)]
    return any("held" in word for top in running for row in top["Processes"] for word in row)


def _let_go(machine: Machine, service: str) -> None:
    with machine.engine() as engine:
        for each in machine.containers(service):
            engine.containers.get(each).exec_run(["touch", GO])


def test_a_service_starts_on_the_nearest_host_with_room_which_fetches_its_image(
    three: Three,
) -> None:
    service = three.add("nearest", NetworkSoftReq={"RTT": SOFT_MS})
    assert three.where(service) == {}
    assert three.host_of(three["h3"].ask(service)) == "h2"
    assert three.where(service) == {"h2": 1}, "h3 has no room, and h1 is farther"
    (running,) = three["h2"].containers(service)
    with three["h1"].engine() as there, three["h2"].engine() as here:
        assert here.containers.get(running).image.id == there.images.get(IMAGE).id
    assert three.host_of(three["h1"].ask(service)) in {"h1", "h2"}
    assert three.host_of(three["h3"].ask(service)) == "h2"


def test_a_caller_that_is_farther_than_the_wish_gets_an_instance_of_its_own(three: Three) -> None:
    service = three.add_near_h3("wished", NetworkSoftReq={"RTT": SOFT_MS})
    within(SEEN_TIMEOUT_S, lambda: three.host_of(three["h1"].ask(service)) == "h1", three.report)
    assert three.where(service) == {"h1": 1, "h2": 1}
    assert three.host_of(three["h3"].ask(service)) == "h2"


def test_what_a_service_asks_for_is_bound_by_its_own_limits(three: Three) -> None:
    target = three.add_near_h3("asked-for")
    assert three.host_of(three["h1"].ask(target)) == "h2", "nothing binds a caller that is none"
    asking = three.add("asking", NetworkHardReq={"RTT": SOFT_MS})
    assert three.host_of(three["h1"].ask(asking, f"{ASKS}?{target}")) == "h1"
    assert three.where(asking) == {"h1": 1}
    assert three.where(target) == {"h1": 1, "h2": 1}, "h2 is farther than the asking one may ask"


def test_requests_in_flight_on_a_host_that_dies_are_answered_elsewhere(three: Three) -> None:
    service = three.add_near_h3("killed")
    with ThreadPoolExecutor(2) as threads:
        callers = [threads.submit(three[name].ask, service, HELD) for name in ("h1", "h3")]
        assert _holder(three, service).name == "h2"
        three["h2"].host.power_off()
        _let_go(_holder(three, service), service)
        answers = [caller.result(SEEN_TIMEOUT_S) for caller in callers]
    assert {three.host_of(answer) for answer in answers} == {"h1"}
    assert three.where(service) == {"h1": 1}, "both share one start"


def test_each_side_of_a_cut_link_is_served_on_its_side(
    three: Three, calling: Callable[[str, str], Caller]
) -> None:
    service = three.add_near_h3("split")
    alone, pair = calling("h1", service), calling("h3", service)
    alone.await_answers_from("h2")
    three.lab.partition(["h1"], ["h2", "h3"])
    alone.await_answers_from("h1")
    pair.await_answers_from("h2")
    assert three.where(service) == {"h1": 1, "h2": 1}
    three.lab.heal()
    three.await_whole()
    assert alone.failed() == pair.failed() == set(), three.report()


def test_an_allocator_that_is_killed_adopts_its_containers_and_touches_no_others(
    three: Three, calling: Callable[[str, str], Caller]
) -> None:
    service, h2 = three.add_near_h3("adopted"), three["h2"]
    before, pid = h2.containers(service), h2.daemon("allocator")["pid"]
    with h2.engine() as engine:
        image = engine.containers.get(before[0]).image.id
        other = engine.containers.run(image, ["sleep", "1000"], detach=True)
        near, far = calling("h2", service), calling("h3", service)
        far.await_answers_from("h2")
        h2.host.run(["kill", "-9", str(pid)])
        within(SEEN_TIMEOUT_S, lambda: _pid(h2) != pid and _owns(h2, service), three.report)
        near.await_answers_from("h2")
        far.await_answers_from("h2")
        assert h2.containers(service) == before
        other.reload()
        assert other.status == "running"
        other.remove(force=True)
    assert near.failed() == far.failed() == set(), three.report()


def _pid(machine: Machine) -> int | None:
    return next((d["pid"] for d in machine.daemons() if d["role"] == "allocator"), None)


def _owns(machine: Machine, service: str) -> bool:
    allocators = [d for d in machine.daemons() if d["role"] == "allocator"]
    return any(i["service"] == service for d in allocators for i in d.get("own_instances", []))


def test_traffic_follows_a_client_that_moves_without_a_failed_request(
    three: Three, calling: Callable[[str, str], Caller]
) -> None:
    service = three.add_near_h3("moving", NetworkSoftReq={"RTT": SOFT_MS})
    caller = calling("h3", service)
    caller.await_answers_from("h2")
    three.lab.link("h3", "h2").set(delay_s=0.06)
    three.lab.link("h3", "h1").set(delay_s=0.002)
    caller.await_answers_from("h1")
    assert caller.failed() == set(), three.report()
