"""What `myxo watch` shows: each change of a member's or an instance's state, as it becomes known.

A change carries the wall clock's time at which this peer took it in, so that the streams of several
peers on one machine can be compared.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any

from overlay.names import InstanceId, PeerId
from overlay.view import View


class Watcher:
    """Finds what has changed in a view since it was last asked.

    Args:
        view: the view to watch.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._peers: dict[PeerId, str] = {}
        self._instances: dict[tuple[PeerId, InstanceId], str] = {}

    def changes(self) -> Iterator[dict[str, Any]]:
        """Yield what changed, everything there is at first."""
        at = time.time()
        peers = {p.peer_id: p for p in self._view.peers()}
        states = {peer: p.state.value for peer, p in peers.items()}
        states |= {
            peer: self._view.membership.state(peer).value
            for peer in self._peers.keys() - states.keys()
        }
        for peer, state in states.items():
            if self._peers.get(peer) != state:
                yield {"at": at, "peer": peer, "host": self._view.host_of(peer), "state": state}
        self._peers = {peer: state for peer, state in states.items() if peer in peers}
        instances = {i.key: i for i in self._view.all_instances()}
        for key, instance in instances.items():
            state = instance.record.state.value
            if self._instances.get(key) != state:
                yield self._about(at, key, state) | {"service": instance.record.service}
        for key in self._instances.keys() - instances.keys():
            yield self._about(at, key, "gone")
        self._instances = {key: i.record.state.value for key, i in instances.items()}

    def _about(self, at: float, key: tuple[PeerId, InstanceId], state: str) -> dict[str, Any]:
        owner, instance = key
        return {
            "at": at,
            "instance": instance,
            "peer": owner,
            "host": self._view.host_of(owner),
            "state": state,
        }


async def changes_of(
    view: View, changed: Callable[[], Awaitable[object]]
) -> AsyncGenerator[list[dict[str, Any]], None]:
    """Yield what changes in a view: everything there is at first, then changes together.

    What changes while a list is dealt with is in the next one.

    Args:
        view: the view to watch.
        changed: returns at the next change of the view.
    """
    watcher = Watcher(view)
    while True:
        if changes := list(watcher.changes()):
            yield changes
        else:
            await changed()
