"""The daemons and their tools as sub-commands of `myxo`: where the code of each is."""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from overlay.cli import run_app

DAEMONS = {
    "bootstrap": ("bootstrap.cli", "app"),
    "ping-monitor": ("bootstrap.cli", "app"),
    "allocator": ("allocator.cli", "app"),
    "registry-service": ("registry.cli", "service_app"),
    "registry-cli": ("registry.cli", "cli_app"),
    "proxy": ("proxy.cli", "app"),
}
"""Module and typer application of each command; loaded only when asked for, as each brings
libraries that the others do not need."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon to run.

    Attributes:
        name: the command, a sub-command of `myxo`.
        arguments: its flags.
        environment: added to this process's; holds what must not be seen in a process list.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def run_command(name: str, arguments: Sequence[str]) -> None:
    """Run the command `name` of `DAEMONS` on `arguments`; ends with SystemExit."""
    module, attribute = DAEMONS[name]
    run_app(getattr(importlib.import_module(module), attribute), f"myxo {name}", arguments)


def load(names: Iterable[str]) -> None:
    """Import all that the daemons `names` import once they run."""
    for name in names:
        package = DAEMONS[name][0].partition(".")[0]
        importlib.import_module(f"{package}.cli")
        importlib.import_module(f"{package}.service")
