"""When a newcomer announces itself, and to whom; in virtual time."""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

import pytest
import trio
import trio.testing

from overlay.announcements import Announcements
from overlay.announcing import WAITS_S, Announcer
from overlay.endpoints import Endpoint
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.records import PeerRecord, Role, Version, sign_record
from overlay.signed import Signed

ME, BOOT = (Identity.from_seed(bytes([n]) * 32) for n in range(2))
KEY = b"k" * 32
RECORD = sign_record(
    ME, PeerRecord(version=Version(epoch=1.0, counter=2), role=Role.PROXY, host="h")
)
PLACE = Endpoint("192.0.2.1", 4001)
ADDRESS = f"/ip4/192.0.2.1/tcp/4001/p2p/{BOOT.peer_id}"


@dataclass
class Sent:
    """What was sent where, and when."""

    times: list[float] = field(default_factory=list)
    datagrams: list[bytes] = field(default_factory=list)
    places: set[Endpoint] = field(default_factory=set)

    def __call__(self, datagram: bytes, place: Endpoint) -> bool:
        self.times.append(trio.current_time())
        self.datagrams.append(datagram)
        self.places.add(place)
        return True


class NoNames(trio.abc.HostnameResolver):
    """Knows no names, only addresses."""

    async def getaddrinfo(self, host: object, *_: object) -> NoReturn:
        raise socket.gaierror(f"{host!r} is not known")

    async def getnameinfo(self, *_: object) -> NoReturn:
        raise NotImplementedError


def announcer(
    *bootstraps: str, knows: Callable[[PeerId], bool] = lambda _: False, key: bytes = KEY
) -> tuple[Announcer, Sent]:
    announcements = Announcements(ME.peer_id, [key] if key else [])
    made = Announcer(announcements, bootstraps, own=lambda: [RECORD], knows=knows)
    made.transmit = sent = Sent()
    return made, sent


async def test_a_bootstrap_that_does_not_answer_is_told_a_few_times(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, sent = announcer(ADDRESS)
    began = trio.current_time()
    await one.run()
    expected = [began + sum(WAITS_S[:n]) for n in range(len(WAITS_S))]
    assert sent.times == pytest.approx(expected)
    assert sent.places == {PLACE}
    assert len(set(sent.datagrams)) == len(WAITS_S), "none is a replay of another"


async def test_a_bootstrap_that_answered_is_told_no_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, sent = announcer(ADDRESS, knows=lambda peer: peer == BOOT.peer_id)
    await one.run()
    assert len(sent.times) == 1


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/192.0.2.1/tcp/4001",
        f"/ip4/192.0.2.1/tcp/4001/p2p/{ME.peer_id}/p2p-circuit/p2p/{BOOT.peer_id}",
        f"/dns4/nowhere.example/tcp/4001/p2p/{BOOT.peer_id}",
    ],
)
async def test_nothing_is_sent_to_who_is_not_known_by_name_and_place(address: str) -> None:
    trio.socket.set_custom_hostname_resolver(NoNames())
    one, sent = announcer(address)
    await one.run()
    assert sent.times == []


async def test_an_open_network_is_silent(autojump_clock: trio.testing.MockClock) -> None:
    one, sent = announcer(ADDRESS, key=b"")
    await one.run()
    assert sent.times == []
    assert one.announcement(BOOT.peer_id) is None


async def test_what_comes_is_handed_on_and_nothing_else_is_taken_for_one() -> None:
    one, _ = announcer()
    other = Announcer(Announcements(BOOT.peer_id, [KEY]), (), own=list, knows=lambda _: False)
    taken: list[Signed] = []
    other.taken = taken.append
    datagram = one.announcement(BOOT.peer_id)
    assert datagram is not None
    assert other.hear(datagram)
    assert other.hear(datagram), "once more: it is one, and not taken"
    assert not other.hear(b"something else")
    assert taken == [RECORD]
