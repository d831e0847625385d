"""What tests of several hosts do alike: join, and ask for the status."""

import json
import shlex
from typing import Any


def join_line(printed: str) -> list[str]:
    """Return the command by which `myxo up` says that others join."""
    return shlex.split(next(line for line in printed.splitlines() if "myxo join" in line))


def status(host: Any) -> dict[str, Any]:
    """Return what `myxo status` says on a host."""
    found: dict[str, Any] = json.loads(host.run("myxo", "status", "--json"))
    return found
