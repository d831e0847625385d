"""Coordinates, by serf's own performance tests and by what a liar may try.

The matrices, the numbers of cycles and the bounds are those of serf's coordinate package. Its tests
run one seed that meets the bounds; here the median of `SEEDS` must, and none may be far off.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from math import cos, hypot, inf, isfinite, log, nan, pi, sin, sqrt
from statistics import mean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.coordinates import (
    DEFAULT_KNOBS,
    MAX_PEERS,
    MAX_RTT_S,
    MAX_STEP_S,
    Coordinate,
    CoordinateKnobs,
    Coordinates,
)
from overlay.names import PeerId

Matrix = list[list[float]]
SEEDS = range(5)
SIDE = 5
PLANE = CoordinateKnobs(dimensions=2)
START = Coordinate((0.0,) * 8, 1.5, 0.0, 10e-6)

parts = st.floats(-MAX_RTT_S, MAX_RTT_S)
coordinates = st.builds(
    Coordinate,
    st.tuples(*[parts] * 8),
    error=st.floats(0, 1.5),
    adjustment=parts,
    height=st.floats(0, MAX_RTT_S),
)
rtts = st.floats(0, MAX_RTT_S, exclude_min=True)


def seeded(seed: int | str) -> random.Random:
    return random.Random(seed)


def peer(number: int) -> PeerId:
    return PeerId(f"peer-{number}")


def matrix(size: int, rtt: Callable[[int, int], float]) -> Matrix:
    rows = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1, size):
            rows[i][j] = rows[j][i] = rtt(i, j)
    return rows


def line() -> Matrix:
    return matrix(10, lambda i, j: (j - i) * 0.010)


def grid() -> Matrix:
    return matrix(25, lambda i, j: 0.010 * hypot(i % SIDE - j % SIDE, i // SIDE - j // SIDE))


def split() -> Matrix:
    return matrix(25, lambda i, j: 0.001 + (0.010 if (i <= 12) != (j <= 12) else 0.0))


def circle() -> Matrix:
    """Return a circle of 100 ms, and in its middle, 100 ms above the plane, peer 0."""

    def rtt(i: int, j: int) -> float:
        one, other = (2 * pi * k / 25 for k in (i, j))
        return 0.2 if i == 0 else 0.1 * hypot(cos(one) - cos(other), sin(one) - sin(other))

    return matrix(25, rtt)


def scattered() -> Matrix:
    rng = seeded(1)
    return matrix(25, lambda _i, _j: rng.gauss(0.100, 0.010))


def lan() -> Matrix:
    rng = seeded(1)
    return matrix(50, lambda _i, _j: rng.uniform(0.0001, 0.0003))


def globe() -> Matrix:
    """Return points on a sphere of 10 ms of fibre a radian, each behind a link of its own."""
    rng = seeded(1)
    points = [[rng.gauss(0, 1) for _ in range(3)] for _ in range(100)]
    links = [rng.lognormvariate(log(0.002), 0.8) for _ in points]

    def rtt(i: int, j: int) -> float:
        one, other = points[i], points[j]
        cosine = sum(a * b for a, b in zip(one, other, strict=True)) / hypot(*one) / hypot(*other)
        chord = sqrt(2 - 2 * cosine)
        return 0.095 * chord + links[i] + links[j]

    return matrix(100, rtt)


def simulated(
    truth: Matrix, cycles: int, seed: int, knobs: CoordinateKnobs = DEFAULT_KNOBS
) -> list[Coordinates]:
    clients = [Coordinates(seeded(f"{seed}/{i}"), knobs) for i in range(len(truth))]
    observed(clients, truth, cycles, seed)
    return clients


def observed(
    clients: list[Coordinates],
    truth: Matrix,
    cycles: int,
    seed: int,
    jitter: Callable[[random.Random], float] = lambda _rng: 0.0,
) -> None:
    rng = seeded(seed)
    for _ in range(cycles):
        for i, client in enumerate(clients):
            j = rng.randrange(len(clients))
            if j != i:
                client.observe(peer(j), clients[j].mine, truth[i][j] + jitter(rng))


def errors(clients: list[Coordinates], truth: Matrix) -> list[float]:
    """Return the relative error of each pair's estimate."""
    return [
        abs(clients[i].mine.distance_to(clients[j].mine) - truth[i][j]) / truth[i][j]
        for i in range(len(clients))
        for j in range(i + 1, len(clients))
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("truth", "knobs", "average", "worst"),
    [
        (line(), DEFAULT_KNOBS, 0.0031, 0.0130),
        (grid(), DEFAULT_KNOBS, 0.0016, 0.0230),
        (split(), DEFAULT_KNOBS, 0.00006, 0.00048),
        (circle(), PLANE, 0.0028, 0.064),
        (scattered(), DEFAULT_KNOBS, 0.075, 0.33),
    ],
    ids=["line", "grid", "split", "circle", "random"],
)
def test_estimates_are_as_near_as_serf_asks_of_its_own(
    truth: Matrix, knobs: CoordinateKnobs, average: float, worst: float
) -> None:
    runs = [errors(simulated(truth, 1000, seed, knobs), truth) for seed in SEEDS]
    assert median(mean(found) for found in runs) <= average
    assert median(max(found) for found in runs) <= worst
    assert max(mean(found) for found in runs) <= 2 * average


@pytest.mark.slow
def test_a_peer_far_from_everybody_alike_stands_high_above_them() -> None:
    middle, *others = simulated(circle(), 1000, 1, PLANE)
    assert middle.mine.height >= 0.097
    assert all(other.mine.height <= 0.003 for other in others)


@pytest.mark.slow
def test_gravity_brings_a_network_back_to_the_origin() -> None:
    def centre(of: list[Coordinates]) -> float:
        columns = list(zip(*(client.mine.vector for client in of), strict=True))
        return hypot(*((min(column) + max(column)) / 2 for column in columns))

    def left_after_a_while(knobs: CoordinateKnobs) -> float:
        truth = matrix(4, lambda i, j: 0.5 * (sqrt(2) if j - i == 2 else 1))
        clients = [Coordinates(seeded(i), knobs) for i in range(4)]
        corners = [(0.5, 0.5), (0.5, 1.0), (1.0, 1.0), (1.0, 0.5)]
        for client, corner in zip(clients, corners, strict=True):
            client.mine = Coordinate(corner, 1.5, 0.0, 10e-6)
        observed(clients, truth, 1000, 1)
        before = centre(clients)
        observed(clients, truth, 10_000, 2)
        return centre(clients) / before

    assert left_after_a_while(PLANE) < 0.8
    assert left_after_a_while(replace(PLANE, gravity_rho=inf)) == pytest.approx(1, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("cycles", [30, 200])
@pytest.mark.parametrize(
    ("truth", "blip_s"),
    [
        (line(), 0.0),
        (grid(), 0.0),
        (grid(), 0.0005),
        (scattered(), 0.0),
        (scattered(), 0.005),
        (lan(), 0.00005),
        (globe(), 0.0),
        (globe(), 0.005),
    ],
    ids=[
        "line",
        "grid",
        "grid, jitter",
        "random",
        "random, jitter",
        "lan",
        "globe",
        "globe, jitter",
    ],
)
def test_two_in_three_to_nearly_all_pairs_are_within_the_error_that_is_said(
    truth: Matrix, blip_s: float, cycles: int
) -> None:
    clients = [Coordinates(seeded(i)) for i in range(len(truth))]
    observed(clients, truth, cycles, 1, lambda rng: blip_s * rng.expovariate(1) if blip_s else 0.0)
    onlooker = Coordinates(seeded(0))
    for number, client in enumerate(clients):
        onlooker.observe(peer(number), client.mine, 0.1)
    held = []
    for i in range(len(truth)):
        for j in range(i + 1, len(truth)):
            guess = onlooker.between(peer(i), peer(j))
            assert guess is not None
            median_rtt = truth[i][j] + blip_s * log(2)
            held.append(abs(median_rtt - guess.rtt_s) <= guess.error_s)
    assert mean(held) >= 2 / 3
    assert mean(held) <= 0.99 or cycles == 30  # at first all are less sure than they need be


def test_a_peer_without_samples_is_at_the_origin_and_sure_of_nothing() -> None:
    assert Coordinates(seeded(1)).mine == START


def test_a_distance_is_worked_by_hand() -> None:
    one = Coordinate((0.03, *[0.0] * 7), 0.3, 0.002, 0.001)
    other = Coordinate((0.0, 0.04, *[0.0] * 6), 0.4, -0.001, 0.004)
    assert one.distance_to(other) == pytest.approx(0.050 + 0.005 + 0.001)
    client = Coordinates(seeded(1))
    client.observe(peer(1), one, 0.1)
    client.observe(peer(2), other, 0.1)
    guess = client.between(peer(1), peer(2))
    assert guess is not None
    assert (guess.rtt_s, guess.error_s) == pytest.approx((0.056, 1.2 * 0.056 * 0.5))


def test_adjustments_never_make_a_distance_negative() -> None:
    low = Coordinate((0.0,) * 8, 1.0, -1.0, 0.001)
    assert low.distance_to(low) == 0.002


def test_the_first_sample_moves_by_half_of_a_quarter_of_what_was_missing() -> None:
    client = Coordinates(seeded(1))
    client.observe(peer(1), START, 0.080)
    assert hypot(*client.mine.vector) == pytest.approx(0.010, rel=0.01)  # both ends equally unsure
    assert client.mine.error == pytest.approx(1.5 - 0.125 * (1.5 - 1.0), rel=0.01)


def test_one_late_answer_among_three_changes_nothing() -> None:
    there = Coordinate((0.05, *[0.0] * 7), 0.1, 0.0, 0.0)

    def after(*samples: float) -> Coordinate:
        client = Coordinates(seeded(1))
        for sample in samples:
            client.observe(peer(1), there, sample)
        return client.mine

    steady = after(0.05, 0.05, 0.05)
    assert after(0.05, 0.05, 2.0) == steady
    assert after(0.05, 0.05, 0.001) == steady


def test_only_peers_that_answered_are_estimated() -> None:
    client = Coordinates(seeded(1))
    assert client.of(peer(1)) is None
    assert client.estimate(peer(1)) is None
    client.observe(peer(1), START, 0.1)
    assert client.of(peer(1)) == START
    assert client.estimate(peer(1)) is not None
    assert client.between(peer(1), peer(2)) is None
    client.forget(peer(1))
    client.forget(peer(1))
    assert client.estimate(peer(1)) is None


def test_of_too_many_peers_the_one_longest_unheard_is_forgotten() -> None:
    client = Coordinates(seeded(1))
    for number in range(MAX_PEERS):
        client.observe(peer(number), START, 0.1)
    client.observe(peer(0), START, 0.1)
    client.observe(peer(MAX_PEERS), START, 0.1)
    assert client.of(peer(0)) == START
    assert client.of(peer(1)) is None
    assert client.of(peer(2)) == START
    assert client.of(peer(MAX_PEERS)) == START


@pytest.mark.parametrize("rtt_s", [0.0, -0.1, MAX_RTT_S + 0.001, inf, nan])
def test_what_cannot_be_an_rtt_changes_nothing(rtt_s: float) -> None:
    client = Coordinates(seeded(1))
    client.observe(peer(1), START, rtt_s)
    assert client.mine == START
    assert client.of(peer(1)) is None
    assert client.refused == 1


@pytest.mark.parametrize(
    "lie",
    [
        Coordinate((nan, *[0.0] * 7), 1.0, 0.0, 0.001),
        Coordinate((inf, *[0.0] * 7), 1.0, 0.0, 0.001),
        Coordinate((-MAX_RTT_S - 1, *[0.0] * 7), 1.0, 0.0, 0.001),
        Coordinate((0.0,) * 7, 1.0, 0.0, 0.001),
        Coordinate((0.0,) * 8, nan, 0.0, 0.001),
        Coordinate((0.0,) * 8, -0.1, 0.0, 0.001),
        Coordinate((0.0,) * 8, 1.6, 0.0, 0.001),
        Coordinate((0.0,) * 8, 1.0, -inf, 0.001),
        Coordinate((0.0,) * 8, 1.0, 0.0, nan),
        Coordinate((0.0,) * 8, 1.0, 0.0, -0.001),
    ],
)
def test_what_cannot_be_a_coordinate_changes_nothing(lie: Coordinate) -> None:
    client = Coordinates(seeded(1))
    client.observe(peer(1), lie, 0.1)
    assert client.mine == START
    assert client.of(peer(1)) is None
    assert client.refused == 1


@given(coordinates, coordinates)
def test_a_distance_is_the_same_from_both_ends_and_never_negative(
    one: Coordinate, other: Coordinate
) -> None:
    assert one.is_valid()
    assert one.distance_to(other) == other.distance_to(one)
    assert 0 <= one.distance_to(other) < inf


@given(st.lists(st.tuples(st.integers(0, 3), coordinates, rtts), max_size=60), st.integers())
def test_no_samples_make_a_coordinate_that_others_would_refuse(
    samples: list[tuple[int, Coordinate, float]], seed: int
) -> None:
    client = Coordinates(seeded(seed))
    for number, theirs, rtt_s in samples:
        client.observe(peer(number), theirs, rtt_s)
        assert client.mine.is_valid()
        guess = client.estimate(peer(number))
        assert guess is not None
        assert guess.rtt_s >= 0
        assert isfinite(guess.error_s)
    assert client.refused == 0


@given(coordinates, st.floats(1e-6, 1.0))
def test_a_liar_moves_nobody_far_in_one_sample(lie: Coordinate, rtt_s: float) -> None:
    client = simulated(grid(), 20, 1)[0]
    before = client.mine
    client.observe(PeerId("liar"), lie, rtt_s)
    after = client.mine
    moved = hypot(*(a - b for a, b in zip(after.vector, before.vector, strict=True)))
    assert moved <= MAX_STEP_S * 1.001
    assert abs(after.height - before.height) <= MAX_STEP_S * 1.001
    assert after.error <= before.error + 0.25 * (1.5 - before.error)
    longest_of_the_window_s = 0.06
    assert abs(after.adjustment - before.adjustment) <= (rtt_s + longest_of_the_window_s) / 40


@pytest.mark.slow
def test_a_network_lives_with_a_tenth_of_it_lying() -> None:
    truth = grid()
    clients = simulated(truth, 300, 1)
    rng = seeded(2)
    for _ in range(300):
        for i, client in enumerate(clients):
            j = rng.randrange(len(clients))
            if rng.random() < 0.1:
                point = tuple(rng.uniform(-MAX_RTT_S, MAX_RTT_S) for _ in range(8))
                client.observe(PeerId("liar"), Coordinate(point, 0.0, 0.0, 0.0), 0.01)
            elif j != i:
                client.observe(peer(j), clients[j].mine, truth[i][j])
    for client in clients:
        assert hypot(*client.mine.vector) < 1.0
    observed(clients, truth, 500, 3)
    assert mean(errors(clients, truth)) < 0.05
