"""Sends announcements, and hands on those that come; `announcements.py` says what they are."""

import os
import time
from collections.abc import Callable, Iterable

import trio

from overlay.addresses import Address, parse_addresses
from overlay.announcements import SALT_BYTES, Announcements
from overlay.endpoints import Endpoint
from overlay.names import PeerId
from overlay.signed import Signed

WAITS_S = (0.2, 0.4, 0.8, 1.6)
"""After each announcement to a bootstrap that does not answer: at 5 % loss all four are lost once
in 160,000 times, and by then the stream is there."""

MOST_PLACES = 4
"""Addresses of a bootstrap's name that are tried."""


class Announcer:
    """Announces this peer to the bootstraps, and to peers that may not know it yet.

    Args:
        announcements: seals and opens.
        bootstraps: multiaddrs that say who answers there; none for who is not to be known.
        own: returns this peer's own record, in forms of which the first that fits is announced.
        knows: whether a peer's record is held, which shows that it answered.

    Attributes:
        taken: called with what was announced here, unverified.
        transmit: sends a datagram over UDP.
    """

    taken: Callable[[Signed], None]
    transmit: Callable[[bytes, Endpoint], bool]

    def __init__(
        self,
        announcements: Announcements,
        bootstraps: Iterable[str],
        *,
        own: Callable[[], Iterable[Signed]],
        knows: Callable[[PeerId], bool],
    ) -> None:
        self._announcements = announcements
        self._bootstraps = parse_addresses(bootstraps)
        self._own = own
        self._knows = knows

    async def run(self) -> None:
        """Announce this peer to each bootstrap until it answers, or a few times."""
        if self._announcements.is_silent:
            return
        async with trio.open_nursery() as nursery:
            for address in self._bootstraps:
                if address.peer is not None and address.relay is None:
                    nursery.start_soon(self._announce, address, address.peer)

    def hear(self, datagram: bytes, source: str | None = None) -> bool:
        """Take in a datagram if it is an announcement; return whether it is.

        Args:
            datagram: as it came.
            source: the IP address that it came from.
        """
        opened = self._announcements.open(datagram, time.time(), source)
        if isinstance(opened, Signed):
            self.taken(opened)
        return opened is not None

    def announcement(self, to: PeerId) -> bytes | None:
        """Return this peer's record as a datagram for `to`, if there may be one and it fits."""
        if self._announcements.is_silent:
            return None
        for form in self._own():
            salt = os.urandom(SALT_BYTES)
            datagram = self._announcements.seal(to, form, time.time(), salt)
            if datagram is not None:
                return datagram
        return None

    async def _announce(self, address: Address, peer: PeerId) -> None:
        places = await _places(address)
        for wait_s in WAITS_S:
            for place in places:
                if (datagram := self.announcement(peer)) is not None:
                    self.transmit(datagram, place)
            await trio.sleep(wait_s)
            if self._knows(peer):
                return


async def _places(address: Address) -> list[Endpoint]:
    """Return where datagrams to an address go: at the TCP port's number."""
    try:
        found = await trio.socket.getaddrinfo(
            address.host, address.port, address.family, trio.socket.SOCK_DGRAM
        )
    except OSError:  # whoever dials it says so
        return []
    return [Endpoint(str(place[0]), int(place[1])) for *_, place in found][:MOST_PLACES]
