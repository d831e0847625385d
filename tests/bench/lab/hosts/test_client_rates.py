from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.hosts.client_rates import ClientRates, host_of, service_of

A1, A2, A3 = (f"{host}:http://a:80/x:0" for host in ("h1", "h2", "h3"))
B1, B2 = (f"{host}:b:0" for host in ("h1", "h2"))
ALL = ("h1", "h2", "h3")


def spawned(*clients: str, exp_id: str = "") -> ClientRates:
    rates = ClientRates()
    rates.spawned(clients, exp_id)
    return rates


def test_an_id_names_host_and_service() -> None:
    assert (host_of(A1), service_of(A1)) == ("h1", "http://a:80/x")


def test_each_client_sends_what_it_was_told() -> None:
    rates = spawned(A1, A2, A3)
    rates.tell([A1, A2], 2)
    assert rates.due(ALL) == {A1: 2, A2: 2}


def test_those_that_were_told_by_the_same_order_send_a_lost_ones_part() -> None:
    rates = spawned(A1, A2, A3)
    rates.tell([A1, A2], 2)
    rates.tell([A3], 10)
    assert rates.due(["h1", "h3"]) == {A1: 4, A3: 10}
    assert rates.heirs(A2, ["h1", "h3"]) == [A1]
    assert rates.due(ALL) == {A1: 2, A2: 2, A3: 10}


def test_without_any_of_them_others_that_were_told_a_rate_do() -> None:
    rates = spawned(A1, A2, A3)
    rates.tell([A1], 2)
    rates.tell([A2], 3)
    assert rates.due(["h2", "h3"]) == {A2: 5}


def test_without_those_idle_ones_do_unless_they_send_for_their_whole_host() -> None:
    rates = spawned(A1, A2, A3)
    rates.tell([A1], 2)
    assert rates.due(["h2", "h3"]) == {A2: 1, A3: 1}
    assert rates.due(["h2", "h3"], taken=[A3]) == {A2: 2}
    assert rates.due(["h2", "h3"], taken=[A2, A3]) == {}
    assert rates.heirs(A1, ["h2", "h3"], taken=[A2, A3]) == []


def test_nobody_sends_for_another_service_or_another_experiment() -> None:
    rates = spawned(A1, B2)
    rates.spawned([A2], "other")
    rates.tell([A1], 2)
    assert rates.due(["h2"]) == {}


def test_the_part_of_a_host_that_started_anew_stays_with_the_others_until_they_are_told_anew() -> (
    None
):
    rates = spawned(A1, A2)
    rates.tell([A1, A2], 2)
    rates.restarted("h2")
    assert rates.due(ALL) == {A1: 4}
    rates.spawned([A2], "")
    assert rates.due(ALL) == {A1: 4}
    rates.tell([A1], 1)
    assert rates.due(ALL) == {A1: 1}


def test_clients_of_a_later_time_send_nothing_for_those_of_an_earlier_one() -> None:
    rates = spawned(A1)
    rates.tell([A1], 2)
    rates.restarted("h1")
    rates.spawned([A1, A2], "")
    assert rates.due(ALL) == {}


def test_a_pause_is_for_those_that_are_lost_too() -> None:
    rates = spawned(A1, A2)
    rates.tell([A1, A2], 2)
    rates.tell([A1, A2], 0)
    assert rates.due(["h1"]) == {}


def test_closed_clients_are_due_nothing_and_send_for_nobody() -> None:
    rates = spawned(A1, A2, B1)
    rates.tell([A1, B1], 2)
    rates.closed([A1, A2])
    assert rates.due(ALL) == {B1: 2}
    assert rates.of(["h1"], "b", None) == {B1}
    assert rates.of(ALL, "http://a:80/x", None) == set()


def total(due: dict[str, float], clients: Iterable[str]) -> float:
    return sum(due.get(client, 0.0) for client in clients)


CLIENTS = [f"{host}:{service}:{n}" for host in ALL for service in "ab" for n in range(2)]


@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from(CLIENTS), min_size=1), st.integers(0, 1000)), max_size=6
    ),
    st.lists(st.sets(st.sampled_from(ALL)), max_size=4),
)
def test_the_load_as_a_whole_is_kept_while_any_client_of_the_service_is_there(
    orders: list[tuple[set[str], int]], history: list[set[str]]
) -> None:
    rates = spawned(*CLIENTS)
    told: dict[str, float] = {}
    for clients, rate in orders:
        rates.tell(clients, rate)
        told |= dict.fromkeys(clients, rate)
    for there in [*history, set(ALL)]:
        due = dict(rates.due(there))
        assert {host_of(client) for client in due} <= there
        for service in "ab":
            alike = [client for client in CLIENTS if service_of(client) == service]
            kept = total(told, alike) if there else 0
            assert total(due, alike) == pytest.approx(kept)
        for client, new in due.items():
            assert new >= told.get(client, 0) - 1e-9
    assert due == pytest.approx({client: rate for client, rate in told.items() if rate})
