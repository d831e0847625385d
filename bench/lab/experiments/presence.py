"""Whether a daemon of experiments that sends the load itself runs with a state directory.

It is in no network where it could be seen, so it leaves word in its lock file, for the API.
"""

import json
import os
from pathlib import Path

import psutil

LOCK = "experimentd.lock"

_MOST_BYTES = 4096

_DRIFT_S = 5.0
"""Of when a process began: it is told from the clock's time of the boot, which is adjusted."""


def leave_word(fd: int, host: str) -> None:
    """Write down that this process is a load host of this name; none if it is empty."""
    word = {"host": host, "pid": os.getpid(), "began": psutil.Process().create_time()}
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(word).encode() if host else b"", 0)


def standalone_host(state_dir: Path) -> str | None:
    """Return the name of the load host that such a daemon is; None if none runs."""
    try:
        with (state_dir / LOCK).open("rb") as file:
            word = json.loads(file.read(_MOST_BYTES))
        began = psutil.Process(word["pid"]).create_time()
        runs = abs(began - word["began"]) < _DRIFT_S
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):  # no word, or of nobody
        return None
    return str(word["host"]) if runs else None
