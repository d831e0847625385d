"""The bootstrap daemon: where others find the network, and the monitor of everybody's RTT."""

import os
import sys
from collections.abc import Callable

import structlog
import trio

from bootstrap.rtt_metrics import PingMonitor
from bootstrap.settings import BootstrapSettings
from overlay.cli import SUPERVISED
from overlay.node import Node, open_node
from overlay.notify import notify
from overlay.records import Role

DEFAULT_METRICS_ADDR = ":9100"

log = structlog.get_logger()


async def run(
    settings: BootstrapSettings,
    *,
    ready: Callable[[Node], None] | None = None,
) -> None:
    """Serve as a bootstrap node until cancelled.

    Args:
        settings: the daemon's settings; without bootstraps it founds a network.
        ready: called once others can join through this node; prints its addresses by default.
    """

    def prepare(node: Node) -> None:
        node.metrics.register(PingMonitor(node.view, node.hostname, node.host.connected))

    async with open_node(
        settings, Role.BOOTSTRAP, default_metrics_addr=DEFAULT_METRICS_ADDR, prepare=prepare
    ) as node:
        (ready or print_addresses)(node)
        notify("READY=1")
        await trio.sleep_forever()


def print_addresses(node: Node) -> None:
    """Print the multiaddrs that others pass to `--bootstrap`, one a line.

    Under `myxo up`, which prints the whole line to type, it says nothing.
    """
    if not os.environ.get(SUPERVISED):
        print("P2P addresses for this node:", file=sys.stderr)  # noqa: T201
        for address in node.record.addresses:
            print(f"{address}/p2p/{node.peer_id}", flush=True)  # noqa: T201
    log.info("bootstrap.ready", peer=node.peer_id, metrics_port=node.metrics_port)
