"""What is written down of a lab, so that other processes find it: `lab.json` in its folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.netlab.namespaces import Namespaces
from bench.netlab.plan import HostPlan, Nat, Plan
from bench.netlab.processes import ProcessId

Held = Mapping[str, Sequence[Namespaces]]
"""The namespaces of each host that is on, and of its home router, by the host's name."""

_FILE = "lab.json"


@dataclass(frozen=True, slots=True)
class LabState:
    """A lab as it was when something last changed.

    Attributes:
        plan: without its links, which the router knows.
    """

    plan: Plan
    router: ProcessId
    held: Held


def write(folder: Path, plan: Plan, router: ProcessId, held: Held) -> None:
    """Write it down in `folder`; a reader sees the old or the new, and nothing between."""
    written = {
        "hosts": [asdict(host) for host in plan.hosts],
        "prefix": plan.prefix,
        "mtu": plan.mtu,
        "seed": plan.seed,
        "router": asdict(router),
        "held": {name: [asdict(n.holder) for n in each] for name, each in held.items()},
    }
    new = folder / f"{_FILE}.new"
    new.write_text(json.dumps(written))
    new.replace(folder / _FILE)


def read(folder: Path) -> LabState | None:
    """Return what was written in `folder`; None if there is nothing."""
    try:
        written = json.loads((folder / _FILE).read_text())
    except (OSError, ValueError):
        return None
    hosts = tuple(HostPlan(**host | {"nat": Nat(host["nat"])}) for host in written["hosts"])
    held = {
        name: [Namespaces(ProcessId(**holder)) for holder in each]
        for name, each in written["held"].items()
    }
    plan = Plan(hosts, {}, written["prefix"], written["mtu"], written["seed"])
    return LabState(plan, ProcessId(**written["router"]), held)
