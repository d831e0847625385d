"""The overlay's end of a load host: who may command it, and what it is told."""

import time
from collections.abc import Callable, Collection
from functools import partial

from pydantic import BaseModel

from bench.lab.hosts.messages import COMMAND, LAB_PROTOCOL, Command
from bench.lab.hosts.station import Station
from bench.lab.hosts.warrant import check
from overlay.calls import CallHost, serve_calls
from overlay.names import PeerId


def serve_station(
    host: CallHost, station: Station, trusted: Callable[[], Collection[PeerId]]
) -> None:
    """Do the orders that come over the overlay from whom somebody trusted lets command.

    Args:
        host: takes the streams.
        station: does the orders.
        trusted: returns the owner keys that this machine obeys, as of now.
    """
    serve_calls(host, LAB_PROTOCOL, COMMAND, partial(_obey, station, trusted))


async def _obey(
    station: Station, trusted: Callable[[], Collection[PeerId]], peer: PeerId, command: Command
) -> BaseModel:
    check(command.warrant, peer, trusted(), time.time())
    return await station.do(peer, command.key, command.order)
