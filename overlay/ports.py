"""Who holds a TCP port of this machine, as far as /proc tells."""

import os
from pathlib import Path

_LISTEN = "0A"
"""TCP_LISTEN in the kernel's `st` column (include/net/tcp_states.h)."""


def holder_of(port: int) -> str | None:
    """Return `NAME (pid N)` of the process that listens on `port`; None if that cannot be known.

    Another user's processes can only be seen by root.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not sockets:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        if _holds_one_of(process, sockets):
            return f"{_name(process)} (pid {process.name})"
    return None


def port_taken(port: int) -> str:
    """Return one line that says who holds `port` and what to do."""
    holder = holder_of(port)
    by = f"by {holder}" if holder else "by another process"
    return f"TCP port {port} is already in use {by}; stop it or choose another port"


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            rows = Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes


def _holds_one_of(process: Path, sockets: set[str]) -> bool:
    try:
        with os.scandir(process / "fd") as fds:
            return any(_target(fd) in sockets for fd in fds)
    except OSError:
        return False  # gone meanwhile, or another user's


def _target(fd: os.DirEntry[str]) -> str:
    try:
        return os.readlink(fd.path)  # noqa: PTH115 — the link's text is no path
    except OSError:
        return ""


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a process"
