from hypothesis import given
from hypothesis import strategies as st

from overlay.names import InstanceId, PeerId, service_name
from proxy.envoy.loans import UNHEARD_LOOKS, Loan, Phase, Seen, crowded

KEY = PeerId("p"), InstanceId("i")


def loan() -> Loan:
    return Loan(KEY, service_name("hello"), "127.0.0.1:9001")


def test_it_is_given_back_when_it_drained_was_quiet_twice_and_is_unknown() -> None:
    one = loan()
    one.observe(Seen(3, 10, draining=False))
    one.recall()
    assert one.endpoint() is not None
    assert one.endpoint().draining  # type: ignore[union-attr]
    for seen, phase in [
        (Seen(0, 10, draining=False), Phase.DRAINING),  # Envoy has not heard of it
        (Seen(0, 10, draining=False), Phase.DRAINING),
        (Seen(1, 11, draining=True), Phase.DRAINING),
        (Seen(0, 11, draining=True), Phase.DRAINING),
        (Seen(1, 12, draining=True), Phase.DRAINING),  # a worker had not heard of it
        (Seen(0, 12, draining=True), Phase.DRAINING),
        (Seen(0, 12, draining=True), Phase.GONE),
        (Seen(0, 12, draining=True), Phase.GONE),
        (None, Phase.RETURNED),
    ]:
        one.observe(seen)
        assert one.phase is phase
    assert one.endpoint() is None


seens = st.none() | st.builds(Seen, st.integers(0, 3), st.integers(0, 9), draining=st.booleans())


@given(st.lists(seens, max_size=30))
def test_it_is_never_given_back_while_the_last_answers_had_a_request_under_way(
    answers: list[Seen | None],
) -> None:
    one = loan()
    one.recall()
    known: list[Seen] = []
    for seen in answers:
        one.observe(seen)
        known += [] if seen is None else [seen]
        if one.phase is Phase.RETURNED:
            assert seen is None
            assert not known or answers.count(None) >= 2 or all(not s.active for s in known[-2:])
            return


def test_what_drains_can_be_served_again() -> None:
    one = loan()
    one.recall()
    one.resume()
    assert not one.leaving


def test_what_was_taken_out_is_not_served_again() -> None:
    one = loan()
    one.recall()
    one.observe(None)
    one.resume()
    assert one.phase is Phase.GONE


def test_each_request_is_counted_once_also_when_envoy_begins_anew() -> None:
    one = loan()
    totals = [(5, 5), (5, 0), (9, 4), (2, 2)]
    assert [one.observe(Seen(0, total, draining=False)) for total, _ in totals] == [
        new for _, new in totals
    ]
    one.lost()
    assert one.observe(Seen(0, 3, draining=False)) == 3


def test_the_end_of_envoy_gives_back_what_was_leaving_and_keeps_the_rest() -> None:
    leaving, serving = loan(), loan()
    leaving.recall()
    for one in (leaving, serving):
        one.lost()
    assert (leaving.phase, serving.phase) == (Phase.RETURNED, Phase.SERVING)


def test_an_envoy_that_never_hears_is_noticed_and_a_long_request_is_no_such_thing() -> None:
    deaf, busy = loan(), loan()
    for one in (deaf, busy):
        one.recall()
    for _ in range(UNHEARD_LOOKS + 1):
        deaf.observe(Seen(0, 0, draining=False))
        busy.observe(Seen(1, 1, draining=True))
    assert deaf.unheard > UNHEARD_LOOKS
    assert busy.unheard == 0


def test_a_service_is_crowded_when_each_instance_that_serves_is_full() -> None:
    full, idle = loan(), loan()
    full.observe(Seen(4, 4, draining=False))
    keys = [(PeerId("p"), InstanceId(n)) for n in "ab"]
    assert crowded({keys[0]: full}, 4)
    assert not crowded({keys[0]: full}, 5)
    assert not crowded({keys[0]: full, keys[1]: idle}, 4)
    idle.recall()
    assert crowded({keys[0]: full, keys[1]: idle}, 4)
    assert not crowded({}, 4)
