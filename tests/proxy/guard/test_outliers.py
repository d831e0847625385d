from hypothesis import given
from hypothesis import strategies as st

from proxy.guard.outliers import BASE_S, LEAST_ANSWERS, MAX_S, Outcomes, may_eject, outlying, term_s


@given(st.integers(0, 1000))
def test_never_the_last_one_and_never_more_than_half_unless_that_is_none(instances: int) -> None:
    ejected = 0
    while may_eject(instances, ejected):
        ejected += 1
    assert ejected <= max(1, instances / 2)
    assert instances == 0 or ejected < instances
    assert instances < 2 or ejected >= 1


def test_each_ejection_lasts_twice_as_long_as_the_one_before_up_to_a_bound() -> None:
    outcomes, now, terms = Outcomes(), 0.0, []
    for _ in range(8):
        outcomes.eject(now)
        terms.append(outcomes.until - now)
        now = outcomes.until
    assert terms == [BASE_S * 2**n for n in range(5)] + [MAX_S] * 3


def test_calm_times_make_the_next_ejection_short_again() -> None:
    outcomes = Outcomes()
    for _ in range(3):
        outcomes.eject(outcomes.until)
    now = outcomes.until + 2 * BASE_S
    outcomes.eject(now)
    assert outcomes.until - now == term_s(1)


@given(st.lists(st.booleans()))
def test_the_row_is_what_failed_since_the_last_good_answer(answers: list[bool]) -> None:
    outcomes = Outcomes()
    for good in answers:
        outcomes.succeeded() if good else outcomes.failed()
    backwards = answers[::-1]
    assert outcomes.row == (backwards.index(True) if True in backwards else len(answers))
    assert (outcomes.good, outcomes.bad) == (answers.count(True), answers.count(False))


def test_of_many_the_one_that_fails_far_more_often_is_found() -> None:
    counts = dict.fromkeys("abcdefg", (198, 2)) | {"bad": (140, 60)}
    assert outlying(counts) == ["bad"]


def test_few_instances_and_few_answers_are_not_compared() -> None:
    few = dict.fromkeys("abc", (198, 2)) | {"bad": (100, 100)}
    assert outlying(few) == []
    rare = dict.fromkeys("abcdefg", (LEAST_ANSWERS - 1, 0)) | {"bad": (1, LEAST_ANSWERS)}
    assert outlying(rare) == []


@given(st.dictionaries(st.integers(), st.integers(LEAST_ANSWERS, 10_000), min_size=5))
def test_those_that_are_all_alike_are_no_outliers(answers: dict[int, int]) -> None:
    assert outlying({key: (total, 0) for key, total in answers.items()}) == []
    assert outlying({key: (0, total) for key, total in answers.items()}) == []
