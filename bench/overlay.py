"""How soon a network of eight hosts knows what happens in it, beside Serf on the same lab.

- `crash`: a host's link is cut. From the cut to each survivor's own change of its state to dead:
  the first survivor, and the last. Both systems have their defaults for a LAN.
- `join`: a peer whose program is loaded is told to join. Until every other one knows it.
- `ready`: an instance is published as ready. Until it is in the view of each other host.
- `false deaths`: of Myxo only. Ten minutes in which 5 % of all packets are lost, one peer runs a
  fifth of the time only, and one link is slow; nobody dies.

On the host lab twice: on links without delay, and on links of 5 to 150 ms that lose 2 %.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.command import Report, run
from bench.contenders import Contender, MyxoPeers, Running, SerfAgents, changes, forget_seen
from bench.errors import NetworkFailed
from bench.netlab.errors import LabFailed
from bench.netlab.lab import Lab, open_lab
from bench.netlab.plan import make_plan
from bench.netlab.presets import Preset
from bench.stats import quantile, spread, table

HOSTS = 8
TRIALS, TRIALS_QUICK = 10, 2
PUBLICATIONS, PUBLICATIONS_QUICK = 100, 15
CALM_S, CALM_QUICK_S = 600.0, 10.0
KNOWN_TIMEOUT_S = 30.0
REST_S = 2.0
MEMBERS = (1000, 4000)
LABS = {"": Preset.NONE, "_wan": Preset.WAN}
"""By the suffix of the figures."""

STOPPED_S, RUNS_S = 0.4, 0.1
"""How the starved peer lives: a fifth of the time."""


@dataclass(slots=True)
class Figures:
    """Seconds, one a trial; of `ready` one a publication and observer."""

    crash_first: list[float] = field(default_factory=list)
    crash_all: list[float] = field(default_factory=list)
    join_all: list[float] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)
    bytes_per_peer_s: float = 0.0
    cpu_per_peer: float = 0.0


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        NetworkFailed: it could not be measured.
    """
    try:
        found = {
            suffix: {make.__name__: _contend(make(), preset, quick) for make in _CONTENDERS}
            for suffix, preset in LABS.items()
        }
        false_deaths, calm_s = _false_deaths(quick)
        members = [_members(number) for number in MEMBERS]
    except LabFailed as exc:
        raise NetworkFailed(str(exc)) from exc
    return _report(found, members, false_deaths, calm_s)


_CONTENDERS: tuple[Callable[[], Contender], ...] = (MyxoPeers, SerfAgents)


class Network:
    """A contender's peers on all hosts of a lab."""

    def __init__(self, lab: Lab, contender: Contender) -> None:
        self.lab = lab
        self.contender = contender
        self.peers: dict[str, Running] = {}
        self.joins: list[float] = []

    def grow(self) -> None:
        """Start a peer on each host; the last one's joining is timed."""
        for host in self.lab.hosts:
            self.add(host.name)

    def add(self, name: str) -> None:
        """Have a host's peer join, and wait until everybody knows everybody."""
        peer = self.contender.start(self.lab.host(name))
        through = next(iter(self.peers.values()), None)
        before = set(self.peers)
        began = self.contender.join(peer, through)
        self.peers[name] = peer
        missing = {(by, name) for by in before} | {(name, other) for other in before}
        joined = 0.0
        for seen in changes(self.contender, KNOWN_TIMEOUT_S if missing else 0.0):
            if seen.state == "alive" and not seen.instance:
                if (seen.by, seen.host) in missing and seen.host == name:
                    joined = max(joined, seen.at - began)
                missing.discard((seen.by, seen.host))
            if not missing:
                break
        if missing:
            raise NetworkFailed(f"{self.contender.name}: not known in time: {sorted(missing)}")
        if len(self.peers) == len(self.lab.hosts):
            self.joins.append(joined)

    def cut(self, name: str) -> tuple[float, float]:
        """Cut a host's link; return when the first and when the last survivor held it for dead.

        Its peer is ended and started anew afterwards.
        """
        forget_seen(self.contender)
        survivors = set(self.peers) - {name}
        began = time.time()
        self.lab.cut_host(name)
        known: dict[str, float] = {}
        for seen in changes(self.contender, KNOWN_TIMEOUT_S):
            if seen.host == name and seen.by in survivors and seen.state == "dead":
                known.setdefault(seen.by, seen.at - began)
            if known.keys() == survivors:
                break
        self.peers.pop(name).end()
        self.lab.heal(name)
        if known.keys() != survivors:
            raise NetworkFailed(f"{self.contender.name}: {name} is not dead to all in time")
        time.sleep(REST_S)  # so that gossip about the death does not meet the return
        forget_seen(self.contender)
        self.add(name)
        return min(known.values()), max(known.values())

    def end(self) -> None:
        """End all peers."""
        for peer in self.peers.values():
            peer.end()


@contextmanager
def grown(contender: Contender, preset: Preset, seed: int, hosts: int = HOSTS) -> Iterator[Network]:
    """Yield a network of `hosts` peers that all know each other; it ends with the block."""
    with open_lab(make_plan(hosts=hosts, preset=preset, seed=seed)) as lab:
        network = Network(lab, contender)
        try:
            network.grow()
            yield network
        finally:
            network.end()


def _contend(contender: Contender, preset: Preset, quick: bool) -> Figures:
    figures = Figures()
    with grown(contender, preset, seed=1) as network:
        names = [host.name for host in network.lab.hosts]
        for trial in range(TRIALS_QUICK if quick else TRIALS):
            victim = names[1 + trial % (len(names) - 1)]  # the first is whom the others join by
            first, everybody = network.cut(victim)
            figures.crash_first.append(first)
            figures.crash_all.append(everybody)
        figures.join_all = network.joins
        _at_rest(network, figures, 5.0 if quick else 20.0)
        if isinstance(contender, MyxoPeers):
            for number in range(PUBLICATIONS_QUICK if quick else PUBLICATIONS):
                figures.ready += _ready(network, contender, names[number % len(names)], number)
    return figures


def _at_rest(network: Network, figures: Figures, seconds: float) -> None:
    """Measure what a peer sends and computes when nothing happens."""
    before, cpu = _sent(network), _cpu_s(network)
    time.sleep(seconds)
    each = seconds * len(network.peers)
    figures.bytes_per_peer_s = (_sent(network) - before) / each
    figures.cpu_per_peer = (_cpu_s(network) - cpu) / each


def _sent(network: Network) -> int:
    names = list(network.peers)
    links = [network.lab.link(a, b) for a in names for b in names if a != b]
    return sum(link.counters().octets for link in links)


def _cpu_s(network: Network) -> float:
    ticks = 0
    for peer in network.peers.values():
        with open(f"/proc/{peer.process.pid}/stat") as stat:  # noqa: PTH123
            fields = stat.read().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / 100


def _ready(network: Network, peers: MyxoPeers, name: str, number: int) -> list[float]:
    forget_seen(peers)
    instance = f"i{number}"
    began = peers.publish(network.peers[name], instance)
    others = set(network.peers) - {name}
    known: dict[str, float] = {}
    for seen in changes(peers, KNOWN_TIMEOUT_S):
        if seen.instance == instance and seen.by in others:
            known.setdefault(seen.by, seen.at - began)
        if known.keys() == others:
            break
    if known.keys() != others:
        raise NetworkFailed(f"{instance} of {name} is not in the view of {others - known.keys()}")
    peers.withdraw(network.peers[name], instance)
    return list(known.values())


def _false_deaths(quick: bool) -> tuple[int, float]:
    """Return how many deaths were seen in a time in which nobody died, and that time."""
    peers = MyxoPeers()
    seconds = CALM_QUICK_S if quick else CALM_S
    with grown(peers, Preset.LAN, seed=2) as network:
        names = [host.name for host in network.lab.hosts]
        for a in names:
            for b in names:
                if a < b:
                    network.lab.link(a, b).set(loss=0.05)
        network.lab.link(names[1], names[2]).set(delay_s=0.3, jitter_s=0.1)
        forget_seen(peers)
        starved = network.peers[names[-1]].process
        ends = time.monotonic() + seconds
        deaths = 0
        while time.monotonic() < ends:
            starved.send_signal(signal.SIGSTOP)
            time.sleep(STOPPED_S)
            starved.send_signal(signal.SIGCONT)
            time.sleep(RUNS_S)
            deaths += sum(seen.state == "dead" for seen in forget_seen(peers))
    return deaths, seconds


def _members(number: int) -> dict[str, float]:
    """Return what so many members cost a daemon, measured in a process of its own."""
    command = [sys.executable, "-m", "bench.overlay_members", str(number)]
    done = subprocess.run(command, check=True, capture_output=True)
    return dict(json.loads(done.stdout))


def _report(
    found: dict[str, dict[str, Figures]],
    members: list[dict[str, float]],
    false_deaths: int,
    calm_s: float,
) -> Report:
    figures: dict[str, Any] = {"false_deaths": false_deaths, "calm_s": calm_s}
    rows = []
    for suffix, both in found.items():
        ours, serf = both[MyxoPeers.__name__], both[SerfAgents.__name__]
        lab = "no delay" if not suffix else "5–150 ms, 2 % loss"
        for name in ("crash_first", "crash_all", "join_all"):
            mine, theirs = getattr(ours, name), getattr(serf, name)
            ratio = median(mine) / median(theirs)
            figures[f"{name}_s{suffix}"] = median(mine)
            figures[f"{name}_serf_s{suffix}"] = median(theirs)
            figures[f"{name}_ratio_serf{suffix}"] = ratio
            cells = [spread(mine).text(2), spread(theirs).text(2), f"{ratio:.2f}"]
            rows.append([f"{name.replace('_', ', ')}, s; {lab}", *cells])
        for p, key in ((0.5, "p50"), (0.99, "p99")):
            figures[f"ready_to_all_views_{key}_s{suffix}"] = quantile(ours.ready, p)
            rows.append(
                [f"ready in a view, {key}, s; {lab}", f"{quantile(ours.ready, p):.3f}", "", ""]
            )
        for key, digits in (("bytes_per_peer_s", 0), ("cpu_per_peer", 4)):
            mine, theirs = getattr(ours, key), getattr(serf, key)
            figures[f"{key}{suffix}"], figures[f"{key}_serf{suffix}"] = mine, theirs
            rows.append(
                [
                    f"{key.replace('_', ' ')}; {lab}",
                    f"{mine:,.{digits}f}",
                    f"{theirs:,.{digits}f}",
                    "",
                ]
            )
    rows.append([f"false deaths in {calm_s:.0f} s", str(false_deaths), "", ""])
    for each in members:
        key = f"memory_mib_{each['members']}_members"
        figures[key] = each["memory_mib"]
        rows.append([f"MiB with {each['members']:,} members", f"{each['memory_mib']:.1f}", "", ""])
    return Report(figures, table(["median (range)", "Myxo", "Serf", "ratio"], rows))


if __name__ == "__main__":
    run("overlay", __doc__.splitlines()[0], measure)
