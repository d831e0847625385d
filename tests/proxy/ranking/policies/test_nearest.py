"""The default policy in a small world: a fixed rate of requests, backends with their own times."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random

import pytest

from proxy.ranking.policies import Backend, Nearest, Policy

RATE = 500.0
FAST_S, SLOW_S = 0.01, 0.1


@dataclass(slots=True)
class World:
    """Requests at a fixed rate, in virtual time; each takes its backend's time and no queueing.

    Attributes:
        taken_s: how long each backend takes now, by its name.
        spread: draws a factor for each request's time.
        answers: (when it was sent, backend, how long it took) of each request.
    """

    policy: Policy
    among: Sequence[Backend]
    taken_s: dict[str, float]
    spread: Callable[[], float] = lambda: 1.0
    now: float = 0.0
    answers: list[tuple[float, str, float]] = field(default_factory=list)
    _ends: list[tuple[float, int, Backend, float]] = field(default_factory=list)

    def run(self, seconds: float, rate: float = RATE) -> None:
        for number in range(int(seconds * rate)):
            self.now += 1 / rate
            while self._ends and self._ends[0][0] <= self.now:
                at, _, backend, took_s = heappop(self._ends)
                backend.in_flight -= 1
                backend.latency.observe(took_s, at)
            chosen = self.policy.pick(self.among, self.now)
            assert chosen is not None
            took_s = self.taken_s[chosen.name] * self.spread()
            chosen.in_flight += 1
            self.answers.append((self.now, chosen.name, took_s + chosen.distance_s))
            heappush(self._ends, (self.now + took_s, number, chosen, took_s))

    def shares(self, since: float = 0.0) -> Counter[str]:
        return Counter(name for at, name, _ in self.answers if at > since)

    def p99_s(self, since: float = 0.0) -> float:
        found = sorted(took_s for at, _, took_s in self.answers if at > since)
        return found[int(len(found) * 0.99)]


def world(*taken_s: float, spread: Callable[[], float] = lambda: 1.0) -> World:
    among = tuple(Backend(f"b{n}") for n in range(len(taken_s)))
    times = {b.name: t for b, t in zip(among, taken_s, strict=True)}
    return World(Nearest(Random(7)), among, times, spread)


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("kind", ["constant", "exponential"])
def test_equals_get_equal_shares_of_1500_requests_however_much_their_times_vary(
    count: int, kind: str
) -> None:
    random = Random(11)
    spread = (lambda: random.expovariate(1)) if kind == "exponential" else (lambda: 1.0)
    found = world(*[FAST_S] * count, spread=spread)
    found.run(3.0)
    assert len(found.answers) == 1500
    for share in found.shares().values():
        assert share == pytest.approx(1500 / count, rel=0.10)


@pytest.mark.parametrize("count", [3, 10])
def test_one_ten_times_slower_backend_does_not_raise_the_p99(count: int) -> None:
    found = world(*[FAST_S] * (count - 1), SLOW_S)
    found.run(20.0)
    assert found.p99_s() <= 1.5 * FAST_S


def test_one_that_becomes_ten_times_slower_is_left_out_after_a_few_answers() -> None:
    found = world(FAST_S, FAST_S, FAST_S)
    found.run(3.0)
    found.taken_s["b1"] = SLOW_S
    found.run(5.0)
    assert found.shares(since=3.0)["b1"] < 30
    assert found.p99_s(since=3.0) == pytest.approx(SLOW_S) or found.shares(since=3.0)["b1"] < 25


def test_a_slow_one_that_has_recovered_comes_back_to_its_share() -> None:
    found = world(FAST_S, FAST_S, SLOW_S)
    found.run(5.0)
    found.taken_s["b2"] = FAST_S
    found.run(30.0)
    late = found.shares(since=32.0)
    assert late["b2"] == pytest.approx(late.total() / 3, rel=0.10)


def test_a_slow_one_is_tried_again_now_and_then_by_one_request() -> None:
    found = world(FAST_S, FAST_S, SLOW_S)
    found.run(5.0)
    found.run(60.0)
    assert 3 <= found.shares(since=5.0)["b2"] <= 10


def test_a_pause_that_many_requests_met_does_not_part_equals() -> None:
    found = world(FAST_S, FAST_S, FAST_S)
    found.run(2.0)
    found.taken_s["b1"] = 0.3
    found.run(0.05)
    found.taken_s["b1"] = FAST_S
    found.run(3.0)
    late = found.shares(since=2.5)
    assert late["b1"] == pytest.approx(late.total() / 3, rel=0.10)


def test_slow_ones_are_used_once_the_others_are_as_slow() -> None:
    found = world(FAST_S, SLOW_S)
    found.run(2.0, rate=2000)
    found.among[0].in_flight += 100  # what somebody else has there
    found.run(0.2, rate=2000)
    assert found.shares(since=2.0)["b1"] > 20


def test_a_new_one_is_let_in_by_and_by() -> None:
    found = world(FAST_S, FAST_S)
    found.run(3.0)
    found.among = (*found.among, Backend("new"))
    found.taken_s["new"] = FAST_S
    found.run(0.0095)  # less than one answer takes
    assert found.shares(since=3.0)["new"] <= 1
    found.run(3.0)
    assert found.shares(since=3.0)["new"] == pytest.approx(500, rel=0.10)


def test_a_new_one_that_never_answers_gets_one_request() -> None:
    found = world(FAST_S, FAST_S)
    found.run(1.0)
    found.among = (*found.among, Backend("new"))
    found.taken_s["new"] = 1000.0
    found.run(10.0)
    assert found.shares()["new"] == 1


def test_the_nearest_serves_until_it_is_busy() -> None:
    near, far = Backend("near", distance_s=0.002), Backend("far", distance_s=0.03)
    found = World(Nearest(Random(7)), (near, far), {"near": FAST_S, "far": FAST_S})
    found.run(5.0, rate=50)
    assert found.shares()["far"] <= 5
    found.run(5.0, rate=3000)
    assert found.shares(since=5.0)["far"] > 3000


def test_a_near_one_among_many_far_ones_serves_alone() -> None:
    far = [Backend(f"far{n}", distance_s=0.1) for n in range(249)]
    near = Backend("near", distance_s=0.002)
    found = World(Nearest(Random(7)), (*far, near), {b.name: 0.001 for b in (*far, near)})
    found.run(2.0)
    assert found.shares() == {"near": 1000}


def test_250_equals_are_all_reached_and_evenly() -> None:
    found = world(*[FAST_S] * 250)
    found.run(20.0)
    shares = found.shares()
    assert len(shares) == 250
    assert max(shares.values()) <= 44
    assert min(shares.values()) >= 36


class Counted(Backend):
    """A backend that counts how often it is looked at."""

    __slots__ = ("looks",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.looks = 0

    def usable(self, now: float) -> bool:  # noqa: ARG002
        self.looks += 1
        return True


def test_a_pick_looks_at_a_few_whatever_their_number() -> None:
    among = tuple(Counted(f"b{n}") for n in range(250))
    policy = Nearest(Random(1))
    for _ in range(1000):
        assert policy.pick(among, 0.0) is not None
    assert sum(b.looks for b in among) <= 1000 * 8
