"""Whether a program runs inside a map's worker."""

import os

IN_WORKER = "MYXO_IN_MAP_WORKER"
"""Set in the environment of workers' processes, and so of what these start."""


def is_in_worker() -> bool:
    """Whether this is a worker's process, or one that it started."""
    return IN_WORKER in os.environ
