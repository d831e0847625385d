import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.errors import BadInput, NoSuchHost
from bench.lab.hosts.choosing import matching, pack

HOSTS = ["pico10", "pico1", "pico2", "graviton"]


def test_a_pattern_means_whole_names_and_the_answer_is_sorted() -> None:
    assert matching("pico1", HOSTS) == ["pico1"]
    assert matching("pico[0-9]", HOSTS) == ["pico1", "pico2"]
    assert matching(".*", HOSTS) == ["graviton", "pico1", "pico10", "pico2"]


def test_a_pattern_that_matches_nobody_is_an_error_that_names_who_is_there() -> None:
    with pytest.raises(NoSuchHost, match="graviton, pico1, pico10, pico2"):
        matching("ico", HOSTS)
    with pytest.raises(NoSuchHost, match="there are: none"):
        matching(".*", [])


@pytest.mark.parametrize("pattern", ["pico[", "a" * 300])
def test_what_is_no_pattern_is_an_error(pattern: str) -> None:
    with pytest.raises(BadInput):
        matching(pattern, HOSTS)


def test_new_clients_go_where_the_fewest_are() -> None:
    assert pack({"a": 5, "b": 2, "c": 1}, 5) == {"b": 2, "c": 3}
    assert pack({"a": 0, "b": 0}, 3) == {"a": 2, "b": 1}
    assert pack({"a": 0}, 0) == {}


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 50), min_size=1), st.integers(0, 100))
def test_none_is_left_over_and_no_host_gets_ahead(clients: dict[str, int], more: int) -> None:
    given_ = pack(clients, more)
    assert sum(given_.values()) == more
    after = {host: count + given_.get(host, 0) for host, count in clients.items()}
    fewest = min(after.values())
    assert all(after[host] <= fewest + 1 for host in given_)


@given(st.lists(st.from_regex(r"[a-z0-9-]{1,8}", fullmatch=True), min_size=1, unique=True))
def test_a_name_that_is_escaped_means_that_host_alone(names: list[str]) -> None:
    for name in names:
        assert matching(re.escape(name), names) == [name]
