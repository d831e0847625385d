"""Processes of this machine as an allocator needs them: told apart for certain, signalled safely.

A process id alone names nobody: ids are used again. With the start time that the kernel notes
(proc(5), stat, field 22) it names one process of this boot; a pidfd (pidfd_open(2)) then holds on
to it, so that a signal can only reach that very process. What an instance started in turn is found
by the environment that all of it inherits, and by its session.
"""

import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

INSTANCE_VARIABLE = "MYXO_INSTANCE"

STOP_LOOKS = 200
STOP_LOOK_S = 0.001
"""A process stops as it leaves the kernel; one that waits for a disk may take some time to."""

_MARK = f"{INSTANCE_VARIABLE}=".encode()
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
    fields = _stat(pid)
    if fields is None or fields[_STATE_FIELD] in {"Z", "X"}:
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


def members(instance: str, session: int | None = None) -> Iterator[ProcessKey]:
    """Yield every process that inherited an instance's environment or belongs to `session`.

    A program may write over its environment to change its title, and then only the session tells.
    Give `session` only while its leader is known not to have been replaced: while it runs, or is
    a zombie that was not waited for.
    """
    sessions = {} if session is None else {session: instance}
    return (key for whose, key in inhabitants(sessions) if whose == instance)


def inhabitants(sessions: Mapping[int, str]) -> Iterator[tuple[str, ProcessKey]]:
    """Yield every process of any instance, with the instance; see `members` for sessions."""
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        fields = _stat(int(entry.name))
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # gone meanwhile, or another user's
        key = process_key(int(entry.name))
        if fields is None or key is None:
            continue
        marks = [
            word[len(_MARK) :].decode(errors="replace")
            for word in environment
            if word.startswith(_MARK)
        ]
        for instance in {*marks[:1], sessions.get(int(fields[_SESSION_FIELD]), "")} - {""}:
            yield instance, key


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


def stop_all(instance: str, session: int | None = None) -> list[ProcessKey] | None:
    """Stop every process of an instance by SIGSTOP; return them, or None if that does not succeed.

    A stop takes effect a moment after the signal, and until then a process may start another one.
    So whoever is found running is signalled again until a look finds all stopped; then nobody is
    left to start anything. Blocks for some milliseconds.
    """
    for _ in range(STOP_LOOKS):
        found = list(members(instance, session))
        running = [key for key in found if not is_stopped(key)]
        if not running:
            return found
        for key in running:
            signal_one(key, signal.SIGSTOP)
        time.sleep(STOP_LOOK_S)
    for key in members(instance, session):
        signal_one(key, signal.SIGCONT)
    return None


def is_stopped(key: ProcessKey) -> bool:
    """Return whether the process is stopped by a signal, or gone."""
    fields = _stat(key.pid)
    return fields is None or fields[_STATE_FIELD] in {"T", "t", "Z", "X"}


def signal_one(key: ProcessKey, number: signal.Signals) -> None:
    """Signal exactly this process; nothing happens if it is gone."""
    fd = open_pidfd(key)
    if fd is None:
        return
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return
    finally:
        os.close(fd)


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
