from math import inf

import pytest

from bench.adapting import IN_TIME_S, WINDOW_S, adapted_s, availability, in_time, share_in_time
from bench.open_load import Sent

RATE = 100


def load(seconds: float, bad: range | tuple[int, ...] = (), how: Sent | None = None) -> list[Sent]:
    """Return requests, those that are numbered answered late, or as `how` is."""
    late = how or Sent(0, 2 * IN_TIME_S, 200)
    return [
        (late if n in bad else Sent(0, 0.001, 200))._replace(due_s=n / RATE)
        for n in range(int(seconds * RATE))
    ]


def test_in_time_is_what_is_answered_and_soon() -> None:
    assert in_time(Sent(0, IN_TIME_S, 200))
    assert not in_time(Sent(0, IN_TIME_S * 1.01, 200))
    assert not in_time(Sent(0, 0.001, 503))
    assert not in_time(Sent(0, 0.001, 0))


def test_a_late_answer_is_an_answer_and_a_failure_none() -> None:
    sent = [Sent(0, 0.001, 200), Sent(0, 5.0, 200), Sent(0, 0.001, 0), Sent(0, 0.001, 500)]
    assert availability(sent) == pytest.approx(0.5)
    assert share_in_time(sent) == pytest.approx(0.25)


def test_what_a_change_does_not_harm_has_adapted_at_once() -> None:
    assert adapted_s(load(5), 1.0, 5.0) == 0


@pytest.mark.parametrize("how", [Sent(0, 1.0, 200), Sent(0, 0.001, 0), Sent(0, 0.001, 503)])
def test_it_has_adapted_at_the_end_of_the_last_window_that_is_not_good(how: Sent) -> None:
    assert adapted_s(load(5, range(110, 230), how), 1.0, 5.0) == pytest.approx(1.5)


def test_a_relapse_counts() -> None:
    sent = load(5, (*range(100, 120), *range(310, 330)))
    assert adapted_s(sent, 1.0, 5.0) == pytest.approx(2.5)


def test_a_straggler_does_not_count() -> None:
    assert adapted_s(load(5, (120, 121)), 1.0, 5.0) == 0
    assert adapted_s(load(5, (120, 121, 122)), 1.0, 5.0) == pytest.approx(WINDOW_S)


def test_what_is_bad_until_the_next_change_has_not_adapted() -> None:
    assert adapted_s(load(5, range(100, 300)), 1.0, 3.0) == inf
    assert adapted_s(load(5, range(100, 300)), 1.0, 5.0) == pytest.approx(2.0)


def test_what_was_bad_before_the_change_or_is_after_the_next_one_does_not_count() -> None:
    assert adapted_s(load(5, (*range(100), *range(300, 500))), 1.0, 3.0) == 0


def test_a_rest_shorter_than_a_window_belongs_to_the_last_one() -> None:
    """Else a single request could tell that nothing had adapted."""
    assert adapted_s(load(3.02, (301,)), 1.0, 3.02) == 0
    assert adapted_s(load(1, range(30)), 0.0, 0.3) == inf
