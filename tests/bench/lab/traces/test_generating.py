import hashlib
from math import sqrt
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.lab.traces.generating import generate, geometric
from bench.lab.traces.parameters import Distribution, Parameters
from bench.lab.traces.rows import OPERATIONS, Request, gaps, lines

ANY = st.builds(
    Parameters,
    samples=st.integers(1, 200),
    size=st.floats(1, 1e9),
    inter_arrival=st.floats(1e-3, 1e6),
    read_ratio=st.floats(0, 100),
    sas=st.integers(1, 10**9),
    distribution=st.sampled_from(Distribution),
    mean=st.none() | st.floats(0.1, 1e6),
    stdev=st.none() | st.floats(0, 1e6),
    concurrency=st.integers(1, 5),
)


@given(ANY, st.integers(0, 2**64))
@settings(max_examples=50)
def test_whatever_the_parameters_requests_are_in_order_and_in_range(
    parameters: Parameters, seed: int
) -> None:
    trace = list(generate(parameters, seed))
    assert len(trace) == parameters.samples
    assert all(gap >= 0 for gap in gaps(trace))
    for request in trace:
        assert 1 <= request.worker <= parameters.concurrency
        assert 0 <= request.space < parameters.sas
        assert request.filesize >= 1
        assert request.operation in OPERATIONS


@pytest.mark.parametrize("distribution", Distribution)
def test_the_same_seed_is_the_same_bytes_on_every_machine(distribution: Distribution) -> None:
    text = "".join(lines(generate(Parameters(samples=1000, distribution=distribution), 7)))
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN[distribution]


def test_another_seed_is_another_trace() -> None:
    assert list(generate(Parameters(), 1)) != list(generate(Parameters(), 2))


@pytest.mark.parametrize(
    ("parameters", "mean", "stdev"),
    [
        (Parameters(inter_arrival=4, distribution=Distribution.UNIFORM), 4, 8 / sqrt(12)),
        (Parameters(inter_arrival=4, distribution=Distribution.POISSON), 4, 4),
        (Parameters(distribution=Distribution.NORMAL, mean=50, stdev=5), 50, 5),
        # Of a normal variable above 0: mean m + s φ(m/s)/Φ(m/s), here with m = s = 1.
        (Parameters(distribution=Distribution.NORMAL, mean=1, stdev=1), 1.2876, 0.7938),
    ],
)
def test_gaps_have_the_moments_of_their_distribution(
    parameters: Parameters, mean: float, stdev: float
) -> None:
    found = gaps(_many(parameters))
    error = stdev / sqrt(len(found))
    assert fmean(found) == pytest.approx(mean, abs=4 * error)
    spread = sqrt(fmean((gap - mean) ** 2 for gap in found))
    assert spread == pytest.approx(stdev, rel=0.05)


def test_reads_and_sizes_are_as_asked_for() -> None:
    trace = _many(Parameters(read_ratio=80, size=500))
    reads = fmean(request.operation == "read" for request in trace)
    assert reads == pytest.approx(0.8, abs=4 * sqrt(0.16 / len(trace)))
    sizes = fmean(request.filesize for request in trace)
    assert sizes == pytest.approx(500, abs=4 * 500 / sqrt(len(trace)))


def test_concurrent_requests_come_at_once_and_from_different_clients() -> None:
    trace = list(generate(Parameters(samples=9, concurrency=3), 1))
    for at in (0, 3, 6):
        group = trace[at : at + 3]
        assert len({request.arrival for request in group}) == 1
        assert [request.worker for request in group] == [1, 2, 3]
    assert len({request.arrival for request in trace}) == 3


def test_a_stdev_of_nothing_is_a_clock() -> None:
    trace = generate(Parameters(samples=4, distribution=Distribution.NORMAL, mean=2, stdev=0), 1)
    assert [request.arrival for request in trace] == [2, 4, 6, 8]


@given(st.floats(0, 1, exclude_max=True), st.floats(1, 1e9))
def test_a_size_is_one_at_least(drawn: float, mean: float) -> None:
    assert geometric(drawn, mean) >= 1


def _many(parameters: Parameters) -> list[Request]:
    fields = {name: getattr(parameters, name) for name in parameters.__slots__}
    return list(generate(Parameters(**{**fields, "samples": 20_000}), 1))


GOLDEN = {
    Distribution.UNIFORM: "8b48fd2bd9825eb9d6bd4a755c1d1dcfe111e44f60acb13e777e2fb07438bd56",
    Distribution.POISSON: "d3732dedc2f17ce38dadfc5b4fda445bdfb1492aac1a233800a52c2ba077a108",
    Distribution.NORMAL: "38b30bf08310fe46d7a6436a268159165b571ab7b3f1dc68126fda626a340681",
}
