"""What the figures were measured on, and what processes hold."""

import os
import platform
import resource
from pathlib import Path
from typing import Any

KIB = 1024


def machine() -> dict[str, Any]:
    """Return what a reader must know of this machine to place the figures."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // KIB**2,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def machine_line() -> str:
    """Return the same as a line of text."""
    it = machine()
    return (
        f"{it['cpus']} CPUs ({it['cpu']}), {it['memory_mib'] // KIB} GiB, Linux {it['kernel']}, "
        f"Python {it['python']}; load average {it['load_average']:.2f}"
    )


def memory_mib(pid: int) -> dict[str, float]:
    """Return a process's resident (`rss`) and proportional (`pss`) memory in MiB.

    Shared pages count whole in `rss`, and divided by their users in `pss`, so that the `pss` of
    several processes add up.

    Raises:
        OSError: there is no such process, or it is another user's.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {line.split(":")[0].lower(): int(line.split()[1]) for line in lines}
    return {name: kib[name] / KIB for name in ("rss", "pss")}


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, in seconds.

    Raises:
        OSError: there is no such process.
    """
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def clear_peak(pid: int) -> None:
    """Have the system forget the most memory that a process has had; see `peak_mib`.

    Raises:
        OSError: there is no such process, or it is another user's.
    """
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mib(pid: int) -> float:
    """Return the most resident memory that a process has had since `clear_peak`, in MiB.

    Raises:
        OSError: there is no such process.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / KIB


def open_files(pid: int) -> int:
    """Return how many files, sockets among them, a process has open.

    Raises:
        OSError: there is no such process, or it is another user's.
    """
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def open_many_files() -> None:
    """Let this process, and those that it starts, have as many files as the system lets it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
