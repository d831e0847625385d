"""Five machines at two sites, and what becomes of their network: reboots, a cut cable, no founder.

The hosts are the host lab's, with a delay on every link; what is typed is what a person types on
each, and what starts at boot are the units that `myxo install` wrote, by their ExecStart lines. The
tests share one network, and each can be run alone: all hosts are on and see each other when it
begins.
"""

import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.netlab.hosts import Host
from bench.netlab.lab import Lab
from bench.netlab.testing import labs, within
from tests.template import start_inside

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(600)]

DELAYS_MS = {
    ("h1", "h2"): 5,
    ("h1", "h3"): 8,
    ("h2", "h3"): 6,
    ("h4", "h5"): 7,
    ("h1", "h4"): 40,
    ("h1", "h5"): 45,
    ("h2", "h4"): 50,
    ("h2", "h5"): 55,
    ("h3", "h4"): 60,
    ("h3", "h5"): 48,
}
"""One way: h1 to h3 are at one site, h4 and h5 at another."""

NEAR_MS = 30
"""The service's soft limit: within it are the hosts of a site, and none of the other."""

SERVER = f"exec {shlex.quote(sys.executable)} -u -c " + shlex.quote(
    "import os,socket,http.server as h\n"
    "class H(h.BaseHTTPRequestHandler):\n"
    "  protocol_version='HTTP/1.1'\n"
    "  def do_GET(self):\n"
    "    body=(socket.gethostname()+'\\n').encode()\n"
    "    self.send_response(200); self.send_header('Content-Length',str(len(body)))\n"
    "    self.end_headers(); self.wfile.write(body)\n"
    "  def log_message(self,*a): pass\n"
    "h.ThreadingHTTPServer(('127.0.0.1',int(os.environ['SERVICE_PORT'])),H).serve_forever()\n"
)
"""Answers with the name of the host that it runs on."""

URL = "http://127.0.0.1:4200/where/"

SEEN_TIMEOUT_S = 180.0
REFUSED = "it refuses this peer, which is banned"
"""What a daemon says that is not let in."""

ASKING_TIMEOUT_S = 30
"""For one of the requests that go on while something happens."""

GONE_TIMEOUT_S = 60.0
"""A machine that vanished is known to be dead 3 s later; the rest is for a busy machine's tests."""


def say(what: str, figure: object) -> None:
    """Tell what was measured; `pytest -rP` shows it."""
    sys.stdout.write(f"{what} {figure}\n")


@dataclass
class Machine:
    """A host, what starts there at boot, and what `myxo watch` has said there since."""

    host: Host
    watching: Path = Path()
    boots: int = 0

    @property
    def name(self) -> str:
        """Its name in the network and in the lab."""
        return self.host.name

    def myxo(self, *arguments: str) -> str:
        """Run `myxo` to its end; return what it printed."""
        return self.host.run(["myxo", *arguments]).stdout

    def status(self) -> dict[str, Any]:
        """Return what `myxo status` says."""
        found: dict[str, Any] = json.loads(self.myxo("status", "--json"))
        return found

    def peer_ids(self) -> dict[str, str]:
        """Return the peer id of each daemon by its role."""
        return {d["role"]: d["peer_id"] for d in self.status()["daemons"]}

    def curl(self) -> str:
        """Return which host answers here for the service."""
        return self.host.run(["curl", "-sS", "--fail", "-m", "20", URL]).stdout.strip()

    def install(self, *arguments: str) -> None:
        """Write units of what `myxo up` or `myxo join` runs."""
        state = self.host.environment["MYXO_STATE_DIR"]
        where = ["--root", str(self._root), "--state-dir", state]
        self.myxo("install", *arguments, "--runtime", "process", *where)

    def boot(self) -> None:
        """Start what starts when the machine does, each unit after those that it names."""
        for command, environment in self.units():
            self.host.start(command, environment=environment)
        self.watch()

    def units(self) -> list[tuple[list[str], dict[str, str]]]:
        """Return command and environment of each unit, in the order in which they start."""
        folder = self._root / "etc" / "systemd" / "system"
        units = [dict(_settings(path.read_text())) for path in folder.iterdir()]
        units.sort(key=lambda unit: len(unit["After"].split()))
        return [(shlex.split(u["ExecStart"]), _environment(u["EnvironmentFile"])) for u in units]

    def reboot(self) -> None:
        """Pull the plug, put it back, and let the machine boot."""
        self.host.reboot()
        self.boot()

    def watch(self) -> None:
        """Write down what `myxo watch` says, until the machine is switched off."""
        self.boots += 1
        self.watching = self.host.folder / f"watch-{self.boots}"
        with self.watching.open("wb") as output:
            self.host.launch(["myxo", "watch", "--json"], output)

    def changes(self) -> list[dict[str, Any]]:
        """Return the changes of peers' states that were seen here since it started."""
        lines = self.watching.read_text().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [change for change in found if "instance" not in change]

    def alive(self) -> dict[str, int]:
        """Return how many daemons of each other host are alive, as this one's `watch` has it."""
        states = {c["peer"]: c["state"] for c in self.changes()}
        hosts = {c["peer"]: c["host"] for c in self.changes() if c["host"]}
        return dict(Counter(hosts[p] for p, s in states.items() if s in {"alive", "suspect"}))

    @property
    def _root(self) -> Path:
        return self.host.folder / "root"


def _environment(file: str) -> dict[str, str]:
    return {n: shlex.split(value)[0] for n, value in _settings(Path(file).read_text())}


def _settings(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, is_one, value = line.partition("=")
        if is_one:
            yield name, value


@dataclass
class Five:
    """The network: `h1` founded it, the others joined by the line that was printed there."""

    lab: Lab
    machines: dict[str, Machine]
    join: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def but(self, *names: str) -> list[Machine]:
        """Return all machines except those named."""
        return [m for m in self.machines.values() if m.name not in names]

    def on_each(self, act: Callable[[Machine], Any], *but: str) -> dict[str, Any]:
        """Return what `act` returns for each machine except those named, all at once."""
        machines = self.but(*but)
        with ThreadPoolExecutor(len(machines)) as threads:
            return dict(zip((m.name for m in machines), threads.map(act, machines), strict=True))

    def whole(self) -> bool:
        """Whether every machine sees every other one's daemons."""
        return all(
            m.alive() == {o.name: DAEMONS[o.name] for o in self.but(m.name)} | own(m)
            for m in self.machines.values()
        )

    def await_whole(self) -> None:
        """Return when the network is complete in everybody's eyes."""
        within(SEEN_TIMEOUT_S, self.whole, lambda: {m.name: m.alive() for m in self.but()})

    def mend(self) -> None:
        """Switch on what is off, heal what is cut, and wait until everybody sees everybody."""
        self.lab.heal()
        for machine in self.machines.values():
            if not machine.host.is_on:
                machine.host.power_on()
                machine.boot()
        self.await_whole()


DAEMONS = {"h1": 4, "h2": 2, "h3": 2, "h4": 2, "h5": 2}
"""How many run on each: the founder's machine has the bootstrap node and the registry besides."""


def own(machine: Machine) -> dict[str, int]:
    """Return what a machine's `watch` says of its own host: it is one of its daemons that tells."""
    return {machine.name: DAEMONS[machine.name] - 1}


@pytest.fixture(scope="module")
def founded() -> Iterator[Five]:
    """Five hosts, the first by `myxo up`, two by `myxo join`, two by `myxo install join`."""
    with labs(start_inside) as make:
        lab = make(
            hosts=5,
            links=[{"between": pair, "delay_ms": ms} for pair, ms in DELAYS_MS.items()],
        )
        five = Five(lab, {host.name: Machine(host) for host in lab.hosts})
        up = five["h1"].host.start(["myxo", "up", "--runtime", "process"]).printed()
        five.join = shlex.split(next(line for line in up.splitlines() if "myxo join" in line))
        five.on_each(lambda m: _join(m, five.join), "h1")
        five["h1"].install("up")
        five["h1"].watch()
        _add_service(five)
        yield five


def _join(machine: Machine, line: list[str]) -> None:
    machine.install(*line[1:])
    if machine.name in {"h2", "h3"}:
        machine.host.start([*line, "--runtime", "process"])
        machine.watch()
    else:
        machine.boot()


def _add_service(five: Five) -> None:
    """Register, on the third host, a service that every host lets its owner run."""
    h3 = five["h3"]
    key = h3.myxo("key", "show").strip()
    five.on_each(lambda m: m.myxo("allow", key), "h3")
    conf = h3.host.folder / "where.json"
    conf.write_text(json.dumps({"NetworkSoftReq": {"RTT": NEAR_MS}}))
    h3.host.run(["registry-cli", "add", "--conf", str(conf), "--process", SERVER, "where"])


@pytest.fixture
def five(founded: Five) -> Five:
    """The network, complete."""
    founded.mend()
    return founded


@contextmanager
def asking(machine: Machine) -> Iterator[Counter[str]]:
    """Ask for the service by one curl after the other; how often which status came, at the end.

    The block begins once one was answered, and one that is asked after it is waited for.
    """
    log, stop = machine.host.folder / "asked", machine.host.folder / "asked-enough"
    stop.unlink(missing_ok=True)
    ask = f"curl -sS -m {ASKING_TIMEOUT_S} -o /dev/null -w '%{{http_code}}\\n' {URL}"
    loop = f"until [ -e {stop} ]; do {ask} || :; sleep 0.2; done; {ask} || :"
    seen: Counter[str] = Counter()
    with log.open("wb") as output:
        asks = machine.host.launch(["sh", "-c", loop], output)
        try:
            within(SEEN_TIMEOUT_S, lambda: log.stat().st_size > 0, "the first is not answered")
            yield seen
        finally:
            stop.touch()
            asks.wait(3 * ASKING_TIMEOUT_S)
    seen.update(log.read_text().splitlines())


def test_every_host_sees_five_and_knows_how_far_they_are_from_each_other(five: Five) -> None:
    for status in five.on_each(Machine.status).values():
        hosts = {p["host"] for p in [*status["peers"], *status["daemons"]]}
        assert hosts == set(five.machines)
    # What a busy machine takes to answer is part of an RTT, until it is less busy.
    within(SEEN_TIMEOUT_S, lambda: _is_right(_rtt(five)), lambda: _rtt(five))


def _rtt(five: Five) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(five["h3"].myxo("rtt", "h2", "h4", "--json"))
    return found


def _is_right(found: dict[str, Any]) -> bool:
    measured_s, estimated_s, error_s = (
        found[name] for name in ("measured_s", "estimated_s", "error_s")
    )
    if measured_s is None or estimated_s is None:
        return False
    assert measured_s >= 0.100, "none is quicker than the link"
    return bool(measured_s < 0.200 and abs(estimated_s - 0.100) < max(0.050, 3 * error_s))


def test_a_service_added_on_the_third_host_answers_everywhere_from_the_nearest(five: Five) -> None:
    sites = {"h1": "h1 h2 h3", "h2": "h1 h2 h3", "h3": "h3", "h4": "h4 h5", "h5": "h4 h5"}
    five.on_each(Machine.curl, "h1", "h2", "h5")
    five.on_each(lambda m: _await_answer_from(m, sites[m.name].split()))
    listed = five["h1"].status()["services"]
    assert [s["name"] for s in listed] == ["where"]


def _await_answer_from(machine: Machine, near: list[str]) -> None:
    answers: list[str] = []

    def near_one_answers() -> bool:
        answers.append(machine.curl())
        return answers[-1] in near

    within(SEEN_TIMEOUT_S, near_one_answers, lambda: (machine.name, near, answers))


def test_two_hosts_reboot_and_are_back_as_the_peers_that_they_were(five: Five) -> None:
    rebooted = ("h3", "h4")
    others = [m.name for m in five.but(*rebooted)]
    before = five.on_each(Machine.peer_ids, *others)
    five["h3"].curl()
    with asking(five["h2"]) as statuses:
        began = time.monotonic()
        for name in rebooted:
            five[name].host.reboot()
        five.on_each(Machine.boot, *others)
        say("booted_after_s", time.monotonic() - began)
        five.await_whole()
        say("whole_after_s", time.monotonic() - began)
    say("asked", dict(statuses))
    assert set(statuses) == {"200"}
    assert five.on_each(Machine.peer_ids, *others) == before
    assert set(five.on_each(Machine.curl).values()) <= set(five.machines)


def test_the_founder_reboots_while_the_others_go_on(five: Five) -> None:
    before = five["h1"].peer_ids()
    with asking(five["h2"]) as near, asking(five["h5"]) as far:
        five["h1"].reboot()
        five.await_whole()
    say("asked", [dict(near), dict(far)])
    assert set(near) == set(far) == {"200"}
    assert five["h1"].peer_ids() == before
    assert five["h1"].curl() in five.machines


def test_a_host_that_reboots_without_the_founder_finds_those_it_knew(five: Five) -> None:
    others = ("h3", "h4", "h5")
    five["h1"].host.power_off()
    _await_gone("h1", five.but("h1"))
    began = time.monotonic()
    five["h2"].host.reboot()
    five["h2"].host.start([*five.join, "--runtime", "process"])  # typed once more
    five["h2"].watch()
    say("booted_after_s", time.monotonic() - began)
    within(SEEN_TIMEOUT_S, lambda: set(others) <= set(five["h2"].alive()), five["h2"].alive)
    assert "h1" not in five["h2"].alive()
    assert five["h2"].curl() in {"h2", *others}
    say("answered_after_s", time.monotonic() - began)

    five["h1"].host.power_on()
    five["h1"].boot()
    five.await_whole()


def test_a_host_without_cable_is_missed_in_seconds_and_back_by_itself(five: Five) -> None:
    before = {d["role"]: d["pid"] for d in five["h5"].status()["daemons"]}
    with asking(five["h4"]) as near, asking(five["h1"]) as far:
        cut_at = time.time()
        five.lab.cut_host("h5")
        _await_gone("h5", five.but("h5"))
        say("gone_after_s", _last_gone(five, "h5") - cut_at)
        assert five["h5"].curl() == "h5", "alone, it serves itself"
        healed_at = time.time()
        five.lab.heal("h5")
        five.await_whole()
        say("back_after_s", time.time() - healed_at)
    say("asked", [dict(near), dict(far)])
    assert set(near) == set(far) == {"200"}
    assert {d["role"]: d["pid"] for d in five["h5"].status()["daemons"]} == before


def _await_gone(name: str, witnesses: list[Machine]) -> None:
    """Return when none of the witnesses lists any daemon of a host as alive."""
    within(
        GONE_TIMEOUT_S,
        lambda: all(name not in m.alive() for m in witnesses),
        lambda: {m.name: m.alive() for m in witnesses},
    )


def _last_gone(five: Five, name: str) -> float:
    """Return when the last of the others took in that the last of a host's daemons was dead."""
    peers = five[name].host.folder.joinpath("state", "epochs").iterdir()
    ids = {path.name for path in peers}
    return max(float(c["at"]) for m in five.but(name) for c in m.changes() if c["peer"] in ids)


def test_a_banned_host_stays_out_and_who_missed_the_new_passphrase_is_told(five: Five) -> None:
    """Comes last: it leaves one host out of the network."""
    left = {"h1": 4, "h2": 2, "h4": 2}
    five["h5"].curl()
    five["h3"].host.power_off()
    _await_gone("h3", five.but("h3"))
    with asking(five["h2"]) as near, asking(five["h4"]) as far:
        banned_at = time.time()
        five["h1"].myxo("ban", "h5")
        _await_gone("h5", five.but("h3", "h5"))
        say("gone_after_s", max(map(_last_change, five.but("h3", "h5"))) - banned_at)
        within(GONE_TIMEOUT_S, lambda: five["h5"].alive() == own(five["h5"]), five["h5"].alive)
        assert five["h5"].curl() == "h5", "it is alone"
        _await_refused(five["h5"])
        before, began = _kept_passphrase(five["h1"]), time.time()
        assert "changed: 8 of 10 peers" in five["h1"].myxo("psk", "rotate"), "two are off"
        say("rotated_after_s", time.time() - began)
        after = _kept_passphrase(five["h1"])
        assert after != before == _kept_passphrase(five["h3"])

        five["h3"].host.power_on()
        five["h3"].boot()
        within(
            SEEN_TIMEOUT_S,
            lambda: all(m.alive() == left | {"h3": 2} | own(m) for m in five.but("h5")),
            lambda: five.on_each(Machine.alive, "h5"),
        )
        within(SEEN_TIMEOUT_S, lambda: _kept_passphrase(five["h3"]) == after, lambda: before)
        _await_refused(five["h5"])
    say("asked", [dict(near), dict(far)])
    assert set(near) == set(far) == {"200"}
    assert all("h5" not in m.alive() for m in five.but("h5"))
    assert _kept_passphrase(five["h5"]) == before
    assert five["h3"].curl() in {"h1", "h2", "h3", "h4"}


def _await_refused(machine: Machine) -> None:
    """Reboot a machine; return when all that starts there was told that it is not let in."""
    machine.host.reboot()
    log = machine.host.folder / "refused"
    units = machine.units()
    with log.open("wb") as output:
        for command, environment in units:
            machine.host.launch(command, output, environment=environment)
    within(SEEN_TIMEOUT_S, lambda: log.read_text().count(REFUSED) >= len(units), log.read_text)
    answered = machine.host.run(["curl", "-sS", "-m", "5", URL], check=False)
    assert answered.stdout.strip() in {"", machine.name}, "nobody else's answer gets there"


def _kept_passphrase(machine: Machine) -> str:
    """Return the passphrase with which a machine starts."""
    return machine.units()[0][1]["P2P_PSK"]


def _last_change(machine: Machine) -> float:
    return max(float(change["at"]) for change in machine.changes())
