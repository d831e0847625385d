"""Where an instance's processes listen, beside the port that they were told.

An instance of the process runtime is told to listen on loopback. One that listens elsewhere can be
reached from the network past the gateway, which checks who calls; nothing here prevents that, so it
is found out and said. The kernel lists listening sockets by inode (proc(5), net/tcp), and each
process its open files by the same number.
"""

import os
import socket
import struct
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from allocator.processes.procfs import look

_LISTEN = "0A"
_LOCAL, _STATE, _INODE = 1, 3, 9
"""Columns of net/tcp; the address is in hexadecimal words in the machine's byte order."""


def exposed(sessions: Mapping[int, str], proc: Path = Path("/proc")) -> dict[str, tuple[str, ...]]:
    """Return on which `address:port`s that are not on loopback each instance listens.

    Args:
        sessions: the instance of each session that is one's.
        proc: where the kernel shows its sockets and the files of processes.
    """
    sockets = {i: where for i, where in _listening(proc).items() if not where[0].is_loopback}
    found: dict[str, set[str]] = {}
    if not sockets:
        return {}
    seen = look()
    for session, instance in sessions.items():
        for key in seen.members(instance, session):
            for inode in _sockets_of(proc / str(key.pid)) & sockets.keys():
                found.setdefault(instance, set()).add(_shown(*sockets[inode]))
    return {instance: tuple(sorted(places)) for instance, places in found.items()}


def _listening(proc: Path) -> dict[str, tuple[IPv4Address | IPv6Address, int]]:
    found = {}
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "self/net" / table).read_text().splitlines()[1:]
        except OSError:
            continue  # a kernel without IPv6
        for fields in map(str.split, lines):
            if fields[_STATE] == _LISTEN:
                found[fields[_INODE]] = _address(fields[_LOCAL])
    return found


def _address(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    words, _, port = text.partition(":")
    raw = b"".join(struct.pack("=I", int(words[i : i + 8], 16)) for i in range(0, len(words), 8))
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6  # noqa: PLR2004  (bytes of IPv4)
    host = ip_address(socket.inet_ntop(family, raw))
    mapped = host.ipv4_mapped if isinstance(host, IPv6Address) else None
    return mapped or host, int(port, 16)


def _sockets_of(process: Path) -> set[str]:
    found = set()
    try:
        for entry in (process / "fd").iterdir():
            target = os.readlink(entry)  # noqa: PTH115  (it is a name such as socket:[1], no path)
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        return found  # the process, or the file, is gone meanwhile
    return found


def _shown(host: IPv4Address | IPv6Address, port: int) -> str:
    return f"[{host}]:{port}" if isinstance(host, IPv6Address) else f"{host}:{port}"
