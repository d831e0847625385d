"""Large bodies from one machine to another: the memory that proxy and gateway take for them."""

import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import trio

from bench.client import AnswerFailed
from bench.machine import clear_peak, peak_mib
from bench.native import compiled
from bench.network import network
from bench.proxy_bodies import MIB, STREAM_BYTES, STREAM_QUICK_BYTES
from bench.proxy_two_hosts import PROXY_PORT, await_answer, run_proxy
from bench.stats import table
from bench.veth import Machine, two_machines

SERVICE = "far-bodies"


def measure(*, quick: bool) -> tuple[dict[str, Any], str]:
    """Return figures and a table.

    Args:
        quick: smaller bodies.

    Raises:
        LabFailed, NetworkFailed, AnswerFailed: it could not be measured.
    """
    size = STREAM_QUICK_BYTES if quick else STREAM_BYTES
    with ExitStack() as stack:
        server, client = stack.enter_context(two_machines())
        founded = stack.enter_context(
            network("process", inside=server.inside, address=server.address)
        )
        command = f"exec {compiled('bodies')} $SERVICE_PORT"
        founded.registry_cli("add", "--process", command, SERVICE)
        proxy = stack.enter_context(run_proxy(founded, client))
        url = f"http://127.0.0.1:{PROXY_PORT}/{SERVICE}/"
        await_answer(client, f"{url}0")
        pids = {"proxy": proxy, "gateway": trio.run(founded.processes)["allocator"]}
        whole = founded.folder / "whole"
        with whole.open("wb") as file:
            file.truncate(size)  # takes no room on the disk
        down = _grown(pids, lambda: _curl(client, f"{url}{size}", size))
        up = _grown(pids, lambda: _curl(client, f"{url}0", 0, whole))
    figures = {"far_body_mib": size / MIB}
    figures |= {f"far_{part}_growth_down_mib": grown for part, grown in down.items()}
    figures |= {f"far_{part}_growth_up_mib": grown for part, grown in up.items()}
    columns = [f"a body of {size // MIB} MiB between machines: memory grew by, MiB", "down", "up"]
    rows = [[part, f"{down[part]:.1f}", f"{up[part]:.1f}"] for part in pids]
    return figures, table(columns, rows)


def _grown(pids: Mapping[str, int], act: Any) -> dict[str, float]:
    """Return by how much the resident memory of each process grew at the most."""
    for pid in pids.values():
        clear_peak(pid)
    before = {part: peak_mib(pid) for part, pid in pids.items()}
    act()
    return {part: peak_mib(pid) - before[part] for part, pid in pids.items()}


def _curl(client: Machine, url: str, size: int, upload: Path | None = None) -> None:
    """Ask on the client's machine, and check that a body of `size` bytes came.

    Raises:
        AnswerFailed: another one did.
    """
    what = [] if upload is None else ["-X", "POST", "-H", "Expect:", "-T", str(upload)]
    told = ["-o", "/dev/null", "-w", "%{http_code} %{size_download}", "-m", "900"]
    done = subprocess.run(
        [*client.inside, "curl", "-sS", *told, *what, url],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.stdout != f"200 {size}":
        raise AnswerFailed(f"{url} was answered {done.stdout!r}: {done.stderr}")
