"""Processes of this machine as an allocator needs them: told apart for certain, signalled safely.

A process id alone names nobody: ids are used again. With the start time that the kernel notes
(proc(5), stat, field 22) it names one process of this boot; a pidfd (pidfd_open(2)) then holds on
to it, so that a signal can only reach that very process. What an instance started in turn is found
by the environment that all of it inherits, and by its session.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

INSTANCE_VARIABLE = "MYXO_INSTANCE"

_PROC = Path("/proc")
_STATE_FIELD, _SESSION_FIELD, _START_FIELD = 0, 3, 19
"""Positions after the name's closing bracket of proc(5) stat's fields 3, 6 and 22."""


@dataclass(frozen=True, slots=True)
class ProcessKey:
    """One process of this boot.

    Attributes:
        start_time: in clock ticks since boot.
        boot: the kernel's id of this boot.
    """

    pid: int
    start_time: int
    boot: str


def boot_id() -> str:
    """Return the kernel's id of this boot."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def process_key(pid: int) -> ProcessKey | None:
    """Return the key of a process; None if there is none or it is a zombie."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    if fields[_STATE_FIELD] in {"Z", "X"}:
        return None
    return ProcessKey(pid, int(fields[_START_FIELD]), boot_id())


def open_pidfd(key: ProcessKey) -> int | None:
    """Return a pidfd of exactly this process, or None if it is gone; the caller closes it."""
    try:
        fd = os.pidfd_open(key.pid)
    except OSError:
        return None
    if process_key(key.pid) != key:
        os.close(fd)
        return None
    return fd


def members(instance: str, session: int | None = None) -> Iterator[ProcessKey]:
    """Yield every process that inherited an instance's environment or belongs to `session`.

    A program may write over its environment to change its title, and then only the session tells.
    Give `session` only while its leader is known not to have been replaced: while it runs, or is
    a zombie that was not waited for.
    """
    mark = f"{INSTANCE_VARIABLE}={instance}".encode()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            inherited = mark in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # gone meanwhile, or another user's
        key = process_key(int(entry.name))
        if key is not None and (inherited or int(fields[_SESSION_FIELD]) == session):
            yield key


def signal_members(instance: str, number: signal.Signals, session: int | None = None) -> list[int]:
    """Signal every process of an instance (see `members`); return pidfds for the caller to close.

    A pidfd becomes readable when its process has ended.
    """
    signalled = []
    for key in members(instance, session):
        fd = open_pidfd(key)
        if fd is None:
            continue
        try:
            signal.pidfd_send_signal(fd, number)
            signalled.append(fd)
        except ProcessLookupError:
            os.close(fd)
    return signalled


def memory_mib() -> int:
    """Return the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1024 * 1024)
