from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from overlay.errors import PeerUnreachable
from overlay.framing import FramedStream
from overlay.names import PeerId
from overlay.reach import DIAL_TIMEOUT_S, STAGGER_S, Reach

PEER = PeerId("peer")


class Network:
    """Hosts that answer, fail or say nothing at their addresses; virtual time."""

    def __init__(self, **answers: float | None) -> None:
        self.answers = answers
        self.dialled: list[tuple[str, float]] = []
        self.there: set[PeerId] = set()

    async def connect(self, peer: PeerId | None, address: str, *, timeout_s: float) -> PeerId:
        assert peer in {PEER, None}
        self.dialled.append((address, trio.current_time()))
        takes = self.answers[address]
        with trio.move_on_after(timeout_s):
            await trio.sleep(float("inf") if takes is None else abs(takes))
            if takes is not None and takes >= 0:
                self.there.add(PEER)
                return PEER
        raise PeerUnreachable(f"{address}: nobody")

    async def open_stream(self, peer: PeerId, protocol: str) -> FramedStream:
        raise NotImplementedError

    def handle(
        self, protocol: str, handler: Callable[[PeerId, FramedStream], Awaitable[None]]
    ) -> None:
        raise NotImplementedError

    def connected(self) -> frozenset[PeerId]:
        return frozenset(self.there)


def reach_of(network: Network, *addresses: str) -> Reach:
    def found(peer: PeerId) -> Sequence[str]:
        return addresses

    return Reach(network, found)


async def test_an_address_that_says_nothing_holds_up_the_next_one_for_a_moment_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network = Network(hole=None, home=0.01)
    began = trio.current_time()
    await reach_of(network, "hole", "home").connect(PEER)
    assert trio.current_time() - began == pytest.approx(STAGGER_S + 0.01)


async def test_who_wants_the_same_peer_waits_for_the_same_attempt(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network = Network(home=1.0)
    reach = reach_of(network, "home")
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(reach.connect, PEER)
    assert len(network.dialled) == 1


async def test_a_peer_that_answers_nowhere_is_unreachable_for_everybody_who_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reach = reach_of(Network(one=-0.1, other=-0.1), "one", "other")
    refused = []

    async def want() -> None:
        with pytest.raises(PeerUnreachable):
            await reach.connect(PEER)
        refused.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(want)
        await wait_all_tasks_blocked()
        nursery.start_soon(want)
    assert len(refused) == 2


async def test_a_peer_without_addresses_is_said_to_have_none() -> None:
    with pytest.raises(PeerUnreachable, match="no address"):
        await reach_of(Network()).connect(PEER)


async def test_a_cancelled_attempt_lets_the_next_one_try(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network = Network(home=1.0)
    reach = reach_of(network, "home")
    with trio.move_on_after(0.1):
        await reach.connect(PEER)
    await reach.connect(PEER)
    assert PEER in network.connected()


async def test_of_many_peers_the_first_that_answers_is_enough_however_many_are_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    gone = {f"gone{n}": None for n in range(4)}
    network = Network(**gone, here=0.01, later=0.01)
    began = trio.current_time()
    await reach_of(network).connect_any([*gone, "here", "later"])
    assert trio.current_time() - began == pytest.approx(4 * STAGGER_S + 0.01)
    assert "later" not in {address for address, _ in network.dialled}


async def test_where_none_of_many_answers_the_attempt_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network = Network(hole=None, refused=-0.01)
    began = trio.current_time()
    await reach_of(network).connect_any(["hole", "refused"])
    assert trio.current_time() - began == pytest.approx(DIAL_TIMEOUT_S)
    assert not network.there
