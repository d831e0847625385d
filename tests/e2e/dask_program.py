"""A user's program with a Dask cluster: what it does with it, its first argument says."""

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from myxo.dask import MyxoCluster

TIMEOUT_S = 90


def scaled(cluster: Any, client: Any) -> None:
    """Scale it up and down."""
    client.wait_for_workers(1, timeout=TIMEOUT_S)
    assert client.gather(client.map(lambda x: x * x, range(100))) == [x * x for x in range(100)]
    cluster.scale(2)
    client.wait_for_workers(2, timeout=TIMEOUT_S)
    first, second = client.run(os.getpid).values()
    assert len({first, second, os.getpid()}) == 3
    assert client.submit(sum, [1, 2, 3]).result(TIMEOUT_S) == 6
    cluster.scale(0)
    cluster.sync(cluster._correct_state)
    while client.nthreads():  # a worker that was told to end says so when it does
        pass


def hangs_once(began: str) -> int:
    """Return the process that computes this the second time; the first time there is no end."""
    file = Path(began)
    if not file.exists():
        fresh = file.with_suffix(".new")
        fresh.write_text(f"{os.getpid()} {os.getppid()}")
        fresh.replace(file)
        time.sleep(600)
    return os.getpid()


def lost(client: Any, began: Path, *, whole_instance: bool) -> None:
    """Kill the only worker at work, or its instance with it; what it was at is done by another."""
    doing = client.submit(hangs_once, str(began))
    while not began.exists():
        time.sleep(0.02)
    worker, instance = map(int, began.read_text().split())
    if whole_instance:
        os.kill(instance, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    assert doing.result(TIMEOUT_S) != worker
    assert list(client.run(os.getpid).values()) != [worker]


def main() -> None:
    with (
        MyxoCluster(n_workers=1, silence_logs=logging.CRITICAL) as cluster,
        cluster.get_client() as client,
    ):
        match sys.argv[1:]:
            case ["scaled"]:
                scaled(cluster, client)
            case ["lost", what, began]:
                lost(client, Path(began), whole_instance=what == "instance")
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
