"""What a connection costs that a client keeps and does not use."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from bench.machine import memory_mib, open_many_files
from bench.open_load import idle_connections
from bench.proxy_rates import Target
from bench.stats import table

CONNECTIONS, CONNECTIONS_QUICK = 10_000, 1_000
BEFORE = 100
"""Opened and closed again first, so that what is made once does not count."""


def measure(targets: Mapping[str, Target], *, quick: bool) -> tuple[dict[str, Any], str]:
    """Return figures and a table.

    Args:
        targets: by hop, those with a process.
        quick: fewer connections.

    Raises:
        AnswerFailed: a hop refuses one.
    """
    open_many_files()
    count = CONNECTIONS_QUICK if quick else CONNECTIONS
    bytes_each = {
        hop: _growth(target.url, target.pid, count) / count
        for hop, target in targets.items()
        if target.pid is not None
    }
    figures = {
        "idle_connection_bytes": bytes_each["myxo"],
        "idle_connection_bytes_by_hop": bytes_each,
        "idle_connections": count,
    }
    rows = [[hop, f"{each:,.0f}"] for hop, each in bytes_each.items()]
    return figures, table([f"{count:,} idle connections", "bytes each"], rows)


def _growth(url: str, pid: int, count: int) -> float:
    """Return the bytes that a process holds more while so many connections are open."""
    for sock in idle_connections(url, BEFORE):
        sock.close()
    before = memory_mib(pid)["pss"]
    with ExitStack() as stack:
        for sock in idle_connections(url, count):
            stack.enter_context(sock)
        return (memory_mib(pid)["pss"] - before) * 1024**2
