"""What is known of the RTT between two peers: measured by one of them, and estimated here.

`/myxo/rtt/1.0.0` asks a peer what it has measured to another one. The estimate needs nobody: it
comes from the coordinates that both sent along with their answers to probes.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

from overlay.calls import Caller, CallHost, serve_calls
from overlay.control import ControlConnection
from overlay.errors import MyxoError
from overlay.names import PeerId
from overlay.view import View

RTT_PROTOCOL = "/myxo/rtt/1.0.0"

ASK_TIMEOUT_S = 2.0


class Measure(BaseModel):
    """Ask for the RTT that the asked peer has measured to another."""

    model_config = ConfigDict(extra="ignore")

    peer: PeerId


class Measured(BaseModel):
    """The RTT in seconds and its variation (RFC 6298); None if no probe was ever answered."""

    model_config = ConfigDict(extra="ignore")

    smoothed_rtt: float | None = None
    rtt_variation: float | None = None


class Pair(BaseModel):
    """What a local command asks a daemon: the RTT between two peers."""

    one: PeerId
    other: PeerId


def serve_distances(host: CallHost, view: View) -> None:
    """Answer what this peer has measured."""

    async def answer(asker: PeerId, request: Measure) -> Measured:
        del asker
        return measured(view, request.peer)

    serve_calls(host, RTT_PROTOCOL, Measure, answer)


def measured(view: View, peer: PeerId) -> Measured:
    """Return what this peer has measured to `peer`."""
    estimate = view.membership.rtt(peer)
    if estimate is None:
        return Measured()
    return Measured(smoothed_rtt=estimate.smoothed_rtt, rtt_variation=estimate.rtt_variation)


async def between(view: View, calls: Caller, pair: Pair) -> dict[str, Any]:
    """Return the RTT between two peers, in seconds, measured by one of them and estimated here."""
    found = Measured()
    for asked, target in ((pair.one, pair.other), (pair.other, pair.one)):
        if found.smoothed_rtt is not None:
            break
        if asked == view.me:
            found = measured(view, target)
            continue
        try:
            request = Measure(peer=target)
            found = await calls.call(
                asked, RTT_PROTOCOL, request, Measured, timeout_s=ASK_TIMEOUT_S
            )
        except MyxoError:
            continue  # the estimate is what there is
    guess = view.membership.coordinates.between(pair.one, pair.other)
    return {
        "measured_s": found.smoothed_rtt,
        "variation_s": found.rtt_variation,
        "estimated_s": None if guess is None else guess.rtt_s,
        "error_s": None if guess is None else guess.error_s,
    }


async def serve_pair(connection: ControlConnection, view: View, calls: Caller) -> None:
    """Answer one local command; its second line names the pair."""
    line = await connection.receive()
    if line is not None:
        await connection.send(await between(view, calls, Pair.model_validate_json(line)))
