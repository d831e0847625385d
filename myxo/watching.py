"""`myxo watch`: the changes that one daemon of this machine sees, as they come."""

import json
import time
from pathlib import Path
from typing import Any

from myxo.status import NothingRuns, control_sockets
from overlay.control import open_control
from overlay.errors import PeerUnreachable


async def print_changes(state_dir: Path, as_json: bool) -> None:
    """Print a line for each change until the daemon stops.

    Raises:
        NothingRuns: no daemon of this state directory answers.
    """
    for path in control_sockets(state_dir):
        try:
            async with open_control(path, "watch") as connection:
                while (line := await connection.receive()) is not None:
                    print(line.decode() if as_json else _as_text(json.loads(line)), flush=True)  # noqa: T201
                return
        except PeerUnreachable:
            continue
    raise NothingRuns(f"no daemon runs here (looked in {state_dir / 'run'})")


def _as_text(change: dict[str, Any]) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(change["at"]))
    what = f"{change['service']} {change['instance']} " if "service" in change else ""
    if not what and "instance" in change:
        what = f"{change['instance']} "
    return f"{at} {change['host'] or change['peer']} {what}{change['state']}"
