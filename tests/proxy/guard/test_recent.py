from math import inf

from hypothesis import given
from hypothesis import strategies as st

from proxy.guard.recent import EVERY, LEAST, WINDOW, Recent

SAMPLES = st.lists(st.floats(0, 100), min_size=LEAST, max_size=2 * WINDOW)


def of(samples: list[float]) -> Recent:
    recent = Recent()
    for sample in samples:
        recent.add(sample)
    return recent


@given(SAMPLES, st.floats(0.5, 0.999))
def test_so_many_of_the_window_do_not_exceed_the_quantile(
    samples: list[float], share: float
) -> None:
    found = of(samples).quantile(share)
    assert found is not None
    window = samples[-WINDOW:]
    assert sum(s <= found for s in window) >= share * len(window)
    assert sum(s < found for s in window) <= share * len(window)


def test_few_samples_say_nothing() -> None:
    assert of([1.0] * (LEAST - 1)).quantile(0.5) is None


def test_a_change_is_seen_soon_and_what_was_before_is_forgotten() -> None:
    recent = of([1.0] * WINDOW)
    assert recent.quantile(0.95) == 1.0
    for _ in range(EVERY):
        recent.add(inf)
    assert recent.quantile(0.95) == inf
    for _ in range(WINDOW):
        recent.add(2.0)
    assert recent.quantile(0.999) == 2.0
