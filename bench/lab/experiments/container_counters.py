"""What the machine's Docker engine says of each instance that runs in a container of Myxo's."""

from collections.abc import Mapping
from typing import Any

import docker
from docker.errors import APIError, DockerException

from allocator.engine.client import CUT, open_client
from allocator.engine.containers import LABEL, MIB, memory_of
from allocator.errors import RuntimeDown
from bench.lab.experiments.telemetry import Reading, What

MAX_CONTAINERS = 64
"""That are asked about: each takes the engine some milliseconds."""

_FILTERS = {"label": [f"{LABEL}instance"], "status": ["running", "paused"]}


class ContainerCounters:
    """Reads the engine, which may come and go; nothing is said while none answers."""

    def __init__(self) -> None:
        self._client: docker.APIClient | None = None

    def read(self) -> Reading:
        """Return what is so now; blocks."""
        try:
            self._client = self._client or open_client()
            return self._read(self._client)
        except (DockerException, RuntimeDown, *CUT):
            self.close()
            return Reading()

    def _read(self, client: docker.APIClient) -> Reading:
        gauges: dict[What, float] = {}
        counters: dict[What, float] = {}
        rows = client.containers(filters=_FILTERS)
        gauges["containers", ""] = len(rows)
        for row in rows[:MAX_CONTAINERS]:
            try:
                stats = client.stats(row["Id"], stream=False, one_shot=True)
            except APIError:  # it has ended in between
                continue
            labels = row["Labels"]
            name = f"{labels.get(LABEL + 'service', '')}/{labels[LABEL + 'instance']}"
            gauges |= _gauges(name, stats)
            counters |= _counters(name, stats)
        return Reading(gauges, counters)

    def close(self) -> None:
        """Give up the connection; the next reading makes another."""
        if self._client is not None:
            self._client.close()
            self._client = None


def _gauges(name: str, stats: Mapping[str, Any]) -> dict[What, float]:
    return {
        ("container_memory_used_bytes", name): memory_of(stats) * MIB,
        ("container_processes", name): (stats.get("pids_stats") or {}).get("current", 0),
    }


def _counters(name: str, stats: Mapping[str, Any]) -> dict[What, float]:
    cpu_ns = ((stats.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage", 0)
    interfaces = (stats.get("networks") or {}).values()
    moved = (stats.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    return {
        ("container_cpu_percent", name): cpu_ns / 1e9 * 100,  # of one core
        ("container_net_received_bytes_per_s", name): sum(i["rx_bytes"] for i in interfaces),
        ("container_net_sent_bytes_per_s", name): sum(i["tx_bytes"] for i in interfaces),
        ("container_disk_read_bytes_per_s", name): _moved(moved, "read"),
        ("container_disk_written_bytes_per_s", name): _moved(moved, "write"),
    }


def _moved(entries: list[Mapping[str, Any]], operation: str) -> int:
    return sum(e["value"] for e in entries if e["op"].lower() == operation)
