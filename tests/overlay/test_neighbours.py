import random

from hypothesis import given
from hypothesis import strategies as st

from overlay.names import PeerId
from overlay.neighbours import FAR, FULL_MESH, NEAR, choose


def network(size: int) -> dict[PeerId, float]:
    return {PeerId(f"peer-{n:04}"): n / 1000 for n in range(size)}


def test_in_a_small_network_everybody_is_a_neighbour() -> None:
    members = network(FULL_MESH)
    assert choose(members, (), random.Random(1)) == members.keys()


@given(st.integers(FULL_MESH + 1, 300), st.integers())
def test_in_a_large_one_as_many_are_chosen_whatever_its_size(size: int, seed: int) -> None:
    members = network(size)
    chosen = choose(members, (), random.Random(seed))
    assert len(chosen) == NEAR + FAR
    assert len(chosen & set(list(members)[: 2 * NEAR])) >= NEAR


@given(st.integers(FULL_MESH + 1, 200), st.integers())
def test_whoever_still_serves_is_kept(size: int, seed: int) -> None:
    members = network(size)
    rng = random.Random(seed)
    first = choose(members, (), rng)
    assert choose(members, first, rng) == first
    lost = rng.choice(sorted(first))
    del members[lost]
    if len(members) > FULL_MESH:
        again = choose(members, first, rng)
        assert lost not in again
        assert len(first & again) >= len(first) - 2


def test_the_choices_of_all_make_one_connected_network() -> None:
    members = network(500)
    links: dict[PeerId, set[PeerId]] = {peer: set() for peer in members}
    for seed, peer in enumerate(members):
        others = {other: rtt for other, rtt in members.items() if other != peer}
        for other in choose(others, (), random.Random(seed)):
            links[peer].add(other)
            links[other].add(peer)
    reached, hops = {PeerId("peer-0000")}, 0
    while len(reached) < len(members):
        wave = {other for peer in reached for other in links[peer]} - reached
        assert wave
        reached |= wave
        hops += 1
    assert hops <= 5
