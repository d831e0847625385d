from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from allocator.rules.queue import StartQueue, Ticket
from overlay.names import PeerId

ALICE, BOB, MAD = PeerId("alice"), PeerId("bob"), PeerId("mad")


def drained(queue: StartQueue) -> list[PeerId]:
    """Give every waiting start its turn, one after the other; return their owners in order."""
    order = []
    while (ticket := queue.next()) is not None:
        order.append(ticket.owner)
        queue.leave(ticket)
    return order


def test_no_more_go_than_there_are_slots() -> None:
    queue = StartQueue(2)
    for _ in range(5):
        assert queue.join(Ticket(ALICE)) is None
    first, second = queue.next(), queue.next()
    assert first is not None
    assert second is not None
    assert queue.next() is None
    queue.leave(first)
    assert queue.next() is not None
    assert queue.next() is None
    assert queue.waiting == 2


def test_owners_take_turns_however_many_starts_one_of_them_has() -> None:
    queue = StartQueue(1)
    for _ in range(100):
        queue.join(Ticket(MAD))
    for owner in (ALICE, BOB, ALICE):
        queue.join(Ticket(owner))
    assert drained(queue)[:6] == [MAD, ALICE, BOB, MAD, ALICE, MAD]


def test_callers_of_one_owners_services_take_turns_too() -> None:
    queue = StartQueue(1)
    for caller in (MAD, MAD, MAD, BOB):
        queue.join(Ticket(ALICE, caller))
    order = []
    while (ticket := queue.next()) is not None:
        order.append(ticket.caller)
        queue.leave(ticket)
    assert order == [MAD, BOB, MAD, MAD]


def test_an_owner_with_a_start_under_way_comes_after_one_with_none() -> None:
    queue = StartQueue(3)
    for _ in range(3):
        queue.join(Ticket(MAD))
    assert queue.next() is not None
    queue.join(Ticket(ALICE))
    following = queue.next()
    assert following is not None
    assert following.owner == ALICE


def test_the_longest_queue_gives_way_when_all_are_full() -> None:
    queue = StartQueue(1, most=4)
    flooding = [Ticket(MAD) for _ in range(4)]
    for ticket in flooding:
        assert queue.join(ticket) is None
    more = Ticket(MAD)
    assert queue.join(more) is more
    assert queue.join(Ticket(ALICE)) is flooding[3]
    assert queue.join(Ticket(ALICE)) is flooding[2]
    third = Ticket(ALICE)
    assert queue.join(third) is third
    assert queue.waiting == 4


def flood(queue: StartQueue, count: int) -> list[Ticket]:
    """Have one peer ask for services of as many owners."""
    tickets = [Ticket(PeerId(f"owner-{n}"), MAD) for n in range(count)]
    for ticket in tickets:
        queue.join(ticket)
    return tickets


def test_a_caller_with_many_owners_keys_waits_its_turn_as_one() -> None:
    queue = StartQueue(1)
    flood(queue, 100)
    for _ in range(3):
        queue.join(Ticket(ALICE, BOB))
    order: list[PeerId | None] = []
    while (ticket := queue.next()) is not None and len(order) < 6:
        order.append(ticket.caller)
        queue.leave(ticket)
    assert order == [MAD, BOB, MAD, BOB, MAD, BOB]


def test_a_caller_with_starts_under_way_comes_after_one_with_none() -> None:
    queue = StartQueue(4)
    flood(queue, 100)
    for _ in range(3):
        assert queue.next() is not None
    queue.join(Ticket(ALICE, BOB))
    following = queue.next()
    assert following is not None
    assert following.caller == BOB


def test_a_caller_with_many_owners_keys_cannot_fill_the_queue() -> None:
    queue = StartQueue(1, most=4)
    flooding = flood(queue, 4)
    more = Ticket(PeerId("one-more"), MAD)
    assert queue.join(more) is more
    assert queue.join(Ticket(ALICE, BOB)) is flooding[3]
    assert queue.join(Ticket(BOB, BOB)) is flooding[2]
    assert queue.join(third := Ticket(ALICE, BOB)) is third


def test_where_one_peer_asks_for_everybody_the_owner_with_the_most_gives_way() -> None:
    queue = StartQueue(1, most=4)
    mine = [Ticket(ALICE, BOB) for _ in range(4)]
    for ticket in mine:
        queue.join(ticket)
    assert queue.join(Ticket(MAD, BOB)) is mine[3]
    assert [queue.next(), queue.waiting] == [mine[0], 3]


def test_a_start_that_nobody_wants_any_more_leaves_no_trace() -> None:
    queue = StartQueue(1)
    ticket = Ticket(ALICE)
    queue.join(ticket)
    queue.leave(ticket)
    queue.leave(ticket)
    assert queue.next() is None
    assert queue.waiting == 0


OWNERS = st.sampled_from([ALICE, BOB, MAD])
EVENTS = st.lists(st.tuples(st.sampled_from(["join", "go", "end", "leave"]), OWNERS, OWNERS))


@given(st.integers(1, 3), st.integers(1, 8), EVENTS)
def test_bounds_hold_and_every_start_goes_displaced_or_leaves_exactly_once(
    slots: int, most: int, events: list[tuple[str, PeerId, PeerId]]
) -> None:
    queue = StartQueue(slots, most)
    waiting: list[Ticket] = []
    under_way: list[Ticket] = []
    for what, owner, caller in events:
        if what == "join":
            ticket = Ticket(owner, caller)
            waiting.append(ticket)
            displaced = queue.join(ticket)
            if displaced is not None:
                waiting.remove(displaced)
        elif what == "go":
            went = queue.next()
            assert (went is not None) == (bool(waiting) and len(under_way) < slots)
            if went is not None:
                waiting.remove(went)
                under_way.append(went)
        elif what == "end" and under_way:
            queue.leave(under_way.pop())
        elif what == "leave" and waiting:
            queue.leave(waiting.pop(len(waiting) // 2))
        assert queue.waiting == len(waiting) <= most
        assert len(under_way) <= slots


@given(st.lists(OWNERS, min_size=1, max_size=60))
def test_nobody_waits_for_more_than_one_start_of_each_other_owner_per_own_start(
    joins: list[PeerId],
) -> None:
    queue = StartQueue(1)
    for owner in joins:
        queue.join(Ticket(owner))
    served: Counter[PeerId] = Counter()
    left = Counter(joins)
    for owner in drained(queue):
        served[owner] += 1
        for other in (ALICE, BOB, MAD):
            if left[other] > served[other]:
                assert served[owner] - served[other] <= 1


@given(st.lists(st.tuples(OWNERS, OWNERS), min_size=1, max_size=60))
def test_a_newcomer_waits_for_one_turn_of_each_owner_or_caller_before_it_at_most(
    joins: list[tuple[PeerId, PeerId]],
) -> None:
    queue = StartQueue(1)
    for owner, caller in joins:
        queue.join(Ticket(owner, caller))
    mine = Ticket(PeerId("new-owner"), PeerId("new-caller"))
    queue.join(mine)
    before = 0
    while (ticket := queue.next()) is not mine:
        assert ticket is not None
        queue.leave(ticket)
        before += 1
    assert before <= min(len({o for o, _ in joins}), len({c for _, c in joins}))
