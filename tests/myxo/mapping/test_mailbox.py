"""Who is told of what lies in a mailbox."""

import pytest

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
