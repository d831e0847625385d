"""Instance-seconds, from the changes that a member sees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.reporting.lives import Change, Lives


def lives(*changes: tuple[float, str, str]) -> Lives:
    made = Lives()
    for at, instance, state in changes:
        made.take(Change(at, "hello", instance, state))
    return made


def test_an_instance_costs_from_its_beginning_until_it_is_gone() -> None:
    seen = lives((2, "a", "starting"), (3, "a", "ready"), (7, "a", "draining"), (8, "a", "gone"))
    assert seen.cost("hello", 0, 10) == (6, 0, 1, 1)


def test_a_paused_one_is_counted_apart() -> None:
    seen = lives((0, "a", "ready"), (4, "a", "paused"), (9, "a", "ready"))
    assert seen.cost("hello", 0, 10) == (5, 5, 1, 1)


def test_what_is_before_and_after_the_span_does_not_count() -> None:
    seen = lives((0, "a", "ready"), (1, "b", "ready"), (15, "b", "gone"))
    assert seen.cost("hello", 10, 20) == (15, 0, 0, 2)
    assert seen.cost("other", 10, 20) == (0, 0, 0, 0)


def test_counts_say_how_many_ran_from_when_on() -> None:
    seen = lives((1, "a", "ready"), (3, "b", "ready"), (5, "a", "gone"))
    assert seen.counts("hello", 0, 10) == [(0, 0), (1, 1), (3, 2), (5, 1), (10, 0)]
    assert seen.counts("other", 0, 10) == [(0, 0), (10, 0)]


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["starting", "ready", "paused", "gone"])),
        max_size=30,
    ),
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_cost_is_what_counting_second_by_second_finds(
    told: list[tuple[str, str]], begin: int, length: int
) -> None:
    seen = lives(*((float(at), instance, state) for at, (instance, state) in enumerate(told)))
    running = paused = most = 0
    for second in range(begin, begin + length):
        states = dict(told[: second + 1])
        now = [state not in {"paused", "gone"} for state in states.values()]
        running, most = running + sum(now), max(most, sum(now))
        paused += sum(state == "paused" for state in states.values())
    cost = seen.cost("hello", begin, begin + length)
    assert (cost.running_s, cost.paused_s, cost.most) == (running, paused, most)


def test_more_changes_than_can_be_kept_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.lab.reporting.lives.MOST_CHANGES", 1)
    with pytest.raises(OverflowError):
        lives((0, "a", "ready"), (1, "a", "gone"))
