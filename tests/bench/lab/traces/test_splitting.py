from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.lab.errors import BadInput
from bench.lab.traces.choosing import Chooser, policies_of, policy_of, weights_of
from bench.lab.traces.generating import generate
from bench.lab.traces.parameters import Parameters
from bench.lab.traces.rows import Request, mean_gap
from bench.lab.traces.splitting import split
from overlay.balancing import ORIGINAL_DESTINATION, POLICIES

TRACE = list(generate(Parameters(samples=3000), 1))
EVERY = [policy for policy in POLICIES if policy != ORIGINAL_DESTINATION]


def even(policy: str, workers: int, seed: int = 1) -> Chooser:
    return Chooser(policy, [1.0] * workers, seed)


@given(st.sampled_from(EVERY), st.integers(1, 7), st.integers(0, 100), st.booleans())
@settings(max_examples=60)
def test_each_request_gets_one_worker_whatever_the_policy(
    policy: str, workers: int, seed: int, served: bool
) -> None:
    trace = TRACE[:200]
    serve = (lambda _index, _request: 2.0) if served else None
    shares = split(trace, even(policy, workers, seed), serve)
    assert len(shares) == workers
    together = sorted(request._replace(worker=1) for share in shares for request in share.requests)
    assert together == sorted(trace)
    for number, share in enumerate(shares, 1):
        assert {request.worker for request in share.requests} <= {number}
        assert share.arrivals == sorted(share.arrivals)
        assert len(share.services) == (len(share.requests) if served else 0)


def test_round_robin_gives_every_third_to_each_of_three() -> None:
    shares = split(TRACE, even("round_robin", 3))
    assert [len(share.requests) for share in shares] == [1000, 1000, 1000]
    assert [r.arrival for r in shares[1].requests[:2]] == [TRACE[1].arrival, TRACE[4].arrival]
    assert mean_gap(shares[0].requests) == pytest.approx(3, rel=0.1)


def test_where_nobody_serves_two_choices_go_by_what_was_given() -> None:
    counts = [len(share.requests) for share in split(TRACE, even("least_request", 7))]
    assert max(counts) - min(counts) <= 3
    by_chance = [len(share.requests) for share in split(TRACE, even("random", 7))]
    assert max(by_chance) - min(by_chance) > 10


def test_where_somebody_serves_a_policy_sees_the_queues() -> None:
    """The first worker is so slow that it soon has a queue, and gets next to nothing."""
    shares = split(TRACE, even("least_request", 3), lambda index, _: 0.1 if index else 100.0)
    slow, *others = (len(share.requests) for share in shares)
    assert slow < 100
    assert min(others) > 1000
    blind = split(TRACE, even("least_request", 3))
    assert len(blind[0].requests) == pytest.approx(1000, abs=3)


def test_the_same_file_is_always_at_the_same_worker_where_a_policy_hashes() -> None:
    shares = split(TRACE, even("ring_hash", 5))
    holders = Counter(place for share in shares for place in {r.space for r in share.requests})
    assert set(holders.values()) == {1}


def test_weights_are_shares() -> None:
    shares = split(TRACE, Chooser("weighted_round_robin", weights_of("1,2", 2), 1))
    assert [len(share.requests) for share in shares] == [1000, 2000]


def test_original_destination_goes_by_the_traces_own_workers() -> None:
    trace = [Request(float(n), n % 2 + 1, "read", 0, 1) for n in range(6)]
    first, second = split(trace, even(ORIGINAL_DESTINATION, 2))
    assert (first.arrivals, second.arrivals) == ([0, 2, 4], [1, 3, 5])
    with pytest.raises(BadInput, match="a request at 1 is for worker 2, and there are 1"):
        split(trace, even(ORIGINAL_DESTINATION, 1))


def test_the_same_seed_splits_alike() -> None:
    def once(seed: int) -> list[int]:
        return [len(share.requests) for share in split(TRACE, even("random", 4, seed))]

    assert once(1) == once(1)
    assert once(1) != once(2)


def test_policies_have_the_names_that_people_use() -> None:
    assert policies_of("RR, R,tc") == ["round_robin", "random", "least_request"]
    with pytest.raises(BadInput, match="'round_robbin' is no policy; did you mean round_robin"):
        policy_of("round_robbin")


@pytest.mark.parametrize(
    ("text", "said"), [("1,2", "2 weights; there are 3"), ("1,x,1", "'x'"), ("1,-1,1", "'-1'")]
)
def test_weights_that_are_none_are_refused(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        weights_of(text, 3)


@pytest.mark.parametrize("workers", [0, 1001])
def test_there_is_one_worker_at_least_and_a_bound(workers: int) -> None:
    with pytest.raises(BadInput, match=f"{workers} workers"):
        even("random", workers)
