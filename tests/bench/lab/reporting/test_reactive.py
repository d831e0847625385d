"""Reactive autoscaling: when an instance is added, and when one is taken away."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.lab.reporting.reactive import Reactive, Scaler

SYMMETRY = Reactive()


def numbers(settings: Reactive, percents: list[float]) -> list[int]:
    """Return how many instances there shall be after each of samples that come once a second."""
    scaler = Scaler(settings)
    return [scaler.take(float(now), percent) for now, percent in enumerate(percents)]


def test_the_defaults_are_symmetrys() -> None:
    assert (SYMMETRY.metric, SYMMETRY.up, SYMMETRY.down) == ("cpu", 80, 25)
    assert (SYMMETRY.cooldown_s, SYMMETRY.window_s) == (20, 10)


def test_busy_instances_get_one_more_after_each_cooldown() -> None:
    found = numbers(SYMMETRY, [90.0] * 45)
    assert [found[at] for at in (0, 19, 20, 39, 40)] == [2, 2, 3, 3, 4]


def test_one_loud_sample_in_a_quiet_window_changes_nothing() -> None:
    assert numbers(SYMMETRY, [50.0] * 9 + [100.0] + [50.0] * 9) == [1] * 19


def test_samples_older_than_the_window_count_no_more() -> None:
    settings = Reactive(least=1, most=2, cooldown_s=0)
    found = numbers(settings, [50.0] * 20 + [100.0] * 10)
    assert found[20:26] == [1] * 6, "the window still has quiet samples"
    assert found[29] == 2


def test_what_was_measured_of_another_number_says_nothing_of_this_one() -> None:
    settings = Reactive(cooldown_s=0)
    assert numbers(settings, [100.0, 50.0, 50.0]) == [2, 2, 2]


@given(
    st.lists(st.floats(0, 200), max_size=200),
    st.integers(1, 5),
    st.integers(0, 5),
    st.floats(0, 30),
)
def test_instances_stay_in_bounds_and_change_by_one_after_a_cooldown(
    percents: list[float], least: int, more: int, cooldown_s: float
) -> None:
    settings = Reactive(least=least, most=least + more, cooldown_s=cooldown_s)
    found = [least, *numbers(settings, percents)]
    assert all(least <= number <= least + more for number in found)
    changes = [at for at, (old, new) in enumerate(pairwise(found)) if old != new]
    assert all(abs(new - old) <= 1 for old, new in pairwise(found))
    assert all(after - before >= cooldown_s for before, after in pairwise(changes))


@given(st.lists(st.floats(25, 80), max_size=100))
def test_between_the_thresholds_nothing_changes(percents: list[float]) -> None:
    assert set(numbers(SYMMETRY, percents)) <= {1}


@given(st.lists(st.sampled_from([0.0, 100.0]), min_size=1, max_size=100))
def test_it_agrees_with_a_version_that_keeps_everything(percents: list[float]) -> None:
    settings = Reactive(window_s=3, cooldown_s=5, most=4)
    instances, changed_at, found = 1, -100, []
    for now in range(len(percents)):
        window = percents[max(now - 3, changed_at + 1, 0) : now + 1]
        mean = sum(window) / len(window)
        step = 1 if mean > 80 else -1 if mean < 25 else 0
        wanted = min(max(instances + step, 1), 4)
        if wanted != instances and now - changed_at >= 5:
            instances, changed_at = wanted, now
        found.append(instances)
    assert numbers(settings, percents) == found


@pytest.mark.parametrize("said", [{"up": 20, "down": 25}, {"least": 3, "most": 2}, {"least": 0}])
def test_settings_that_contradict_each_other_are_refused(said: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Reactive.model_validate(said)
