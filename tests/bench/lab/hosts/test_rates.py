import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.hosts.rates import Rates

ALL = ("h1", "h2", "h3")


def due(rates: Rates, *there: str) -> dict[str, float]:
    return {host: rate for (host, _, _), rate in rates.due(there).items()}


def test_each_host_sends_what_it_was_told() -> None:
    rates = Rates()
    rates.tell(ALL, "a", None, 2.5)
    assert due(rates, *ALL) == {"h1": 2.5, "h2": 2.5, "h3": 2.5}


def test_a_lost_hosts_part_is_sent_by_those_that_were_told_the_same() -> None:
    rates = Rates()
    rates.tell(["h1", "h2"], "a", None, 3)
    rates.tell(["h3"], "a", None, 10)
    assert due(rates, "h1", "h3") == {"h1": 6, "h3": 10}
    assert due(rates, *ALL) == {"h1": 3, "h2": 3, "h3": 10}


def test_nobody_sends_what_only_lost_hosts_were_told() -> None:
    rates = Rates()
    rates.tell(["h1"], "a", None, 4)
    assert due(rates, "h2", "h3") == {}


def test_a_host_that_has_started_anew_leaves_its_part_to_the_others() -> None:
    rates = Rates()
    rates.tell(["h1", "h2"], "a", None, 3)
    rates.restarted("h2")
    assert due(rates, "h1", "h2") == {"h1": 6}
    rates.tell(["h1", "h2"], "a", None, 1)
    assert due(rates, "h1", "h2") == {"h1": 1, "h2": 1}


def test_what_is_told_anew_replaces_what_was_told_before() -> None:
    rates = Rates()
    rates.tell(ALL, "a", None, 3)
    rates.tell(["h3"], "a", None, 0)
    assert due(rates, *ALL) == {"h1": 3, "h2": 3}
    assert due(rates, "h1") == {"h1": 6}
    rates.tell(["h1"], "a", None, 1)
    assert due(rates, *ALL) == {"h1": 1, "h2": 3}


def test_experiments_have_rates_of_their_own() -> None:
    rates = Rates()
    rates.tell(["h1"], "a", "one", 1)
    rates.tell(["h1"], "a", "two", 2)
    rates.forget(["h1"], "a", "one")
    assert rates.due(["h1"]) == {("h1", "a", "two"): 2}
    rates.forget(["h1"], "a", None)
    assert rates.due(["h1"]) == {}


@given(
    st.sets(st.sampled_from(ALL), min_size=1),
    st.floats(0.001, 1e5),
    st.lists(st.sets(st.sampled_from(ALL)), max_size=6),
)
def test_the_load_as_a_whole_is_kept_while_one_of_its_hosts_is_there(
    told: set[str], rate: float, history: list[set[str]]
) -> None:
    rates = Rates()
    rates.tell(told, "a", None, rate)
    for there in history:
        sent = due(rates, *there)
        assert sent.keys() == told & there
        if sent:
            assert sum(sent.values()) == pytest.approx(rate * len(told))
            assert len(set(sent.values())) == 1
