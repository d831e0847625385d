"""What runs on workers found, in files of this user's state directory.

A run is a folder, named by workers, policy and number: W3_round_robin_T1 is the first with three
workers and round robin. In it are `run.json`, with what was asked for, and a file for each worker.
Of more runs than are kept the oldest go.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bench.lab.errors import BadInput
from bench.lab.queueing.figures import Figures
from overlay.settings import state_dir

MOST_RUNS = 200
"""Of any size up to some 5 MB."""

MOST_TRIES = 100
"""Numbers that others may take at the same moment."""


@dataclass(frozen=True, slots=True)
class WorkerResult:
    """Of one worker in a run.

    Attributes:
        worker: its number from 1.
        share: requests that it got.
        mean_gap: between their arrivals.
        host: where it ran: a container's id, or a machine's name.
        figures: of its queue.
    """

    worker: int
    share: int
    mean_gap: float
    host: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class RunResult:
    """Of a run.

    Attributes:
        name: of the run.
        about: what was asked for.
        workers: what each found.
    """

    name: str
    about: Mapping[str, Any]
    workers: Sequence[WorkerResult]


class Results:
    """The runs in a folder.

    Args:
        folder: that has them; this user's, if left out.
        most: runs that are kept.
    """

    def __init__(self, folder: Path | None = None, *, most: int = MOST_RUNS) -> None:
        self._most = most
        self._folder = state_dir() / "lab" / "queues" if folder is None else folder

    def keep(self, about: Mapping[str, Any], workers: Sequence[WorkerResult]) -> str:
        """Keep a run, and no more of the older ones than there is place for; return its name.

        Raises:
            BadInput: it cannot be written.
        """
        try:
            folder = self._new(f"W{len(workers)}_{about['policy']}_T")
            for one in workers:
                _write(folder / f"worker-{one.worker}.json", asdict(one))
            _write(folder / "run.json", about)
            self._prune()
        except OSError as exc:
            raise BadInput(f"results cannot be kept in {self._folder}: {exc.strerror}") from exc
        return folder.name

    def _prune(self) -> None:
        for name in self.runs()[: -self._most]:
            shutil.rmtree(self._folder / name, ignore_errors=True)  # others may prune, too

    def _new(self, prefix: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        taken = [int(name.removeprefix(prefix)) for name in self._beginning(prefix)]
        last = max(taken, default=0)
        for number in range(last + 1, last + 1 + MOST_TRIES):
            folder = self._folder / f"{prefix}{number}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
        raise BadInput(f"{MOST_TRIES} runs were begun in {self._folder} at once")

    def _beginning(self, prefix: str) -> list[str]:
        pattern = re.compile(re.escape(prefix) + r"\d+")
        return [path.name for path in self._folder.iterdir() if pattern.fullmatch(path.name)]

    def runs(self) -> list[str]:
        """Return the names of the runs that were kept, the oldest first."""
        files = sorted(self._folder.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
        return [path.parent.name for path in files]

    def run(self, name: str) -> RunResult:
        """Return a run.

        Raises:
            BadInput: there is none of that name, or it cannot be read.
        """
        runs = self.runs()
        if name not in runs:
            near = get_close_matches(name, runs, 1)
            hint = f"; did you mean {near[0]}?" if near else "; `myxo lab results` lists them"
            raise BadInput(f"there is no run {name!r}{hint}")
        folder = self._folder / name
        try:
            workers = [_worker(json.loads(p.read_text())) for p in folder.glob("worker-*.json")]
            about = json.loads((folder / "run.json").read_text())
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise BadInput(f"the run in {folder} cannot be read: {exc}") from exc
        return RunResult(name, about, sorted(workers, key=lambda one: one.worker))


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _worker(said: dict[str, Any]) -> WorkerResult:
    return WorkerResult(**{**said, "figures": Figures(**said["figures"])})
