"""`myxo rtt A B`: how far two machines or peers are from each other."""

import json
from pathlib import Path
from typing import Any

import trio

from myxo.status import NothingRuns, control_sockets, read_status
from overlay.control import open_control
from overlay.distances import Pair
from overlay.errors import MyxoError, PeerUnreachable
from overlay.names import ServiceName, near_names

ANSWER_TIMEOUT_S = 6.0

_PREFERRED = ("allocator", "bootstrap", "registry", "proxy")
"""Which of a machine's peers stands for it: they are equally far, and these live longest."""


class UnknownPeer(MyxoError):
    """No host or peer of the network has this name."""


async def read_rtt(state_dir: Path, one: str, other: str | None) -> dict[str, Any]:
    """Return what is known of the RTT between two hosts or peers.

    Args:
        state_dir: of this machine's daemons.
        one: a host's name, a peer id, or the end of one.
        other: the same; this machine if None.

    Raises:
        NothingRuns: no daemon runs here.
        UnknownPeer: there is no such host or peer.
    """
    daemons = await read_status(state_dir)
    peers = _peers(daemons)
    here = daemons[0]["host"]
    a, b = _find(peers, one), _find(peers, here if other is None else other)
    for path in control_sockets(state_dir):
        try:
            with trio.fail_after(ANSWER_TIMEOUT_S):
                async with open_control(path, "rtt") as connection:
                    await connection.send(Pair(one=a["peer_id"], other=b["peer_id"]))
                    line = await connection.receive()
        except (PeerUnreachable, trio.TooSlowError):
            continue
        answer = {} if line is None else json.loads(line)
        if "measured_s" in answer:
            return {"one": a, "other": b, **answer}
    raise NothingRuns("no daemon of this machine answers; see `myxo status`")


def as_text(found: dict[str, Any]) -> str:
    """Return the line that a person reads."""
    names = f"{found['one']['host']} – {found['other']['host']}"
    measured, estimated = found["measured_s"], found["estimated_s"]
    said = []
    if measured is not None:
        said.append(f"measured {_ms(measured)} ± {_ms(found['variation_s'])} ms")
    if estimated is not None:
        said.append(f"estimated {_ms(estimated)} ± {_ms(found['error_s'])} ms")
    return f"{names}: {', '.join(said) or 'not known yet: no probe of either was answered'}"


def _peers(daemons: list[dict[str, Any]]) -> list[dict[str, str]]:
    seen = {p["peer_id"]: p for d in daemons for p in [d, *d["peers"]]}
    found = [{k: p[k] for k in ("peer_id", "host", "role")} for p in seen.values()]
    known = {role: rank for rank, role in enumerate(_PREFERRED)}
    return sorted(found, key=lambda p: (known.get(p["role"], len(known)), p["peer_id"]))


def _find(peers: list[dict[str, str]], name: str) -> dict[str, str]:
    for peer in peers:
        if name in {peer["host"], peer["peer_id"]}:
            return peer
    ends = [peer for peer in peers if peer["peer_id"].endswith(name.removeprefix("…"))]
    if len(ends) == 1:
        return ends[0]
    hosts = [ServiceName(host) for host in dict.fromkeys(peer["host"] for peer in peers)]
    near = near_names(name, hosts) or hosts[:8]
    raise UnknownPeer(f"no host or peer is called {name!r}; there is {', '.join(near)}")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f}"
