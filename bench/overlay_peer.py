"""One peer of `bench.overlay`: a node that joins, publishes and tells what it sees when told to.

Reads JSON lines: {"do": "join", …} once, then {"do": "publish", "id": …}, {"do": "withdraw", …} and
{"do": "estimate"}.
Prints one for each change of its view, and one when a command was carried out, with the time.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import structlog
import trio

from overlay.names import InstanceId, ServiceName
from overlay.node import Node, open_node
from overlay.records import InstanceState, Role
from overlay.settings import NodeSettings
from overlay.watching import changes_of

SERVICE = ServiceName("bench")


def main() -> None:
    """Run until standard input ends."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    trio.run(_run)


async def _run() -> None:
    lines = trio.lowlevel.FdStream(sys.stdin.fileno())
    buffer = bytearray()
    _say({"did": "start"})
    order = json.loads(await _line(lines, buffer))
    settings = NodeSettings(
        bootstraps=tuple(order["bootstraps"]),
        psk="bench",
        hostname=order["host"],
        p2p_listen_addr=f"{order['ip']}:4003",
        state_dir=Path(order["state"]),
        profile=order["profile"],
    )
    role = Role.ALLOCATOR if order["bootstraps"] else Role.BOOTSTRAP
    async with open_node(settings, role, name="bench") as node, trio.open_nursery() as nursery:
        nursery.start_soon(_watch, node)
        address = f"{node.record.addresses[0]}/p2p/{node.peer_id}"
        _say({"did": "join", "address": address, "peer": node.peer_id})
        while line := await _line(lines, buffer):
            _obey(node, json.loads(line))
        nursery.cancel_scope.cancel()


async def _line(stream: trio.abc.ReceiveStream, buffer: bytearray) -> bytes:
    while b"\n" not in buffer:
        data = await stream.receive_some()
        if not data:
            return b""
        buffer += data
    line, _, rest = bytes(buffer).partition(b"\n")
    buffer[:] = rest
    return line


def _obey(node: Node, order: dict[str, Any]) -> None:
    at = time.time()
    if order["do"] == "estimate":
        _say({"did": "estimate", "rtts": _estimates(node)})
        return
    instance = InstanceId(order["id"])
    if order["do"] == "publish":
        node.set_instance(
            instance,
            service=SERVICE,
            revision=1,
            state=InstanceState.READY,
            address="127.0.0.1:1",
            concurrency=1,
        )
    else:
        node.withdraw_instance(instance)
    _say({"did": order["do"], "id": instance, "since": at})


def _estimates(node: Node) -> dict[str, float]:
    """Return the RTTs that coordinates alone give, in seconds by host."""
    coordinates = node.view.membership.coordinates
    guesses = {p.record.host: coordinates.estimate(p.peer_id) for p in node.view.peers()}
    return {host: guess.rtt_s for host, guess in guesses.items() if guess is not None}


async def _watch(node: Node) -> None:
    async for changes in changes_of(node.view, node.changed):
        for change in changes:
            _say(change)


def _say(what: dict[str, Any]) -> None:
    print(json.dumps({"at": time.time(), **what}), flush=True)


if __name__ == "__main__":
    main()
