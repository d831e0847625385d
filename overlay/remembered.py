"""Addresses of peers that were there, kept for a start at which no bootstrap node answers.

A network lives on with all its bootstrap nodes gone; with these addresses a machine that reboots
meanwhile finds it again. The file belongs to one network and holds no more than a hint: who answers
is proven by the connection.
"""

import json
import random
from pathlib import Path

import structlog
import trio

from overlay.addresses import InvalidAddress, parse_address
from overlay.names import PeerId
from overlay.view import View

REMEMBERED = 32
"""Peers; of so many some are still there, and at their address, after a night."""

KEEP_FIRST_S = 1.0
KEEP_PERIOD_S = 60.0
"""Between two writings of the file: soon after the start, because a plug may be pulled at any time,
then twice as long each time, up to this."""

_DIRECTORY = "peers"

log = structlog.get_logger()


def knows_peers_of(directory: Path, network_id: str) -> bool:
    """Return whether a daemon of this state directory remembers peers of a network."""
    return any((directory / _DIRECTORY).glob(f"{network_id}-*.json"))


class Remembered:
    """The file with the addresses of one network's peers.

    Args:
        directory: the daemon's state directory.
        network_id: the network's.
        me: whose own addresses are left out.
    """

    def __init__(self, directory: Path, network_id: str, me: PeerId) -> None:
        self._path = directory / _DIRECTORY / f"{network_id}-{me[-8:]}.json"
        self._me = me

    def addresses(self) -> tuple[str, ...]:
        """Return multiaddrs with peer ids, the nearest peers' first; none if there is no file."""
        try:
            stored = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return ()
        found = [a for a in stored if isinstance(a, str)] if isinstance(stored, list) else []
        return tuple(a for a in found[: 4 * REMEMBERED] if _is_dialable(a, self._me))

    async def keep(self, view: View, rng: random.Random) -> None:
        """Write the file now and then until cancelled, and once more at the end."""
        wait_s = KEEP_FIRST_S
        try:
            while True:
                await trio.sleep(wait_s)
                self.write(view, rng)
                wait_s = min(2 * wait_s, KEEP_PERIOD_S)
        finally:
            self.write(view, rng)

    def write(self, view: View, rng: random.Random) -> None:
        """Store some members' addresses, if there are any: half the nearest, half at random."""
        members = [p for p in view.peers() if p.record.addresses and not p.local]
        near, rest = members[: REMEMBERED // 2], members[REMEMBERED // 2 :]
        chosen = near + rng.sample(rest, min(len(rest), REMEMBERED - len(near)))
        if not chosen:
            return
        found = [f"{a}/p2p/{p.peer_id}" for p in chosen for a in p.record.addresses[:4]]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            written = self._path.with_suffix(".new")
            written.write_text(json.dumps(found))
            written.replace(self._path)
        except OSError as exc:
            log.warning("peers.not_remembered", path=str(self._path), error=str(exc))


def _is_dialable(address: str, me: PeerId) -> bool:
    try:
        parsed = parse_address(address)
    except InvalidAddress:
        return False
    return parsed.peer is not None and parsed.peer != me
