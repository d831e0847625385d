import pytest

from overlay.names import ServiceName
from proxy.ranking.placement import FETCH_S, START_S, Times
from proxy.ranking.start_times import MAX_SERVICES, StartTimes

HELLO = ServiceName("hello")


def observed(*starts: dict[str, float]) -> Times:
    times = StartTimes()
    for phases in starts:
        times.observe(HELLO, phases)
    return times.of(HELLO)


def test_what_was_never_started_is_expected_to_take_the_usual() -> None:
    assert observed() == Times(START_S, FETCH_S)


def test_the_first_start_is_believed_and_later_ones_smooth_it() -> None:
    first = {"create": 0.1, "start": 0.2, "ready": 0.7}
    assert observed(first).start_s == pytest.approx(1.0)
    assert observed(first, {"start": 2.0}).start_s == pytest.approx(1.3)


def test_only_a_fetch_tells_how_long_a_fetch_takes() -> None:
    assert observed({"image": 0.01, "start": 0.1}).fetch_s == FETCH_S
    assert observed({"image": 20.0, "start": 0.1}).fetch_s == pytest.approx(13.0)


@pytest.mark.parametrize(
    "phases",
    [{}, {"queue": 1.0}, {"start": float("nan")}, {"start": -1.0}, {"start": 1e9}],
)
def test_an_instance_that_was_found_and_nonsense_teach_nothing(phases: dict[str, float]) -> None:
    assert observed(phases) == Times()


def test_a_bounded_number_of_services_is_remembered() -> None:
    times = StartTimes()
    for number in range(MAX_SERVICES + 1):
        times.observe(ServiceName(f"s{number}"), {"start": 1.0})
    assert times.of(ServiceName("s0")) == Times()
    assert times.of(ServiceName("s1")).start_s == 1.0
