"""What every daemon can say of itself and its peers; `myxo status` shows it."""

import os
from typing import TYPE_CHECKING, Any

from overlay.names import PeerId

if TYPE_CHECKING:
    from overlay.node import Node


def node_status(node: "Node") -> dict[str, Any]:
    """Return what every daemon can say of itself and its peers, as JSON-ready values."""
    return {
        "peer_id": node.peer_id,
        "role": node.role.value,
        "host": node.hostname,
        "network": node.keys.network_id,
        "open": node.keys.is_open,
        "trust": node.trust.status(),
        "control": node.record.control,
        "addresses": [f"{a}/p2p/{node.peer_id}" for a in node.record.addresses],
        "metrics_port": node.metrics_port,
        "pid": os.getpid(),
        "peers": [
            {
                "peer_id": p.peer_id,
                "role": p.record.role.value,
                "host": p.record.host,
                "state": p.state.value,
                "rtt_s": p.rtt_s,
                **_distances(node, p.peer_id),
                "local": p.local,
                "relayed": node.host.is_relayed(p.peer_id),
                "room": None if p.record.room is None else p.record.room.model_dump(),
                "runtimes": list(p.record.runtimes),
            }
            for p in node.view.peers()
        ],
        "instances": [
            {
                "service": i.record.service,
                "id": i.record.id,
                "revision": i.record.revision,
                "state": i.record.state.value,
                "owner": i.owner,
                "host": node.view.host_of(i.owner),
                "rtt_s": 0.0 if i.local else i.rtt_s,
                "in_flight": node.view.in_flight(i),
            }
            for i in node.view.all_instances()
        ],
    }


def _distances(node: "Node", peer: PeerId) -> dict[str, float | None]:
    """Return measurement and estimate side by side, in seconds."""
    measured = node.view.membership.rtt(peer)
    guess = node.view.membership.coordinates.estimate(peer)
    return {
        "measured_rtt_s": None if measured is None else measured.smoothed_rtt,
        "estimated_rtt_s": None if guess is None else guess.rtt_s,
        "estimate_error_s": None if guess is None else guess.error_s,
    }
