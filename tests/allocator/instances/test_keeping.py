from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.instances.keeping import (
    SETTLE_S,
    TAKEOVER_S,
    Allowance,
    Duty,
    Holding,
    duty,
    excess,
    is_short,
    shares,
)
from overlay.names import PeerId, ServiceName
from overlay.rendezvous import ranked

HELLO = ServiceName("hello")
PEERS = [PeerId(f"peer-{n}") for n in range(8)]

some_peers = st.sets(st.sampled_from(PEERS), min_size=1)
minimums = st.integers(1, 12)


@given(some_peers, minimums)
def test_all_together_keep_exactly_what_is_wanted_and_nobody_much_more_than_another(
    peers: set[PeerId], minimum: int
) -> None:
    share = shares(ranked(HELLO, peers), minimum)
    assert sum(share.values()) == minimum
    assert max(share.values()) - min(share.values()) <= 1


@given(st.sets(st.sampled_from(PEERS), min_size=2), st.integers(1, 7), st.data())
def test_when_one_goes_only_its_own_share_moves(
    peers: set[PeerId], minimum: int, data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(sorted(peers)))
    minimum = min(minimum, len(peers) - 1)
    before = shares(ranked(HELLO, peers), minimum)
    after = shares(ranked(HELLO, peers - {gone}), minimum)
    moved = [p for p in after if after[p] != before[p]]
    assert len(moved) == before[gone]


def test_different_services_fall_to_different_machines() -> None:
    first = Counter(ranked(ServiceName(f"s{n}"), PEERS)[0] for n in range(800))
    assert all(50 < first[peer] < 160 for peer in PEERS)


def test_everybody_orders_alike_whatever_order_it_heard_of_them_in() -> None:
    assert ranked(HELLO, PEERS) == ranked(HELLO, reversed(PEERS))


def test_nothing_is_started_before_the_view_has_settled() -> None:
    lacking = Duty(lacks=2)
    assert not lacking.is_due(lacking_s=SETTLE_S - 0.1, short_s=100)
    assert lacking.is_due(lacking_s=SETTLE_S, short_s=SETTLE_S)


def test_who_holds_anothers_share_lets_go_when_that_is_there_and_not_while_it_starts() -> None:
    keeper, holder = ranked(HELLO, PEERS[:2])
    order = [keeper, holder]

    def kept(keepers: Holding) -> int:
        return duty(holder, 1, order, {keeper: keepers, holder: Holding(usable=1)}).keep

    assert kept(Holding()) == 1
    assert kept(Holding(starting=1)) == 1
    assert kept(Holding(usable=1)) == 0


def test_the_next_in_order_stands_in_for_who_does_not_do_its_part() -> None:
    order = ranked(HELLO, PEERS[:3])
    holdings = {peer: Holding() for peer in order}
    first, second, third = (duty(p, 1, order, holdings) for p in order)
    assert first.lacks == 1
    assert (second.lacks, second.stand_in_after_s) == (0, TAKEOVER_S)
    assert third.stand_in_after_s == 2 * TAKEOVER_S


class Network:
    """Allocators that see each other's holdings as of a second ago, and act on that."""

    def __init__(self, have: dict[PeerId, int], refusing: set[PeerId], minimum: int) -> None:
        self.minimum = minimum
        self.refusing = refusing
        self.have = dict(have)
        self.starting: Counter[PeerId] = Counter()
        self.seen = self.look()
        self.lacking_since: dict[PeerId, float] = {}
        self.short_since: dict[PeerId, float] = {}
        self.starts = 0

    def look(self) -> dict[PeerId, Holding]:
        return {p: Holding(True, self.have[p], self.starting[p]) for p in self.have}

    def second(self, now: float) -> None:
        seen, self.seen = self.seen, self.look()
        for peer in list(self.have):
            self.have[peer] += self.starting.pop(peer, 0)
            mine = Holding(True, self.have[peer], 0)
            holdings = {p: seen[p] for p in self.have if p in seen} | {peer: mine}
            todo = duty(peer, self.minimum, ranked(HELLO, holdings), holdings)
            self.have[peer] = min(self.have[peer], todo.keep)  # all others are put away at once
            lacking = self._since(self.lacking_since, peer, bool(todo.lacks), now)
            short = self._since(self.short_since, peer, is_short(self.minimum, holdings), now)
            if todo.is_due(lacking, short) and peer not in self.refusing:
                self.starting[peer] += 1
                self.starts += 1

    @staticmethod
    def _since(table: dict[PeerId, float], peer: PeerId, holds: bool, now: float) -> float:
        if not holds:
            table.pop(peer, None)
            return 0.0
        return now - table.setdefault(peer, now)


networks = st.dictionaries(st.sampled_from(PEERS), st.integers(0, 3), min_size=1, max_size=6)


@settings(deadline=None)
@given(networks, st.integers(1, 5))
def test_the_network_comes_to_its_minimum_with_as_few_starts_as_it_takes_and_no_duplicates(
    have: dict[PeerId, int], minimum: int
) -> None:
    network = Network(have, set(), minimum)
    least = min(minimum, sum(have.values()))
    for now in range(60):
        network.second(float(now))
        assert sum(network.have.values()) >= least
        least = max(least, min(minimum, sum(network.have.values())))
    share = shares(ranked(HELLO, have), minimum)
    assert network.have == share
    assert network.starts == sum(max(0, share[p] - have[p]) for p in have)


@settings(deadline=None)
@given(networks, st.integers(1, 5), st.data())
def test_where_some_refuse_the_others_stand_in(
    have: dict[PeerId, int], minimum: int, data: st.DataObject
) -> None:
    refusing = data.draw(st.sets(st.sampled_from(sorted(have)), max_size=len(have) - 1))
    network = Network(have, refusing, minimum)
    for now in range(150):
        network.second(float(now))
    assert sum(network.have.values()) == minimum


@settings(deadline=None)
@given(networks, st.integers(1, 5), st.data())
def test_when_an_allocator_comes_what_moves_is_never_missing(
    have: dict[PeerId, int], minimum: int, data: st.DataObject
) -> None:
    network = Network(have, set(), minimum)
    for now in range(60):
        network.second(float(now))
    newcomer = data.draw(st.sampled_from([p for p in PEERS if p not in have]))
    network.have[newcomer] = 0
    starts = network.starts
    for now in range(60, 120):
        network.second(float(now))
        assert sum(network.have.values()) >= minimum
    assert network.have == shares(ranked(HELLO, network.have), minimum)
    assert network.starts - starts <= network.have[newcomer] + minimum % len(network.have)


@given(networks, st.integers(0, 5), st.integers(1, 10))
def test_what_is_too_much_is_given_up_at_once_and_nothing_that_is_a_share(
    have: dict[PeerId, int], minimum: int, most: int
) -> None:
    order = ranked(HELLO, have)
    holdings = {peer: Holding(usable=count) for peer, count in have.items()}
    gives = {peer: excess(peer, minimum, most, order, holdings) for peer in have}
    share = shares(order, min(minimum, most))
    assert all(0 <= gives[p] <= have[p] for p in have)
    assert all(have[p] - gives[p] >= min(have[p], share[p]) for p in have)
    assert sum(have.values()) - sum(gives.values()) == min(sum(have.values()), most)


def test_an_owner_may_have_so_many_kept_and_all_together_so_many() -> None:
    most = {PeerId("mad"): 16, PeerId("alice"): 16, PeerId("root"): None}
    allowance = Allowance(most.__getitem__, 20)
    assert allowance.take(PeerId("mad"), 10) == 10
    assert allowance.take(PeerId("mad"), 10) == 6
    assert allowance.take(PeerId("alice"), 10) == 4
    assert allowance.take(PeerId("alice"), 1) == 0
    assert allowance.take(PeerId("root"), 1000) == 1000
