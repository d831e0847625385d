"""Commanding load hosts for as long as a block runs."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from bench.lab.hosts.apps import Deployed
from bench.lab.hosts.collecting import Collector
from bench.lab.hosts.fleet import Fleet
from bench.lab.hosts.held_rates import Tell
from bench.lab.hosts.network import HostNetwork, OverlayNetwork, OwnNetwork
from bench.lab.hosts.service import open_station
from bench.lab.hosts.settings import JOIN_TIMEOUT_S, HostSettings
from bench.lab.request_trace import TraceSink
from myxo.mapping.owner import owner
from overlay import options
from overlay.advertising import system_hostname
from overlay.errors import PeerUnreachable, SettingsInvalid
from overlay.node import open_node
from overlay.records import Role
from overlay.settings import NodeSettings

FLUSH_S = 5.0
"""For the traces that hosts still have when the block ends."""


@asynccontextmanager
async def open_fleet(
    settings: NodeSettings,
    sink: TraceSink | None = None,
    tell: Tell = lambda _, __: None,
    *,
    timeout_s: float = JOIN_TIMEOUT_S,
) -> AsyncIterator[Fleet]:
    """Join the network and yield its load hosts.

    Args:
        settings: which network, and where deployed clients are.
        sink: takes the traces of requests; None leaves none.
        tell: takes events: hosts that are lost, back or have failed, traces that are lost.
        timeout_s: seconds within which a bootstrap node must be found.

    Raises:
        SettingsInvalid: no bootstrap node is named.
        PeerUnreachable: none answers.
        PassphraseRefused: the network has another passphrase.
    """
    if not settings.bootstraps:
        raise SettingsInvalid(options.NO_BOOTSTRAP)
    joined = False
    with trio.move_on_after(timeout_s) as joining:
        async with open_node(settings, Role.CLIENT) as node:
            joined = True
            joining.deadline = math.inf
            network = OverlayNetwork(node, owner())
            async with _open(network, settings.state_dir, sink, tell) as fleet:
                yield fleet
    if not joined:
        raise PeerUnreachable(
            f"no bootstrap node answered within {timeout_s:g} s: {', '.join(settings.bootstraps)}"
        )


@asynccontextmanager
async def open_own_host(
    settings: HostSettings, sink: TraceSink | None = None, tell: Tell = lambda _, __: None
) -> AsyncIterator[Fleet]:
    """Yield a load host that runs inside this process, without any network.

    Raises:
        BadInput: traces cannot go where they are to go.
    """
    name = settings.hostname or system_hostname()
    async with open_station(settings, name) as station:
        network = OwnNetwork(name, station)
        async with _open(network, settings.state_dir, sink, tell) as fleet:
            yield fleet


@asynccontextmanager
async def _open(
    network: HostNetwork, state_dir: Path, sink: TraceSink | None, tell: Tell
) -> AsyncIterator[Fleet]:
    collector = None if sink is None else Collector(network, sink, tell)
    fleet = Fleet(network, Deployed.below(state_dir), tell, collector)
    async with trio.open_nursery() as nursery:
        await nursery.start(fleet.watch)
        if collector is not None:
            nursery.start_soon(collector.run)
        try:
            yield fleet
        finally:
            with trio.move_on_after(FLUSH_S, shield=True):
                await fleet.flush()
        nursery.cancel_scope.cancel()
