"""Control groups for the process runtime, where somebody delegated some to this allocator.

cgroup v2 (Documentation/admin-guide/cgroup-v2.rst) bounds all processes of an instance together,
which rlimits cannot: memory.max, cpu.max, pids.max, and cgroup.kill, from which no child escapes by
leaving its session or writing over its environment. A group may be divided only by whom it was
given to: systemd gives a service with `Delegate=yes` its own, and says so in an attribute of the
directory; on a system without systemd a group that this process may write is its own.

A group with members of its own cannot hand controllers on to its children ("no internal
processes"), so the allocator sits in a leaf called `allocator`, as `DelegateSubgroup=allocator` has
it, or moves there.
"""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from overlay.names import InstanceId
from overlay.spec import ServiceSpec

OWN_LEAF = "allocator"
WANTED = ("cpu", "memory", "pids")
PIDS_LIMIT = 4096
"""As for a container."""

CPU_PERIOD_US = 100_000
"""The kernel's default; a shorter one costs more and bounds no better."""

LEAST_QUOTA_US = 1_000
"""The kernel refuses less."""

REMOVE_LOOKS = 50
REMOVE_LOOK_S = 0.01
"""A killed process leaves its group a moment after it was reaped."""

FREEZE_LOOKS = 200
FREEZE_LOOK_S = 0.001
"""A process freezes as it leaves the kernel; one that waits for a disk may take some time to."""

_PREFIX = "myxo-"
_ROOT = "0::"
_SYSTEMD = Path("/run/systemd/system")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Cgroups:
    """A group that may be divided, one part for each instance.

    Attributes:
        root: its directory.
        controllers: what its parts can be bounded by.
    """

    root: Path
    controllers: frozenset[str]

    def of(self, instance: InstanceId) -> Path:
        """Return the directory of an instance's group."""
        return self.root / f"{_PREFIX}{instance}"

    def entrance(self, instance: InstanceId) -> Path:
        """Return the file into which a process writes its id to enter the instance's group."""
        return self.of(instance) / "cgroup.procs"

    def make(self, instance: InstanceId, spec: ServiceSpec) -> None:
        """Make an instance's group and write its limits.

        Raises:
            OSError: the kernel refuses.
        """
        group = self.of(instance)
        group.mkdir(exist_ok=True)
        for name, value in self.limits(spec).items():
            (group / name).write_text(value)

    def limits(self, spec: ServiceSpec) -> dict[str, str]:
        """Return what is written into which file for a spec."""
        files: dict[str, str] = {}
        if "pids" in self.controllers:
            files["pids.max"] = str(PIDS_LIMIT)
        if "cpu" in self.controllers and spec.cpu_millicores:
            quota_us = max(LEAST_QUOTA_US, spec.cpu_millicores * CPU_PERIOD_US // 1000)
            files["cpu.max"] = f"{quota_us} {CPU_PERIOD_US}"
        if "memory" in self.controllers and spec.memory_mib:
            files["memory.max"] = str(spec.memory_mib * 1024 * 1024)
            files["memory.swap.max"] = "0"
            files["memory.oom.group"] = "1"  # half an instance is worse than none
        return files

    def kill(self, instance: InstanceId) -> None:
        """Kill every process of an instance; nothing happens if there is none."""
        with contextlib.suppress(OSError):
            (self.of(instance) / "cgroup.kill").write_text("1")

    def can_freeze(self, instance: InstanceId) -> bool:
        """Return whether an instance is in a group of its own that the kernel can freeze."""
        return (self.of(instance) / "cgroup.freeze").exists()

    def freeze(self, instance: InstanceId) -> bool:
        """Freeze all of an instance; return whether it is, and undo it else. Blocks for a moment.

        Raises:
            OSError: it is in no such group.
        """
        group = self.of(instance)
        (group / "cgroup.freeze").write_text("1")
        for _ in range(FREEZE_LOOKS):
            if _counter(group / "cgroup.events", "frozen"):
                return True
            time.sleep(FREEZE_LOOK_S)
        self.thaw(instance)
        return False

    def thaw(self, instance: InstanceId) -> None:
        """Let an instance run on; nothing happens if it is not frozen."""
        with contextlib.suppress(OSError):
            (self.of(instance) / "cgroup.freeze").write_text("0")

    def is_frozen(self, instance: InstanceId) -> bool:
        """Return whether an instance is frozen."""
        return _counter(self.of(instance) / "cgroup.events", "frozen") > 0

    def oom_killed(self, instance: InstanceId) -> bool:
        """Return whether the kernel ended a process of the instance for its memory.

        This is why an instance's group is kept until the instance is removed.
        """
        return _counter(self.of(instance) / "memory.events", "oom_kill") > 0

    def remove(self, instance: InstanceId) -> None:
        """Remove an instance's group, whose processes have been killed; blocks for a moment."""
        group = self.of(instance)
        for _ in range(REMOVE_LOOKS):
            try:
                group.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(REMOVE_LOOK_S)
            else:
                return
        log.warning("cgroup.not_removed", path=str(group))

    def unenforced(self) -> tuple[str, ...]:
        """Return which of the controllers that bound an instance are not there."""
        return tuple(name for name in WANTED if name not in self.controllers)


def delegated() -> Cgroups | None:
    """Return the group that was given to this process to divide, settled in; None if none was."""
    own = own_group()
    if own is None:
        return None
    root = own.parent if own.name == OWN_LEAF else own
    if not _is_given(root):
        return None
    try:
        return settle(root, move=own == root)
    except OSError as exc:
        log.warning("cgroup.not_usable", path=str(root), error=str(exc))
        return None


def own_group(
    memberships: Path = Path("/proc/self/cgroup"), mounts: Path = Path("/proc/self/mountinfo")
) -> Path | None:
    """Return the directory of this process's own cgroup v2; None if there is none below the root.

    Args:
        memberships: as proc(5) describes cgroup.
        mounts: as proc(5) describes mountinfo.
    """
    try:
        lines = memberships.read_text().splitlines()
        name = next((line[len(_ROOT) :] for line in lines if line.startswith(_ROOT)), "")
        fields = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return None
    places = [f[4] for f in fields if "cgroup2" in f[f.index("-") + 1 : f.index("-") + 2]]
    if not name or not places:
        return None
    group = Path(places[0]) / name.lstrip("/")
    return group if (group / "cgroup.type").exists() else None  # the root has none


def settle(root: Path, *, move: bool) -> Cgroups:
    """Divide a group: sit in a leaf of it and let its other parts have every controller it has.

    Raises:
        OSError: the kernel refuses.
    """
    if move:
        leaf = root / OWN_LEAF
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
    there = set((root / "cgroup.controllers").read_text().split())
    usable = [name for name in WANTED if name in there]
    if usable:
        (root / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in usable))
    return Cgroups(root, frozenset(usable))


def _is_given(root: Path) -> bool:
    if not os.access(root / "cgroup.procs", os.W_OK) or not os.access(root, os.W_OK):
        return False
    if not _SYSTEMD.exists():
        return True
    for attribute in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(root, attribute) == b"1":
                return True
    return False


def _counter(path: Path, name: str) -> int:
    """Return a line's number of a file of lines with a name and a number; 0 if there is none."""
    try:
        pairs = (line.split() for line in path.read_text().splitlines())
        return next((int(pair[1]) for pair in pairs if pair[0] == name), 0)
    except (OSError, ValueError, IndexError):
        return 0
