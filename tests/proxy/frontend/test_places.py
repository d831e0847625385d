from hypothesis import given
from hypothesis import strategies as st

from proxy.frontend.places import MAX_CLIENTS, MAX_OF_ONE, OWN, RESERVED, Places


def taken(places: Places, source: str, wanted: int = MAX_CLIENTS) -> int:
    return sum(places.take(source) for _ in range(wanted))


def test_one_container_cannot_take_everybody_elses_places() -> None:
    places = Places()
    assert taken(places, "s1") == MAX_OF_ONE
    assert places.take("s2")
    assert places.take(OWN)


def test_all_containers_together_leave_places_to_the_machines_own_programs() -> None:
    places = Places()
    assert sum(taken(places, f"s{n}", MAX_OF_ONE) for n in range(20)) == MAX_CLIENTS - RESERVED
    assert taken(places, OWN) == RESERVED
    assert places.taken == MAX_CLIENTS


def test_the_machines_own_programs_may_have_them_all() -> None:
    places = Places()
    assert taken(places, OWN, MAX_CLIENTS + 1) == MAX_CLIENTS
    assert not places.take("s1")


@given(st.lists(st.sampled_from([OWN, "s1", "s2"])))
def test_who_leaves_leaves_nothing_behind(sources: list[str]) -> None:
    places = Places()
    for source in sources:
        assert places.take(source)
    for source in sources:
        places.leave(source)
    assert places == Places()
