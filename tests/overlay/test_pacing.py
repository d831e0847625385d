import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import pacing
from overlay.pacing import Buckets


def test_a_full_bucket_gives_its_burst_and_then_one_at_its_rate() -> None:
    buckets = Buckets[str]()
    assert [buckets.take("a", 0.0, rate=2, burst=3) for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("a", 0.5, rate=2, burst=3) == 0
    assert buckets.take("a", 0.5, rate=2, burst=3) == pytest.approx(0.5)


def test_one_keys_haste_does_not_touch_another() -> None:
    buckets = Buckets[str]()
    while not buckets.take("a", 0.0, rate=1, burst=5):
        pass
    assert buckets.take("b", 0.0, rate=1, burst=5) == 0


def test_only_so_many_keys_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "MAX_KEYS", 10)
    buckets = Buckets[int]()
    for key in range(1000):
        buckets.take(key, 0.0, rate=1, burst=1)
    assert len(buckets) == 10


@given(
    st.lists(st.floats(0, 5), max_size=50),
    st.floats(0.1, 10),
    st.integers(1, 10),
)
def test_no_more_pass_than_burst_and_rate_allow(gaps: list[float], rate: float, burst: int) -> None:
    buckets = Buckets[str]()
    now, passed = 0.0, 0
    for gap in gaps:
        now += gap
        passed += not buckets.take("a", now, rate=rate, burst=burst)
    assert passed <= burst + rate * now + 1e-6
