"""Services spread by another selection policy while an experiment runs, and then as before.

A policy is part of a service's definition, so whoever runs experiments with one must own the
services. Instances stay: a policy changes only how requests are spread over them.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NoReturn

from bench.lab.errors import BadInput
from bench.lab.reporting.network import open_tested
from bench.lab.reporting.plan import Scaling, Variant
from overlay.errors import alone
from overlay.settings import NodeSettings
from registry.settings import CliSettings

Balanced = Callable[[Sequence[str], str], AbstractAsyncContextManager[None]]
"""Has services spread by a policy for the length of a block."""

NO_NETWORK = (
    "an experiment with a policy needs the network whose services it changes: start `myxo up` on "
    "this machine, or give this daemon --bootstrap"
)


def without_network(*_: object) -> NoReturn:
    """Refuse with `BadInput`: the `Balanced` of who is in no network."""
    raise BadInput(NO_NETWORK)


def balanced_in(settings: NodeSettings) -> Balanced:
    """Return what changes policies in the network that a daemon's settings name."""
    if not settings.bootstraps:
        return without_network
    joined = {name: getattr(settings, name) for name in ("bootstraps", "psk", "state_dir")}
    chosen = CliSettings.load(joined)

    @asynccontextmanager
    async def balanced(services: Sequence[str], policy: str) -> AsyncIterator[None]:
        variant = Variant(policy=policy, scaling=Scaling())
        try:
            async with (
                open_tested(chosen) as network,
                network.borrowed(services) as originals,
            ):
                for name, spec in originals.items():
                    await network.define(name, variant.spec(spec))
                for name, spec in originals.items():
                    await network.settle(name, spec.min_instances)
                yield
        except BaseExceptionGroup as group:
            error = alone(group)
            raise error from error.__cause__

    return balanced
