"""What people do with experiments: submit, look, compare, cancel, delete, export.

The command line, the REST API and the queue in Redis all come here. Under trio and asyncio; it
needs the database alone, so it works whether a daemon runs or not.
"""

import getpass
import random
import secrets
import string
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from bench.lab.experiments import export, queries
from bench.lab.experiments.export import Format
from bench.lab.experiments.records import Experiment, Task
from bench.lab.experiments.seen import SeenRequests
from bench.lab.experiments.status import Status
from bench.lab.experiments.store import Store
from bench.lab.experiments.submission import Submission, read_submission
from bench.lab.experiments.summary import Summary
from bench.lab.experiments.tables import MAX_NAME

MAX_REJECTED = 4096
"""Characters that are kept of something that could not be read."""

_ID_SIGNS = string.ascii_lowercase + string.digits


@dataclass(frozen=True, slots=True)
class Account:
    """All that is said of one experiment.

    Attributes:
        summary: of the requests so far.
        rows: how many there are of each series.
    """

    experiment: Experiment
    task: Task
    summary: Summary
    rows: Mapping[str, int]


class Experiments:
    """The experiments of one database.

    Args:
        store: the database.
        clock: seconds since 1970.
        rng: of the ids that are made.
        seen: the requests of experiments that were looked at, if others look at them, too.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        seen: SeenRequests | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._rng = rng or secrets.SystemRandom()
        self._seen = seen or SeenRequests()

    async def submit(self, body: str | bytes | Mapping[str, Any]) -> Experiment:
        """Queue what a body says (see `submission`), and return it as it is queued.

        Raises:
            BadInput: naming what is wrong with it; or its id is taken.
            QueueFull: too many wait.
        """
        return await self.queue(read_submission(body))

    async def queue(self, submission: Submission, exp_id: str | None = None) -> Experiment:
        """Queue a submission, under `exp_id` if it names none itself; raises as `submit` does."""
        named = submission.described().exp_id or exp_id
        if named is not None:
            return await self._add(submission, named)
        return await self._add(submission, await self.free_id())

    async def _add(self, submission: Submission, exp_id: str) -> Experiment:
        said = submission.described()
        experiment = Experiment(
            exp_id, said.name or exp_id, said.creator or _user(), created=self._clock()
        )
        await self._store.write(queries.add, experiment, submission.task())
        return experiment

    async def reject(self, text: str, why: str, exp_id: str | None = None) -> Experiment:
        """Keep what could not be read as a failed experiment, so that its author finds it."""
        now, known_as = self._clock(), exp_id or await self.free_id()
        experiment = Experiment(
            exp_id=known_as,
            name=known_as,
            creator=_user(),
            created=now,
            status=Status.FAILED,
            end=now,
            error=why,
        )
        kept = (
            text[:MAX_REJECTED]
            .encode(errors="replace")
            .decode()
            .replace("\0", "\N{REPLACEMENT CHARACTER}")
        )
        task = Task(instructions=kept, configuration=None)
        await self._store.write(queries.add, experiment, task)
        return experiment

    async def free_id(self) -> str:
        """Return an id that none has, such as `202611291200-ab3d`: when, in UTC, and four signs."""
        while True:
            signs = "".join(self._rng.choices(_ID_SIGNS, k=4))
            exp_id = time.strftime("%Y%m%d%H%M", time.gmtime(self._clock())) + f"-{signs}"
            if not await self._store.read(queries.known, [exp_id]):
                return exp_id

    async def list(self) -> Sequence[Experiment]:
        """Return all, the oldest first."""
        return await self._store.read(queries.listed)

    async def get(self, exp_id: str) -> Experiment:
        """Return one; raises NoSuchExperiment."""
        return await self._store.read(queries.get, exp_id)

    async def show(self, exp_id: str) -> Account:
        """Return all that is said of one; raises NoSuchExperiment."""
        return await self._store.read(_account, exp_id, self._seen)

    async def compare(self, exp_ids: Sequence[str]) -> Sequence[Account]:
        """Return all that is said of several, in that order; raises NoSuchExperiment."""
        return [await self.show(exp_id) for exp_id in exp_ids]

    async def cancel(self, exp_id: str) -> bool:
        """Cancel one that waits, or ask for it if it runs; return whether it is done already.

        Raises:
            NoSuchExperiment, WrongState: there is none, or it has ended.
        """
        return await self._store.write(queries.cancel, exp_id, self._clock())

    async def delete(self, exp_id: str) -> None:
        """Delete one with everything that belongs to it.

        Raises:
            NoSuchExperiment, WrongState: there is none, or it runs.
        """
        await self._store.write(queries.remove, exp_id)

    async def export(self, exp_id: str, form: Format, folder: Path) -> Sequence[Path]:
        """Write one's tables into `folder` and return the files; raises as `export.export`."""
        return await self._store.read(export.export, exp_id, form, folder)


def _account(connection: Connection, exp_id: str, seen: SeenRequests) -> Account:
    experiment = queries.get(connection, exp_id)
    return Account(
        experiment,
        queries.task(connection, exp_id),
        seen.look(connection, experiment).summary,
        queries.counts(connection, exp_id),
    )


def _user() -> str:
    try:
        return getpass.getuser()[:MAX_NAME]
    except (KeyError, OSError):  # a container's user need not have a name
        return "myxo"
