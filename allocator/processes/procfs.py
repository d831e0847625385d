"""Processes of this machine as an allocator needs them: told apart for certain, signalled safely.

A process id alone names nobody: ids are used again. With the start time that the kernel notes
(proc(5), stat, field 22) it names one process of this boot; a pidfd (pidfd_open(2)) then holds on
to it, so that a signal can only reach that very process. What an instance started in turn is found
by the environment that all of it inherits, and by its session.
"""

import os
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

INSTANCE_VARIABLE = "MYXO_INSTANCE"

_MARK = f"{INSTANCE_VARIABLE}=".encode()
_PROC = Path("/proc")
_STATE_FIELD, _SESSION_FIELD, _START_FIELD = 0, 3, 19
"""Positions after the name's closing bracket of proc(5) stat's fields 3, 6 and 22."""

_ENDED = frozenset({"Z", "X"})
_STOPPED = _ENDED | {"T", "t"}


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
    fields = _stat(pid)
    if fields is None or fields[_STATE_FIELD] in _ENDED:
        return None
    return ProcessKey(pid, int(fields[_START_FIELD]), boot_id())


def _stat(pid: int) -> list[str] | None:
    """Return the fields of proc(5) stat that follow the name; None if there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()


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


@dataclass(frozen=True, slots=True)
class Look:
    """All processes of the machine that this user may know of, at one moment.

    Attributes:
        by_instance: those that inherited an instance's environment.
        by_session: those of each session.
    """

    by_instance: Mapping[str, list[ProcessKey]]
    by_session: Mapping[int, list[ProcessKey]]

    def members(self, instance: str, session: int | None = None) -> list[ProcessKey]:
        """Return every process that inherited an instance's environment or belongs to `session`.

        A program may write over its environment to change its title, and then only the session
        tells. Give `session` only while its leader is known not to have been replaced: while it
        runs, or is a zombie that was not waited for.
        """
        of_session = [] if session is None else self.by_session.get(session, [])
        return list(dict.fromkeys([*self.by_instance.get(instance, []), *of_session]))


def look() -> Look:
    """Return what runs; blocks for some milliseconds."""
    by_instance: dict[str, list[ProcessKey]] = {}
    by_session: dict[int, list[ProcessKey]] = {}
    boot = boot_id()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        fields = _stat(int(entry.name))
        if fields is None or fields[_STATE_FIELD] in _ENDED:
            continue
        key = ProcessKey(int(entry.name), int(fields[_START_FIELD]), boot)
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # gone meanwhile, or another user's
        by_session.setdefault(int(fields[_SESSION_FIELD]), []).append(key)
        if (instance := _inherited(environment)) is not None:
            by_instance.setdefault(instance, []).append(key)
    return Look(by_instance, by_session)


def _inherited(environment: bytes) -> str | None:
    """Return the instance that an environment names."""
    found = [word for word in environment.split(b"\0") if word.startswith(_MARK)]
    return found[0][len(_MARK) :].decode(errors="replace") if found else None


def signal_each(keys: Iterable[ProcessKey], number: signal.Signals) -> list[int]:
    """Signal each of the processes that is there; return pidfds for the caller to close.

    A pidfd becomes readable when its process has ended.
    """
    signalled = []
    for key in keys:
        fd = open_pidfd(key)
        if fd is None:
            continue
        try:
            signal.pidfd_send_signal(fd, number)
            signalled.append(fd)
        except ProcessLookupError:
            os.close(fd)
    return signalled


def tell_each(keys: Iterable[ProcessKey], number: signal.Signals) -> None:
    """Signal each of the processes that is there, and do not wait for its end."""
    for fd in signal_each(keys, number):
        os.close(fd)


def is_stopped(key: ProcessKey) -> bool:
    """Return whether the process is stopped by a signal, or gone."""
    fields = _stat(key.pid)
    return fields is None or fields[_STATE_FIELD] in _STOPPED


def used_mib(keys: Iterable[ProcessKey]) -> int:
    """Return the memory of these processes in MiB; what several share counts once."""
    used_kib = 0
    for key in keys:
        try:
            text = (_PROC / str(key.pid) / "smaps_rollup").read_text()
        except OSError:
            continue  # gone meanwhile
        used_kib += sum(int(line.split()[1]) for line in text.splitlines() if line[:4] == "Pss:")
    return max(1, -(-used_kib // 1024))


def memory_mib() -> int:
    """Return the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1024 * 1024)
