"""Where Myxo's map runs: on a network founded here, or on one that is joined."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import NetworkFailed
from bench.network import CHECKOUT, PROXY_READY_S, environment, network
from overlay.notify import listening
from overlay.testing_ports import free_port

CORE_MILLICORES = 1000


@contextmanager
def founded(workers: int) -> Iterator[dict[str, str]]:
    """Found a network with room for so many workers; yield the environment of a program there.

    Raises:
        NetworkFailed: it did not get ready.
    """
    # Room beyond this machine's processors where workers wait more than they compute.
    room = max(workers, len(os.sched_getaffinity(0))) * CORE_MILLICORES
    flags = ["--allocator-flag", f"--cpu-millicores={room}"]
    with network("process", *flags) as running:
        where = {"MYXO_PROXY": f"127.0.0.1:{running.proxy_port}"}
        yield environment(running.folder) | where


@contextmanager
def joined(bootstrap: str) -> Iterator[dict[str, str]]:
    """Join a network as the user who runs this; yield the environment of a program there.

    The passphrase is that of `MYXO_PSK` or `P2P_PSK`; machines must let this user's key run code.

    Raises:
        NetworkFailed: the proxy did not get ready.
    """
    with tempfile.TemporaryDirectory(prefix="myxo-bench-") as name:
        folder, port = Path(name), free_port()
        user = os.environ | {"MYXO_STATE_DIR": str(folder / "state")}
        command = [sys.executable, "-m", "myxo", "proxy", "--bootstrap", bootstrap, "--ephemeral"]
        command += ["--p2p-listen-addr", f":{free_port()}"]
        command += ["--prom-listen-addr", f"127.0.0.1:{free_port()}", str(port)]
        log = folder / "proxy.log"
        with listening(folder / "ready") as ready, log.open("wb") as output:
            proxy = subprocess.Popen(
                command, env=user | ready.environment, cwd=CHECKOUT, stdout=output, stderr=output
            )
            try:
                if not ready.wait(proxy, PROXY_READY_S):
                    raise NetworkFailed(f"`{' '.join(command)}` did not join:\n{log.read_text()}")
                yield user | {"MYXO_PROXY": f"127.0.0.1:{port}", "MYXO_BOOTSTRAPS": bootstrap}
            finally:
                proxy.terminate()
                proxy.wait()
