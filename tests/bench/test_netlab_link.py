from itertools import pairwise
from math import inf
from random import Random
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.netlab.link import JITTER_LIMIT, MIN_QUEUE_BYTES, Drop, Link, Shaper

links = st.builds(
    Link,
    delay_s=st.floats(0, 1),
    jitter_s=st.floats(0, 0.5),
    loss=st.floats(0, 1),
    bandwidth_bps=st.floats(1e4, 1e9) | st.just(inf),
    queue_s=st.floats(0, 1),
)
arrivals = st.lists(st.tuples(st.floats(0, 0.2), st.integers(20, 65_535)), min_size=1, max_size=60)


def drawn(seed: int) -> Random:
    return Random(seed)


def sent(shaper: Shaper, packets: list[tuple[float, int]]) -> list[tuple[float, float | Drop]]:
    """Return the time and the fate of each packet, given its distance to the one before."""
    now, fates = 0.0, []
    for gap, size in packets:
        now += gap
        fates.append((now, shaper.send(size, now)))
    return fates


def departures(fates: list[tuple[float, float | Drop]]) -> list[float]:
    return [fate for _, fate in fates if not isinstance(fate, Drop)]


@given(arrivals)
def test_a_perfect_link_hands_over_at_once(packets: list[tuple[float, int]]) -> None:
    assert all(now == fate for now, fate in sent(Shaper(Link(), drawn(1)), packets))


@given(arrivals, st.floats(0, 10))
def test_a_delay_is_exactly_that(packets: list[tuple[float, int]], delay_s: float) -> None:
    for now, fate in sent(Shaper(Link(delay_s=delay_s), drawn(1)), packets):
        assert fate == now + delay_s


@given(links, arrivals, st.integers())
def test_nothing_departs_before_it_was_handed_in(
    link: Link, packets: list[tuple[float, int]], seed: int
) -> None:
    fates = sent(Shaper(link, drawn(seed)), packets)
    assert all(isinstance(fate, Drop) or fate >= now for now, fate in fates)


@given(st.lists(st.tuples(links, arrivals), min_size=1, max_size=4), st.integers())
def test_order_is_kept_also_when_the_link_changes(
    phases: list[tuple[Link, list[tuple[float, int]]]], seed: int
) -> None:
    shaper, now, found = Shaper(phases[0][0], drawn(seed)), 0.0, []
    for link, packets in phases:
        shaper.set(link)
        for gap, size in packets:
            now += gap
            found.append((now, shaper.send(size, now)))
    assert all(a <= b for a, b in pairwise(departures(found)))


@given(links, arrivals, st.integers())
def test_the_same_seed_gives_the_same_fates(
    link: Link, packets: list[tuple[float, int]], seed: int
) -> None:
    assert sent(Shaper(link, drawn(seed)), packets) == sent(Shaper(link, drawn(seed)), packets)


@given(arrivals, st.floats(1e4, 1e9), st.floats(0, 1))
def test_a_line_carries_one_packet_after_the_other_as_a_simple_queue_does(
    packets: list[tuple[float, int]], bandwidth_bps: float, queue_s: float
) -> None:
    link = Link(bandwidth_bps=bandwidth_bps, queue_s=queue_s)
    free_at, longest = 0.0, max(queue_s, 8 * MIN_QUEUE_BYTES / bandwidth_bps)
    for (now, fate), (_, size) in zip(sent(Shaper(link, drawn(1)), packets), packets, strict=True):
        begins = max(now, free_at)
        if fate is Drop.OVERFLOWED:
            assert begins - now >= longest * (1 - 1e-9)
            continue
        assert begins - now <= longest * (1 + 1e-9)
        free_at = begins + 8 * size / bandwidth_bps
        assert fate == pytest.approx(free_at)


def test_a_burst_of_any_size_leaves_at_the_bandwidth_and_no_faster() -> None:
    shaper = Shaper(Link(bandwidth_bps=8e6, queue_s=10), drawn(1))
    found = departures([(0.0, shaper.send(1000, 0.0)) for _ in range(1000)])
    assert found == pytest.approx([0.001 * n for n in range(1, 1001)])


def test_a_lost_packet_has_used_the_line() -> None:
    shaper = Shaper(Link(bandwidth_bps=8e3, loss=0.5, queue_s=1e6), drawn(3))
    fates = [shaper.send(1000, 0.0) for _ in range(100)]
    assert 20 < fates.count(Drop.LOST) < 80
    assert all(fate == n for n, fate in enumerate(fates, 1) if not isinstance(fate, Drop))


@pytest.mark.parametrize("loss", [0.0, 0.02, 0.3, 1.0])
def test_loss_is_the_share_that_is_lost(loss: float) -> None:
    shaper = Shaper(Link(loss=loss), drawn(7))
    lost = [shaper.send(100, 0.0) for _ in range(20_000)].count(Drop.LOST)
    assert lost / 20_000 == pytest.approx(loss, abs=0.01)
    assert loss not in {0.0, 1.0} or lost == 20_000 * loss


def test_jitter_of_packets_far_apart_is_normal_around_the_delay() -> None:
    shaper = Shaper(Link(delay_s=0.1, jitter_s=0.01), drawn(5))
    delays = [f - now for now, f in sent(shaper, [(1.0, 100)] * 5000) if not isinstance(f, Drop)]
    assert fmean(delays) == pytest.approx(0.1, abs=0.001)
    assert stdev(delays) == pytest.approx(0.01, rel=0.05)
    assert max(abs(d - 0.1) for d in delays) <= JITTER_LIMIT * 0.01 + 1e-9


def test_jitter_holds_a_burst_back_as_a_whole() -> None:
    shaper = Shaper(Link(delay_s=0.1, jitter_s=0.01), drawn(5))
    mean_delays = []
    for start in range(200):
        shaper_delays = [
            fate - now
            for now in (start + n * 1e-5 for n in range(100))
            if not isinstance(fate := shaper.send(1500, now), Drop)
        ]
        mean_delays.append(fmean(shaper_delays))
        assert max(shaper_delays) - min(shaper_delays) < 0.01
    assert fmean(mean_delays) == pytest.approx(0.1, abs=0.002)


def test_packets_overtake_each_other_only_where_that_is_asked_for() -> None:
    link = Link(delay_s=0.1, jitter_s=0.01, reorder=True)
    found = departures(sent(Shaper(link, drawn(5)), [(0.001, 100)] * 100))
    assert found != sorted(found)


@given(links, arrivals)
def test_nothing_passes_a_cut(link: Link, packets: list[tuple[float, int]]) -> None:
    shaper = Shaper(link, drawn(1))
    shaper.cut = True
    assert {fate for _, fate in sent(shaper, packets)} == {Drop.CUT}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("delay_s", -0.1),
        ("delay_s", inf),
        ("jitter_s", float("nan")),
        ("loss", 1.1),
        ("bandwidth_bps", 0),
        ("bandwidth_bps", float("nan")),
        ("queue_s", -1),
    ],
)
def test_what_no_link_can_be_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Link(**{field: value})  # type: ignore[arg-type]  # each field in turn
