"""A network of real nodes in one process, for the tests of what nodes do together."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from overlay.identity import Identity
from overlay.node import Node, open_node
from overlay.records import Role
from overlay.settings import NodeSettings

PASSPHRASE = "old passphrase"  # noqa: S105  (of a network that lives for one test)
POLL_S = 0.05


@dataclass(slots=True)
class NodeLab:
    """Nodes on loopback, each with a state directory of its own below `folder`.

    The first that is opened is what the others join through.

    Attributes:
        folder: a short path, below which control sockets are made.
        nursery: runs the nodes.
        admin: the owner key that all nodes are told.
    """

    folder: Path
    nursery: trio.Nursery
    admin: Identity
    _first: str = ""
    _running: dict[str, tuple[trio.CancelScope, trio.Event]] = field(default_factory=dict)

    def settings(self, name: str, **fields: object) -> NodeSettings:
        """Return the settings of the node `name`, some given."""
        values = {
            "psk": PASSPHRASE,
            "p2p_listen_addr": "127.0.0.1:0",
            "state_dir": self.folder / name,
            "admin": self.admin.peer_id,
            "hostname": name,
            "bootstraps": (self._first,) if self._first else (),
        }
        return NodeSettings.model_validate(values | fields)

    async def open(self, name: str, role: Role = Role.PROXY, **fields: object) -> Node:
        """Return a node that runs until `close` is called, or the nursery ends."""
        node: Node = await self.nursery.start(self._hold, name, self.settings(name, **fields), role)
        if not self._first:
            self._first = f"{node.record.addresses[0]}/p2p/{node.peer_id}"
        return node

    async def close(self, name: str) -> None:
        """Stop a node in good order."""
        scope, ended = self._running.pop(name)
        scope.cancel()
        await ended.wait()

    @asynccontextmanager
    async def opened(
        self, name: str, role: Role = Role.PROXY, **fields: object
    ) -> AsyncIterator[Node]:
        """Yield a node that runs while the block is open."""
        async with open_node(self.settings(name, **fields), role) as node:
            yield node

    async def _hold(
        self, name: str, settings: NodeSettings, role: Role, *, task_status: trio.TaskStatus[Node]
    ) -> None:
        ended = trio.Event()
        try:
            with trio.CancelScope() as scope:
                async with open_node(settings, role) as node:
                    self._running[name] = scope, ended
                    task_status.started(node)
                    await trio.sleep_forever()
        finally:
            ended.set()


async def until(node: Node, truth: Callable[[], bool]) -> None:
    """Return when something about a node is true, which need not be a change of its view."""
    while not truth():
        with trio.move_on_after(POLL_S):
            await node.changed()


def sees(node: Node, *others: Node) -> bool:
    """Whether `others` are members, as `node` sees it."""
    there = {p.peer_id for p in node.view.peers()}
    return all(other.peer_id in there for other in others)
