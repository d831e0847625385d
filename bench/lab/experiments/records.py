"""What is kept of an experiment, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bench.lab.experiments.status import Status


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment; times are seconds since 1970, None before they are known.

    Attributes:
        exp_id: what it is asked for by.
        error: why it failed; empty if it did not.
    """

    exp_id: str
    name: str
    creator: str
    created: float
    status: Status = Status.QUEUED
    start: float | None = None
    end: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """What an experiment is to do, as it was submitted; one of the first two is None."""

    instructions: str | None
    configuration: Mapping[str, Any] | None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class TelemetryRow(NamedTuple):
    """One measured value.

    Attributes:
        timestamp: seconds since 1970.
        metric: what was measured, with its unit, such as `cpu_percent`.
        subsystem: of what on the node, such as a disk, an interface or a container; may be empty.
        node: the machine.
    """

    timestamp: float
    metric: str
    subsystem: str
    node: str
    value: float


class NodeFact(NamedTuple):
    """Something about a machine that stays as it is during an experiment."""

    node: str
    key: str
    value: str
