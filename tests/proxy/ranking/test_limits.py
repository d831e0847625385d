from hypothesis import given
from hypothesis import strategies as st

from overlay.spec import ServiceSpec
from proxy.ranking.limits import RttLimits, limits_of


def spec(soft_ms: float | None = None, hard_ms: float | None = None) -> ServiceSpec:
    return ServiceSpec(process="serve", soft_rtt_ms=soft_ms, hard_rtt_ms=hard_ms)


def test_a_caller_without_a_definition_is_bound_by_what_it_asks_for() -> None:
    assert limits_of(spec(5, 10)) == RttLimits(0.005, 0.01)
    assert limits_of(spec()) == RttLimits(None, None)


def test_a_service_that_asks_is_bound_by_its_own_limits() -> None:
    assert limits_of(spec(), spec(5, 10)) == RttLimits(0.005, 0.01)


def test_where_both_have_a_limit_the_stricter_holds() -> None:
    assert limits_of(spec(5, 20), spec(8, 10)) == RttLimits(0.005, 0.01)
    assert limits_of(spec(None, 20), spec(8, None)) == RttLimits(0.008, 0.02)


rtts = st.none() | st.floats(0.001, 1000)
specs = st.builds(spec, rtts, rtts)


@given(specs, specs)
def test_who_asks_whom_makes_no_difference_to_the_limits(
    one: ServiceSpec, two: ServiceSpec
) -> None:
    assert limits_of(one, two) == limits_of(two, one)
