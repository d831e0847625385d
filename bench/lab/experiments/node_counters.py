"""What this machine says of itself: processors, memory, disks, interfaces, pressure."""

import os
import platform
from pathlib import Path

import psutil

from bench.lab.experiments.records import NodeFact
from bench.lab.experiments.telemetry import Reading, What, pressure

MAX_PARTS = 32
"""Disks or interfaces that are told of one by one; a host with many containers has more."""

_PRESSURE = Path("/proc/pressure")
_PARTITIONS = ("loop", "ram", "zram")


def read() -> Reading:
    """Return what is so now; blocks for some milliseconds."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    gauges: dict[What, float] = {
        ("memory_used_bytes", ""): memory.total - memory.available,
        ("memory_percent", ""): memory.percent,
        ("swap_used_bytes", ""): swap.used,
        ("disk_used_percent", "/"): psutil.disk_usage("/").percent,
        ("processes", ""): len(psutil.pids()),
    }
    for minutes, load in zip((1, 5, 15), os.getloadavg(), strict=True):
        gauges[f"load_{minutes}", ""] = load
    return Reading(gauges, _processors() | _disks() | _interfaces() | _pressure())


def _processors() -> dict[What, float]:
    total = psutil.cpu_times()
    cores = psutil.cpu_times(percpu=True)
    counters: dict[What, float] = {("cpu_percent", ""): _busy_s(total) * 100 / len(cores)}
    for number, core in enumerate(cores):
        counters["cpu_percent", f"cpu{number}"] = _busy_s(core) * 100
    return counters


def _busy_s(times: psutil._ntuples.scputimes) -> float:
    """Return the seconds spent on work; the guests' are in `user` already."""
    idle = times.idle + getattr(times, "iowait", 0.0)
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - guests)


def _disks() -> dict[What, float]:
    counters: dict[What, float] = {}
    disks = psutil.disk_io_counters(perdisk=True) or {}
    whole = [name for name in disks if not name.startswith(_PARTITIONS)]
    for name in whole[:MAX_PARTS]:
        counters["disk_read_bytes_per_s", name] = disks[name].read_bytes
        counters["disk_written_bytes_per_s", name] = disks[name].write_bytes
    return counters


def _interfaces() -> dict[What, float]:
    counters: dict[What, float] = {}
    for name, traffic in list(psutil.net_io_counters(pernic=True).items())[:MAX_PARTS]:
        counters["net_received_bytes_per_s", name] = traffic.bytes_recv
        counters["net_sent_bytes_per_s", name] = traffic.bytes_sent
    return counters


def _pressure() -> dict[What, float]:
    counters: dict[What, float] = {}
    for resource in ("cpu", "io", "memory"):
        try:
            text = (_PRESSURE / resource).read_text()
        except OSError:  # the kernel has none, or does not show it here
            continue
        for kind, total in pressure(text).items():
            counters[f"pressure_{kind}_percent", resource] = total
    return counters


def facts(node: str) -> list[NodeFact]:
    """Return what this machine is."""
    memory = psutil.virtual_memory()
    known = {
        "arch": platform.machine(),
        "cpus": str(psutil.cpu_count() or 1),
        "memory_bytes": str(memory.total),
        "disk_bytes": str(psutil.disk_usage("/").total),
        "boot": f"{psutil.boot_time():.0f}",
        "hostname": platform.node(),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "python": platform.python_version(),
        "interfaces": " ".join(list(psutil.net_if_stats())[:MAX_PARTS]),
    }
    return [NodeFact(node, key, value) for key, value in known.items()]
