from hypothesis import given
from hypothesis import strategies as st

from overlay import lookups
from overlay.lookups import (
    BURST,
    CLIENT_BURST,
    CLIENT_RATE,
    HINT_BURST,
    RATE,
    REMEMBERED_S,
    Lookups,
)
from overlay.names import ServiceName

HELLO, HELO = ServiceName("hello"), ServiceName("helo")


def test_a_no_is_remembered_with_its_hint_and_only_for_a_while() -> None:
    asked = Lookups()
    assert asked.remembered(HELO, 0.0) is None
    asked.missed(HELO, (HELLO,), 0.0)
    miss = asked.remembered(HELO, REMEMBERED_S - 0.1)
    assert miss is not None
    assert miss.near == (HELLO,)
    assert asked.remembered(HELO, REMEMBERED_S) is None
    asked.missed(HELO, (), 10.0)
    asked.forget()
    assert asked.remembered(HELO, 10.0) is None


def test_only_so_many_are_remembered_the_latest() -> None:
    asked = Lookups()
    for n in range(lookups.MAX_REMEMBERED + 100):
        asked.missed(ServiceName(f"s{n}"), (), 0.0)
    assert len(asked) == lookups.MAX_REMEMBERED
    assert asked.remembered(ServiceName("s0"), 0.0) is None
    assert asked.remembered(ServiceName(f"s{lookups.MAX_REMEMBERED + 99}"), 0.0) is not None


def test_one_clients_questions_do_not_use_up_anothers() -> None:
    asked = Lookups()
    passed = sum(not asked.wait_s("mad", 0.0) for _ in range(1000))
    assert passed == CLIENT_BURST
    assert asked.wait_s("mad", 0.0) > 0
    assert asked.wait_s("sane", 0.0) == 0


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 0.1)), max_size=200))
def test_questions_are_bounded_for_each_and_for_all(asks: list[tuple[int, float]]) -> None:
    asked, now, passed = Lookups(), 0.0, dict.fromkeys(range(21), 0)
    for client, gap in asks:
        now += gap
        passed[client] += not asked.wait_s(str(client), now)
    assert max(passed.values()) <= CLIENT_BURST + CLIENT_RATE * now + 1e-6
    assert sum(passed.values()) <= BURST + RATE * now + 1e-6


def test_hints_are_looked_for_a_few_times_and_then_left_out() -> None:
    looked = []

    def near() -> list[ServiceName]:
        looked.append(1)
        return [HELLO]

    asked = Lookups()
    hints = [asked.hint(near, 0.0) for _ in range(1000)]
    assert len(looked) == HINT_BURST
    assert hints[0] == (HELLO,)
    assert hints[-1] == ()
