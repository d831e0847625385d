"""What `myxo lab queues` can be told beside its flags."""

from typing import ClassVar

from pydantic import Field

from bench.lab.queueing.results import MOST_RUNS
from overlay.settings import NodeSettings


class QueueSettings(NodeSettings):
    """Settings of `myxo lab queues`: `MYXO_LAB_QUEUES_*`, `MYXO_*` or `[lab_queues]`."""

    section: ClassVar[str] = "lab_queues"

    keep_runs: int = Field(MOST_RUNS, ge=1, le=100_000)
    """How many runs are kept; of more the oldest go."""
