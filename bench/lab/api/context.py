"""What the routes work with, opened when the server starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

from fastapi import Depends, Request

from bench.lab.api.network import LabNetwork
from bench.lab.experiments.experiments import Experiments
from bench.lab.experiments.seen import SeenRequests
from bench.lab.experiments.store import Store


@dataclass(frozen=True, slots=True)
class Context:
    """What the routes work with.

    Attributes:
        seen: the requests of experiments that were looked at.
        state_dir: where clients of people's own are kept.
        guarded: whether a token is asked for.
    """

    store: Store
    experiments: Experiments
    seen: SeenRequests
    network: LabNetwork
    state_dir: Path
    guarded: bool


def _context(request: Request) -> Context:
    return cast("Context", request.app.state.context)


InContext = Annotated[Context, Depends(_context)]
