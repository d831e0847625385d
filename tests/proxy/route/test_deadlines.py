from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.spec import MAX_S, ServiceSpec
from proxy.route.deadlines import GRPC_HEADER, HEADER, NAME, allowed_s, asked_s, passed_on


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        (NAME, b"2.5", 2.5),
        (NAME, b"0", 0.0),
        (NAME, b"-1", None),
        (NAME, b"1e9", None),
        (NAME, b"soon", None),
        (NAME, b"", None),
        (GRPC_HEADER, b"2H", 7200.0),
        (GRPC_HEADER, b"3M", 180.0),
        (GRPC_HEADER, b"100m", 0.1),
        (GRPC_HEADER, b"50u", 50e-6),
        (GRPC_HEADER, b"7n", 7e-9),
        (GRPC_HEADER, b"123456789S", None),
        (GRPC_HEADER, b"10", None),
    ],
)
def test_what_a_client_asks_for(name: bytes, value: bytes, seconds: float | None) -> None:
    assert asked_s(name, value) == pytest.approx(seconds) if seconds else not asked_s(name, value)


@given(st.binary(max_size=40))
def test_no_value_is_too_strange(value: bytes) -> None:
    for name in (NAME, GRPC_HEADER):
        seconds = asked_s(name, value)
        assert seconds is None or 0 <= seconds < inf


@given(st.none() | st.floats(0.001, MAX_S), st.none() | st.floats(0, 1e9))
def test_the_shortest_holds(given_s: float | None, asked: float | None) -> None:
    spec = ServiceSpec(process="serve", timeout_s=given_s)
    allowed = allowed_s(spec, asked)
    assert allowed <= (inf if given_s is None else given_s)
    assert allowed <= (inf if asked is None else asked)
    assert (allowed == inf) == (given_s is None and asked is None)


def test_what_is_left_takes_the_place_of_what_was_asked_for() -> None:
    fields = [(b"x-request-timeout", b"9"), (b"Accept", b"a"), (b"Grpc-Timeout", b"9S")]
    left = passed_on(fields, 1.25)
    assert left == [(b"Accept", b"a"), (HEADER, b"1.250"), (GRPC_HEADER, b"1250m")]
    assert passed_on([(b"Accept", b"a")], -1.0) == [(b"Accept", b"a"), (HEADER, b"0.000")]


@given(st.floats(0, MAX_S))
def test_what_is_passed_on_is_read_as_no_more_than_is_left(left_s: float) -> None:
    fields = dict(passed_on([(GRPC_HEADER, b"1S")], left_s))
    assert asked_s(NAME, fields[HEADER]) == pytest.approx(left_s, abs=0.001)
    grpc = asked_s(GRPC_HEADER, fields[GRPC_HEADER])
    assert grpc is not None
    assert grpc <= left_s + 1e-6
