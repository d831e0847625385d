"""What every policy holds to, and what sets each apart."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.balancing import HASHING, POLICIES
from proxy.ranking.policies import Backend, Policy, policy_named

EVEN = ("peak_ewma", "round_robin", "weighted_round_robin", "least_request", "static")
"""Those that leave nothing of the shares of equals to chance, or next to nothing."""

BY_WEIGHT = ("weighted_round_robin", "weighted_random", "weighted_least_request", "static")


@dataclass(slots=True, eq=False)
class Worker(Backend):
    """A backend that can be full."""

    full: bool = False

    def usable(self, now: float) -> bool:  # noqa: ARG002
        return not self.full


def workers(count: int) -> tuple[Worker, ...]:
    return tuple(Worker(f"w{n}") for n in range(count))


def counted(policy: Policy, among: Sequence[Backend], picks: int) -> Counter[str]:
    found = (policy.pick(among, 0.0) for _ in range(picks))
    return Counter(backend.name for backend in found if backend is not None)


@pytest.mark.parametrize("name", POLICIES)
@given(
    full=st.lists(st.booleans(), max_size=12),
    weights=st.lists(st.sampled_from([0.0, 0.25, 1.0, 3.0]), min_size=12, max_size=12),
    load=st.lists(st.integers(0, 5), min_size=12, max_size=12),
    key=st.none() | st.binary(max_size=4),
    seed=st.integers(0, 9),
)
def test_what_is_picked_is_usable_and_something_is_if_anything_is(
    name: str,
    full: list[bool],
    weights: list[float],
    load: list[int],
    key: bytes | None,
    seed: int,
) -> None:
    key = None if name == "original_destination" else key
    among = tuple(
        Worker(f"w{n}", weights[n], in_flight=load[n], full=it) for n, it in enumerate(full)
    )
    policy = policy_named(name, Random(seed))
    for _ in range(4):
        chosen = policy.pick(among, 0.0, key)
        assert (chosen is None) == all(full)
        if chosen is not None:
            assert chosen in among
            assert not chosen.full
        for worker in among:  # what was prepared must not be trusted
            worker.full = not worker.full
        full = [not it for it in full]


@pytest.mark.parametrize("name", POLICIES)
def test_the_backends_may_change_between_two_picks(name: str) -> None:
    policy, all_of_them = policy_named(name, Random(1)), workers(9)
    for among in (all_of_them, all_of_them[:2], all_of_them[5:], (), all_of_them[:1]):
        for _ in range(5):
            chosen = policy.pick(among, 0.0, None)
            assert (chosen in among) if among else chosen is None


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_seed_picks_the_same(name: str) -> None:
    runs = [
        [policy.pick(among, 0.0) is among[2] for _ in range(50)]
        for policy, among in ((policy_named(name, Random(3)), workers(5)) for _ in range(2))
    ]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", EVEN)
@pytest.mark.parametrize("count", [2, 3, 10, 30])
def test_equals_get_equal_shares(name: str, count: int) -> None:
    shares = counted(policy_named(name, Random(5)), workers(count), 1500)
    assert len(shares) == count
    assert all(share == pytest.approx(1500 / count, rel=0.10) for share in shares.values())


@pytest.mark.parametrize("name", ["random", "weighted_random", "weighted_least_request"])
def test_chance_gives_equals_about_equal_shares(name: str) -> None:
    shares = counted(policy_named(name, Random(5)), workers(3), 15_000)
    assert all(share == pytest.approx(5000, rel=0.10) for share in shares.values())


@pytest.mark.parametrize("name", BY_WEIGHT)
def test_shares_are_as_the_weights_fractions_included(name: str) -> None:
    among = (Backend("a", 0.5), Backend("b", 1.9), Backend("c", 0.1), Backend("d", 0.0))
    shares = counted(policy_named(name, Random(5)), among, 25_000)
    assert shares["a"] == pytest.approx(5_000, rel=0.10)
    assert shares["b"] == pytest.approx(19_000, rel=0.10)
    assert shares["c"] == pytest.approx(1_000, rel=0.15)
    assert "d" not in shares


@pytest.mark.parametrize("name", BY_WEIGHT)
def test_weight_0_serves_where_nobody_else_can(name: str) -> None:
    among = (Worker("a", 1.0, full=True), Worker("b", 0.0))
    chosen = policy_named(name, Random(1)).pick(among, 0.0)
    assert chosen is among[1]


def test_round_robin_takes_each_in_turn_and_passes_over_who_is_full() -> None:
    policy, among = policy_named("round_robin", Random(1)), workers(3)
    among[1].full = True
    turns = [policy.pick(among, 0.0) for _ in range(4)]
    assert [w.name for w in turns if w] == ["w0", "w2", "w0", "w2"]


def test_weights_1_and_2_give_b_a_b() -> None:
    policy, among = policy_named("weighted_round_robin", Random(1)), (Backend("a"), Backend("b", 2))
    turns = [policy.pick(among, 0.0) for _ in range(6)]
    assert "".join(w.name for w in turns if w) == "babbab"


def test_heavy_turns_are_spread() -> None:
    among = (Backend("a", 5), Backend("b"), Backend("c"))
    policy = policy_named("weighted_round_robin", Random(1))
    turns = "".join(w.name for _ in range(70) if (w := policy.pick(among, 0.0)))
    assert "bc" not in turns
    assert "aaaaaa" not in turns
    assert Counter(turns) == {"a": 50, "b": 10, "c": 10}


def test_who_comes_back_does_not_catch_up_on_its_turns() -> None:
    policy, among = policy_named("weighted_round_robin", Random(1)), workers(3)
    among[0].full = True
    counted(policy, among, 300)
    among[0].full = False
    assert counted(policy, among, 30)["w0"] == pytest.approx(10, abs=1)


def test_who_joins_waits_its_turn() -> None:
    policy, among = policy_named("weighted_round_robin", Random(1)), workers(4)
    counted(policy, among[:3], 300)
    assert counted(policy, among, 40)["w3"] == pytest.approx(10, abs=1)


@pytest.mark.parametrize("name", ["least_request", "weighted_least_request", "peak_ewma"])
def test_the_busier_of_two_is_not_taken(name: str) -> None:
    busy, idle = Backend("busy", in_flight=4), Backend("idle", in_flight=1)
    policy = policy_named(name, Random(1))
    shares = counted(policy, (busy, idle), 200)
    assert shares["busy"] == 0 or (name == "weighted_least_request" and shares["busy"] < 80)


def test_weight_counts_against_requests_in_flight() -> None:
    heavy, light = Backend("heavy", 4, in_flight=3), Backend("light", 1, in_flight=1)
    shares = counted(policy_named("weighted_least_request", Random(1)), (heavy, light), 1000)
    assert shares["heavy"] > 940  # the light one only where it is drawn twice: 1 in 25


@pytest.mark.parametrize("name", sorted(HASHING))
def test_a_key_stays_where_it_is_while_its_backend_does(name: str) -> None:
    policy, among = policy_named(name, Random(1)), workers(10)
    keys = [str(n).encode() for n in range(1000)]
    before = {key: policy.pick(among, 0.0, key) for key in keys}
    rest = among[:4] + among[5:]
    after = {key: policy.pick(rest, 0.0, key) for key in keys}
    moved = [k for k in keys if before[k] is not among[4] and before[k] is not after[k]]
    assert len(moved) <= 60
    assert all(policy.pick(among, 0.0, key) is before[key] for key in keys)


@pytest.mark.parametrize("name", sorted(HASHING))
def test_keys_do_not_move_with_the_order_or_the_distance_of_backends(name: str) -> None:
    policy, among = policy_named(name, Random(1)), workers(7)
    keys = [str(n).encode() for n in range(200)]
    before = [policy.pick(among, 0.0, key) for key in keys]
    for worker in among:
        worker.distance_s = 0.5
    assert [policy.pick(tuple(among), 0.0, key) for key in keys] == before
    if name == "ring_hash":
        assert [policy.pick(among[::-1], 0.0, key) for key in keys] == before


@pytest.mark.parametrize("name", sorted(HASHING))
def test_the_keys_of_a_full_backend_go_on_and_come_back(name: str) -> None:
    policy, among = policy_named(name, Random(1)), workers(10)
    keys = [str(n).encode() for n in range(500)]
    before = {key: policy.pick(among, 0.0, key) for key in keys}
    among[3].full = True
    during = {key: policy.pick(among, 0.0, key) for key in keys}
    assert all(during[k] is before[k] for k in keys if before[k] is not among[3])
    moved_to = {d.name for k, d in during.items() if before[k] is among[3] and d is not None}
    assert len(moved_to) > 2
    among[3].full = False
    assert {key: policy.pick(among, 0.0, key) for key in keys} == before


@pytest.mark.parametrize("name", sorted(HASHING))
def test_a_large_circle_is_laid_in_slices_and_keys_go_by_the_one_before_meanwhile(
    name: str,
) -> None:
    policy, among = policy_named(name, Random(1)), workers(60)
    keys = [str(n).encode() for n in range(500)]
    assert all(policy.pick(among, 0.0, key) in among for key in keys)  # laid by now
    before = {key: policy.pick(among, 0.0, key) for key in keys}
    rest = among[:7] + among[8:]
    first = {key: policy.pick(rest, 0.0, key) for key in keys[:2]}  # not laid yet
    assert all(first[k] is before[k] for k in first if before[k] is not among[7])
    assert among[7] not in first.values()
    after = {key: policy.pick(rest, 0.0, key) for _ in "twice" for key in keys}
    moved = [k for k in keys if before[k] is not among[7] and before[k] is not after[k]]
    assert len(moved) <= 30
    fresh = policy_named(name, Random(2))
    for key in keys:
        fresh.pick(rest[::-1], 0.0, key)
    assert {key: fresh.pick(rest, 0.0, key) for key in keys} == after


@pytest.mark.parametrize("name", sorted(HASHING))
def test_circles_of_near_and_far_backends_are_kept_beside_each_other(name: str) -> None:
    policy, near = policy_named(name, Random(1)), workers(20)
    far = tuple(Worker(f"far{n}") for n in range(20))
    keys = [str(n).encode() for n in range(500)]
    for _ in "twice":
        near_picks = [policy.pick(near, 0.0, key) for key in keys]
        far_picks = [policy.pick(far, 0.0, key) for key in keys]
    for key, one, other in zip(keys, near_picks, far_picks, strict=True):
        assert policy.pick(near, 0.0, key) is one
        assert policy.pick(far, 0.0, key) is other


@pytest.mark.parametrize(("name", "most"), [("maglev", 0.05), ("ring_hash", 0.5)])
def test_hashed_shares_are_as_the_weights(name: str, most: float) -> None:
    among = (*workers(8), Backend("heavy", 2.0), Backend("none", 0.0))
    policy = policy_named(name, Random(1))
    found = (policy.pick(among, 0.0, str(n).encode()) for n in range(20_000))
    shares = Counter(b.name for b in found if b is not None)
    assert shares["heavy"] == pytest.approx(4000, rel=most + 0.05)
    assert all(shares[w.name] == pytest.approx(2000, rel=most + 0.05) for w in among[:8])
    assert shares["none"] == 0


def test_the_original_destination_is_taken_or_nothing() -> None:
    policy, among = policy_named("original_destination", Random(1)), workers(3)
    assert policy.pick(among, 0.0, b"w1") is among[1]
    assert policy.pick(among, 0.0, b"w9") is None
    among[1].full = True
    assert policy.pick(among, 0.0, b"w1") is None
    assert policy.pick(among, 0.0, None) in among


def test_an_unknown_policy_is_the_default() -> None:
    assert isinstance(
        policy_named("of_next_year", Random(1)), type(policy_named("peak_ewma", Random(1)))
    )
