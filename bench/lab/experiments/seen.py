"""The requests of experiments that somebody looks at, read once and kept for the next look.

Whoever watches an experiment looks at it again and again, and of a million traces few are new each
time. Traces are numbered as they are kept and never change, so that only those after the last
number are read. Several load hosts may write into a database at once, and a lower number may be
there later than a higher one: if there are not as many rows up to the last number as were seen,
all are read anew.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from sqlalchemy import Connection

from bench.lab.experiments import queries
from bench.lab.experiments.records import Experiment
from bench.lab.experiments.summary import Numbers, Summary, summarised

MOST_ROWS = 4_000_000
"""Kept of all experiments together, 24 bytes each; those looked at longest ago go first."""

_LOCKS = 16
"""So that a long first look at an experiment seldom keeps a look at another one waiting."""


@dataclass(frozen=True, eq=False)
class Seen:
    """The requests of an experiment up to a moment.

    Attributes:
        rows: of each when it was due, when it ended, and its status.
        last: the number of the last one; 0 before the first.
    """

    rows: Numbers = field(default_factory=lambda: np.empty((0, 3)))
    last: int = 0

    @cached_property
    def summary(self) -> Summary:
        """What came of them."""
        return summarised(self.rows)


class SeenRequests:
    """The requests of one database's experiments, for several threads.

    Args:
        most_rows: that are kept.
    """

    def __init__(self, most_rows: int = MOST_ROWS) -> None:
        self._most_rows = most_rows
        self._kept: OrderedDict[tuple[str, float], Seen] = OrderedDict()
        self._keeping = threading.Lock()
        self._reading = [threading.Lock() for _ in range(_LOCKS)]

    def look(self, connection: Connection, experiment: Experiment) -> Seen:
        """Return the requests of an experiment so far; blocks."""
        key = experiment.exp_id, experiment.created  # an id may be used again
        with self._reading[hash(key) % _LOCKS]:
            seen = _read_on(connection, experiment.exp_id, self._kept.get(key, Seen()))
            with self._keeping:
                self._keep(key, seen)
        return seen

    def _keep(self, key: tuple[str, float], seen: Seen) -> None:
        self._kept[key] = seen
        self._kept.move_to_end(key)
        while sum(len(kept.rows) for kept in self._kept.values()) > self._most_rows:
            self._kept.popitem(last=False)


def _read_on(connection: Connection, exp_id: str, seen: Seen) -> Seen:
    """Return what was seen and what has come since."""
    if seen.last and queries.requests_until(connection, exp_id, seen.last) != len(seen.rows):
        seen = Seen()
    last, fresh = queries.requests_after(connection, exp_id, seen.last)
    if not len(fresh):
        return seen
    return Seen(np.concatenate((seen.rows, fresh)), last)
