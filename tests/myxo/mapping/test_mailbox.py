"""Who is told of what lies in a mailbox, and how it lies there."""

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myxo.mapping.faults import Fault
from myxo.mapping.mailbox import Mailbox
from myxo.mapping.outcomes import Outcomes

FINE = Outcomes(range(1), [1], {}, "worker")
FAULTY = Outcomes(range(1, 2), [None], {1: Fault("ValueError", "no")}, "worker")


@pytest.mark.parametrize(("each", "told"), [(True, 4), (False, 3)])
def test_who_waits_for_all_is_told_of_faults_wishes_and_the_end(each: bool, told: int) -> None:
    calls: list[None] = []
    mailbox = Mailbox(lambda: calls.append(None), each=each)
    mailbox.put(FINE)
    assert len(calls) == each
    mailbox.put(FAULTY)
    mailbox.want(3)
    mailbox.end(None)
    assert len(calls) == told
    mail = mailbox.take()
    assert (mail.outcomes, mail.wanted, mail.ended) == ([FINE, FAULTY], 3, True)


@st.composite
def _arrivals(draw: st.DrawFn) -> list[Outcomes]:
    """Return outcomes of consecutive items, in some order; some have a fault."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    parts = []
    for start, stop in pairwise(accumulate([0, *sizes])):
        faults = {start: Fault("ValueError", "no")} if draw(st.booleans()) else {}
        parts.append(Outcomes(range(start, stop), list(range(start, stop)), faults, "worker"))
    return draw(st.permutations(parts))


@given(_arrivals(), st.booleans(), st.data())
def test_what_comes_early_waits_for_its_turn(
    arrivals: list[Outcomes], each: bool, data: st.DataObject
) -> None:
    mailbox = Mailbox(lambda: None, each=each, ordered=True)
    taken, came = [], 0
    indices: set[int] = set()
    for outcomes in arrivals:
        indices.update(outcomes.indices)
        mailbox.put(outcomes)
        if data.draw(st.booleans()):
            mail = mailbox.take()
            taken += mail.outcomes
            came += mail.came
            assert came == len(indices)
            values = [value for one in taken for value in one.values]
            ready = next(index for index in range(100) if index not in indices)
            assert values == list(range(ready))
    taken += mailbox.take().outcomes
    assert [value for one in taken for value in one.values] == list(range(max(indices) + 1))
    assert [index for one in taken for index in one.indices] == list(range(max(indices) + 1))
    faults = {index for one in taken for index in one.faults}
    assert faults == {index for one in arrivals for index in one.faults}


def test_who_waits_for_all_finds_one_list() -> None:
    mailbox = Mailbox(lambda: None, each=False, ordered=True)
    parts = [Outcomes(range(n, n + 1), [n], {}, "worker") for n in (1, 0, 3, 2)]
    for part in parts:
        mailbox.put(part)
    (one,) = mailbox.take().outcomes
    assert (one.indices, one.values) == (range(4), [0, 1, 2, 3])
