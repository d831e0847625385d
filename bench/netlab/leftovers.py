"""What labs leave that were killed: folders, processes that hang, empty control groups."""

import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from bench.netlab import state
from bench.netlab.engine import CGROUP_PREFIX, CGROUPS, Engine, remove_cgroups
from bench.netlab.lab import FOLDER_PREFIX

MAKING_S = 60.0
"""A younger folder that says nothing of its lab may be that of one in the making."""


def clean(background: Iterable[Path] = ()) -> list[str]:
    """Remove what labs left whose router is gone; return what was removed, a line each.

    Labs that are up are left alone.

    Args:
        background: folders of labs that were founded to stay.
    """
    temporary = Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*")
    folders = [*temporary, *background]
    removed = [line for folder in folders for line in _clean_folder(folder)]
    kept = {name for folder in folders if folder.exists() for name in _cgroups(folder)}
    names = {path.name for path in CGROUPS.glob(f"*/{CGROUP_PREFIX}*")}
    for name in sorted(names - kept):
        remove_cgroups(name)
        removed.append(f"control groups {name}")
    return removed


def _clean_folder(folder: Path) -> list[str]:
    known = state.read(folder)
    if known.router.alive if known else _age_s(folder) < MAKING_S:
        return []
    for name, held in known.held.items() if known else ():
        for namespaces in held:
            namespaces.end(killed=Engine(folder / name / "engine").thaw)
    shutil.rmtree(folder, ignore_errors=True)
    return [str(folder)]


def _age_s(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:  # its owner has just removed it
        return 0.0


def _cgroups(folder: Path) -> list[str]:
    known = state.read(folder)
    hosts = known.plan.hosts if known else ()
    return [Engine(folder / host.name / "engine").cgroup for host in hosts]
