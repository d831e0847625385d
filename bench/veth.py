"""Two machines made of namespaces, with nothing but a pair of virtual cables between them."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.errors import NetworkFailed
from bench.netlab.lab import need_root

_NETWORK = "10.99.77"


@dataclass(frozen=True, slots=True)
class Machine:
    """A namespace with an address; `inside` comes before a command that is to run there."""

    namespace: str
    address: str

    @property
    def inside(self) -> tuple[str, ...]:
        """The command that runs another one there."""
        return ("ip", "netns", "exec", self.namespace)


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Make two machines for the length of a block.

    Raises:
        LabFailed, NetworkFailed: they cannot be made.
    """
    need_root()
    one, other = (
        Machine(f"mxveth{os.getpid()}-{number}", f"{_NETWORK}.{number}") for number in (1, 2)
    )
    try:
        for machine in (one, other):
            do("ip", "netns", "add", machine.namespace)
        ends = ["eth0", "netns", one.namespace, "type", "veth", "peer", "name", "eth0"]
        do("ip", "link", "add", *ends, "netns", other.namespace)
        for machine in (one, other):
            within = ("ip", "-n", machine.namespace)
            do(*within, "addr", "add", f"{machine.address}/24", "dev", "eth0")
            do(*within, "link", "set", "eth0", "up")
            do(*within, "link", "set", "lo", "up")
        yield one, other
    finally:
        for machine in (one, other):
            subprocess.run(
                ["ip", "netns", "delete", machine.namespace], check=False, capture_output=True
            )


def do(*command: str) -> None:
    """Run a command.

    Raises:
        NetworkFailed: with what it said, if it failed.
    """
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode:
        raise NetworkFailed(f"{' '.join(command)}: {done.stderr.strip()}")
