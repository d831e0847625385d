from math import exp, factorial, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.queueing.closed_forms import erlang_b, erlang_c, md1, mm1, mmc

LOADS = st.floats(0.01, 0.99)


@given(LOADS, st.integers(1, 30))
def test_erlangs_recursion_gives_his_formula(load: float, servers: int) -> None:
    offered = load * servers
    terms = [offered**k / factorial(k) for k in range(servers + 1)]
    assert erlang_b(offered, servers) == pytest.approx(terms[-1] / sum(terms))
    waiting = terms[-1] / (1 - load)
    assert erlang_c(offered, servers) == pytest.approx(waiting / (sum(terms[:-1]) + waiting))


@given(LOADS, st.floats(0.1, 100))
def test_one_server_is_the_textbooks_formula(load: float, interarrival: float) -> None:
    found = mm1(interarrival, load * interarrival)
    assert found.number == pytest.approx(load**2 / (1 - load))
    assert found.delay == pytest.approx(found.number * interarrival), "Little's law"
    assert found.utilisation == pytest.approx(load)


@given(LOADS, st.integers(1, 8))
def test_a_quantile_is_where_the_tail_is_as_small(load: float, servers: int) -> None:
    found = mmc(1.0, load * servers, servers)
    drain = 1 / load - 1  # c / service - 1 / interarrival
    assert found.p99 is not None
    tail = erlang_c(load * servers, servers) * exp(-drain * found.p99)
    assert tail == pytest.approx(0.01) if found.p99 else tail <= 0.01 + 1e-9


@given(LOADS)
def test_constant_service_halves_the_wait(load: float) -> None:
    assert md1(1.0, load).delay == pytest.approx(mm1(1.0, load).delay / 2)


def test_figures_from_the_tables() -> None:
    assert mm1(1.0, 0.5).delay == pytest.approx(0.5)
    assert mm1(1.0, 0.5).p95 == pytest.approx(log(10))
    assert erlang_c(2.0, 3) == pytest.approx(4 / 9)
