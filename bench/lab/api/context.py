"""What the routes work with, opened when the server starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

from fastapi import Depends, Request

from bench.lab.api.network import LabNetwork, NotJoined
from bench.lab.experiments.experiments import Experiments
from bench.lab.experiments.presence import standalone_host
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

    async def hosts(self) -> Sequence[str]:
        """Return the load hosts: the network's, and a daemon beside this API that is one itself.

        Raises:
            NotJoined: there is none of the latter, and the network does not answer.
        """
        own = standalone_host(self.state_dir)
        try:
            there = await self.network.hosts()
        except NotJoined:
            if own is None:
                raise
            there = []
        return sorted({*there, *([own] if own else [])})


def _context(request: Request) -> Context:
    return cast("Context", request.app.state.context)


InContext = Annotated[Context, Depends(_context)]
