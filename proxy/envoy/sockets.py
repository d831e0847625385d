"""Envoy's connections to a machine that is dead, ended from outside.

No reset comes from a machine whose cable is cut, and Envoy waits for its kernel, which sends what
was not acknowledged again for minutes. Membership knows in three seconds, and Envoy cannot be told
to end what is under way to one endpoint. But its parent may have its sockets (pidfd_getfd, Linux
5.6), and to shut one down is to say that the other end has gone.
"""

import ctypes
import os
import socket
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

_PIDFD_GETFD = 438
"""Of every architecture that has it by its own number."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_REMOTE, _INODE = 2, 9
"""Columns of `/proc/net/tcp`."""


def end_connections(pid: int, to: Collection[tuple[str, int]]) -> int:
    """Shut the connections of a process to these addresses down; return how many there were.

    Raises:
        OSError: the process is gone, or its sockets are not for this one to have.
    """
    wanted = {f"socket:[{inode}]" for inode in _inodes(to)}
    if not wanted:
        return 0
    process = os.pidfd_open(pid)
    try:
        found = list(_descriptors(pid, wanted))
        for descriptor in found:
            _shut(process, descriptor)
        return len(found)
    finally:
        os.close(process)


def _inodes(to: Collection[tuple[str, int]]) -> Iterator[str]:
    """Yield the sockets of this network namespace that are connected to these addresses."""
    remote = {_as_kernel_has_it(host, port) for host, port in to}
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):  # without IPv6
            for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
                columns = line.split()
                if columns[_REMOTE] in remote:
                    yield columns[_INODE]


def _as_kernel_has_it(host: str, port: int) -> str:
    """Return an address as `/proc/net/tcp` writes it: in words of the machine's byte order."""
    packed = ip_address(host).packed
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{port:04X}"


def _descriptors(pid: int, wanted: Collection[str]) -> Iterator[int]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if str(entry.readlink()) in wanted:
                yield int(entry.name)


def _shut(process: int, descriptor: int) -> None:
    copy = _LIBC.syscall(_PIDFD_GETFD, process, descriptor, 0)
    if copy < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    with socket.socket(fileno=copy) as sock, suppress(OSError):  # it is shut already
        sock.shutdown(socket.SHUT_RDWR)
