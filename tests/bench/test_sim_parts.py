"""The parts of the simulator, each against what it stands for."""

import random
from itertools import pairwise
from statistics import mean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sim.clock import Clock
from bench.sim.estimates import estimates
from bench.sim.events import Events
from bench.sim.figures import Plan, mistakes, network
from bench.sim.latency import MATRICES, geographic, grid, lan, scattered
from bench.sim.peer import SOCKET_BACKLOG
from bench.sim.sizes import UDP_IP_BYTES, datagram_bytes
from bench.sim.table import Founding, Table, peer_key
from bench.sim.world import World
from overlay import datagrams
from overlay.coordinates import Coordinates
from overlay.digest import Digest, Key, Stamp
from overlay.identity import Identity
from overlay.membership import (
    Ack,
    Alive,
    Dead,
    Gossip,
    Knobs,
    Left,
    MemberState,
    Message,
    Nack,
    Ping,
    PingReq,
    Suspect,
    Update,
)
from overlay.names import PeerId

A, B = (Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2))


def drawn(seed: int) -> random.Random:
    return random.Random(seed)


# events


def test_what_is_due_first_is_done_first_and_in_the_order_of_planning() -> None:
    events, done = Events(), list[str]()
    events.at(2.0, done.append, "c")
    events.at(1.0, done.append, "a")
    events.at(1.0, done.append, "b")
    events.at(5.0, done.append, "not yet")
    events.at(1.5, lambda: events.after(0.25, done.append, "in between"))
    events.run(3.0)
    assert done == ["a", "b", "in between", "c"]
    assert events.now == 3.0
    assert events.done == 5


def test_a_time_that_has_passed_means_now() -> None:
    events, times = Events(), list[float]()
    events.run(4.0)
    events.at(1.0, lambda: times.append(events.now))
    events.run(4.0)
    assert times == [4.0]


def test_courses_are_equal_only_if_all_that_was_noted_is() -> None:
    def course(*details: int) -> str:
        events = Events()
        for detail in details:
            events.note(b"x", 1, 2, detail)
        return events.course()

    assert course(1, 2) == course(1, 2)
    assert len({course(), course(1), course(1, 2), course(2, 1)}) == 4
    many = list(range(10_000))
    assert course(*many) == course(*many) != course(*many[:-1])


@given(st.floats(-1e6, 1e6), st.floats(0.5, 2), st.floats(0, 1e5))
def test_a_clock_shows_a_time_from_which_the_true_one_follows(
    ahead: float, rate: float, true: float
) -> None:
    clock = Clock(ahead, rate)
    assert clock.true(clock.shows(true)) == pytest.approx(true, abs=1e-6)
    assert clock.shows(true + 1) - clock.shows(true) == pytest.approx(rate, abs=1e-6)


# latency


@pytest.mark.parametrize("name", MATRICES)
def test_a_way_is_as_long_there_as_back_and_never_shorter_than_half_the_rtt(name: str) -> None:
    rng = drawn(1)
    latency = MATRICES[name](250, rng)
    for _ in range(300):
        one, other = rng.sample(range(250), 2)
        assert latency.rtt(one, other) == latency.rtt(other, one) > 0
        assert latency.way(one, other, rng) >= latency.rtt(one, other) / 2


def test_the_random_matrix_has_the_spread_that_it_says() -> None:
    latency = scattered(300, drawn(1))
    rtts = [latency.rtt(one, other) for one in range(300) for other in range(one)]
    assert mean(rtts) == pytest.approx(0.100, abs=0.001)
    assert pstdev(rtts) == pytest.approx(0.010, abs=0.001)


def test_the_grid_is_worked_by_hand() -> None:
    latency = grid(25, drawn(1))
    assert latency.rtt(0, 4) == pytest.approx(0.040)
    assert latency.rtt(0, 24) == pytest.approx(0.040 * 2**0.5)


def test_the_earth_is_as_wide_as_it_is() -> None:
    latency = geographic(200, drawn(1))
    rtts = sorted(latency.rtt(one, other) for one in range(200) for other in range(one))
    half_way_round_s = 2 * 1.5 * 20_015 / (2 / 3 * 299_792.458)
    assert rtts[-1] <= half_way_round_s + 0.1
    assert 0.1 < rtts[len(rtts) // 2] < 0.25
    assert rtts[0] < 0.02


def test_the_median_rtt_is_the_median_of_what_is_measured() -> None:
    latency, rng = geographic(10, drawn(1)), drawn(2)
    rtts = sorted(latency.way(1, 2, rng) + latency.way(2, 1, rng) for _ in range(20_001))
    assert rtts[10_000] == pytest.approx(latency.median_rtt(1, 2), rel=0.005)


# bytes


@pytest.mark.parametrize(
    "message",
    [
        Ping(1, A),
        Ack(1, Coordinates(drawn(1)).mine),
        PingReq(1, A),
        Nack(1),
        Gossip(),
    ],
)
@pytest.mark.parametrize(
    "updates",
    [
        (),
        (Alive(A, 1, bytes(64)), Left(B, 2, bytes(64))),
        (Suspect(A, 1, B), Dead(B, 3, A)),
    ],
)
def test_a_datagram_is_counted_as_it_is_encoded(
    message: Message, updates: tuple[Update, ...]
) -> None:
    encoded = len(datagrams.encode(message, updates))
    sealed = encoded + datagrams.SEAL_BYTES
    assert datagram_bytes(message, updates) == sealed + UDP_IP_BYTES


# records


owners = [PeerId(f"peer-{number}") for number in range(6)]
epochs = st.sampled_from([1.0, 2.0])
changes = st.lists(
    st.one_of(
        st.tuples(st.just("peer"), st.sampled_from(owners), st.just(""), epochs, st.integers(0, 2)),
        st.tuples(
            st.just("instance"),
            st.sampled_from(owners),
            st.sampled_from(["a", "b"]),
            epochs,
            st.integers(1, 3),
        ),
        st.tuples(
            st.sampled_from(["gone", "back"]),
            st.sampled_from(owners),
            st.just(""),
            st.just(0.0),
            st.just(0),
        ),
    ),
    max_size=30,
)


class Plainly:
    """A table that shares nothing."""

    def __init__(self) -> None:
        self.held: dict[Key, Stamp] = {peer_key(owner): (1.0, 0) for owner in owners}
        self.gone: set[PeerId] = set()

    def do(self, kind: str, owner: PeerId, name: str, stamp: Stamp) -> None:
        if kind in {"gone", "back"}:
            (self.gone.add if kind == "gone" else self.gone.discard)(owner)
        elif stamp > self.held.get((owner, kind, name), (-1.0, 0)):
            self.held[owner, kind, name] = stamp

    def counting(self) -> dict[Key, Stamp]:
        return {
            key: stamp
            for key, stamp in self.held.items()
            if key[0] not in self.gone and stamp[0] >= self.held[peer_key(key[0])][0]
        }


@given(changes, changes)
def test_a_table_that_shares_its_beginning_compares_as_one_that_does_not(
    mine: list[tuple[str, PeerId, str, float, int]],
    theirs: list[tuple[str, PeerId, str, float, int]],
) -> None:
    founding = Founding({peer_key(owner): (1.0, 0) for owner in owners})
    tables, plain = (Table(founding), Table(founding)), (Plainly(), Plainly())
    digests = (Digest(), Digest())
    for table, dumb, digest, done in zip(tables, plain, digests, (mine, theirs), strict=True):
        for kind, owner, name, epoch, counter in done:
            dumb.do(kind, owner, name, (epoch, counter))
            if kind not in {"gone", "back"}:
                table.put((owner, kind, name), (epoch, counter))
            table.count(owner, member=owner not in dumb.gone)
        for key, stamp in dumb.counting().items():
            digest.put(key, stamp)
        held = {k: s for n in range(128) for k, s in table.items(n).items()}
        assert held == dumb.counting()
    assert tables[0].differing(tables[1].summary()) == digests[0].differing(digests[1].summary())


# the network


def a_world(size: int = 6, *, loss: float = 0.0) -> World:
    world = World(size, 1, lan, knobs=Knobs.lan())
    world.lines.weather.loss = loss
    world.run(2)
    return world


def test_what_is_posted_arrives_in_order_whatever_is_lost() -> None:
    world = a_world(loss=0.5)
    arrived: list[tuple[int, int]] = []
    world.arrivals.append(lambda observer, _key, stamp: arrived.append((observer.index, stamp[1])))
    for _ in range(20):
        world.publish(0, "instance")
        world.run(0.01)
    world.run(30)
    for index in range(1, 6):
        versions = [version for observer, version in arrived if observer == index]
        assert versions[-1] == 20
        assert all(one < other for one, other in pairwise(versions))


def test_what_is_posted_while_the_line_is_cut_arrives_when_it_is_mended() -> None:
    world = a_world()
    world.cut([0], 1)
    key, stamp = world.publish(0, "instance")
    world.run(0.9)
    assert world.peers[3].table.stamp(key) is None
    world.heal()
    world.run(1)
    assert world.peers[3].table.stamp(key) == stamp


def test_a_restarted_peer_learns_everything_and_is_known_by_everybody() -> None:
    world = a_world()
    key, stamp = world.publish(1, "instance")
    world.run(1)
    world.crash(0)
    world.run(1)
    world.restart(0)
    newcomer = world.peers[0]
    assert newcomer.count_members() == 0
    world.run(3)
    assert newcomer.table.stamp(key) == stamp
    assert newcomer.count_members() == 5
    assert {peer.life_of(newcomer.id) for peer in world.peers[1:]} == {1}


def test_a_datagram_for_an_earlier_life_is_not_heard() -> None:
    world = a_world()
    world.cut([0], 1)
    world.restart(0)  # nobody hears of it
    heard = world.peers[0].received_bytes
    world.lines.heal()
    world.lines.send(world.peers[1], world.peers[0].id, Ping(1, world.peers[0].id), ())
    world.events.run(world.now + 0.001)
    assert world.peers[0].received_bytes == heard


def test_a_stopped_process_hears_what_its_socket_kept_when_it_runs_again() -> None:
    world = a_world()
    stopped = world.peers[2]
    acks = stopped.membership.counters.acks
    world.stop(2, 0.5)
    for number in range(2 * SOCKET_BACKLOG):
        world.lines.send(world.peers[1], stopped.id, Nack(number), ())
    ignored = stopped.membership.counters.ignored
    world.run(0.4)
    assert (stopped.membership.counters.acks, stopped.membership.counters.ignored) == (
        acks,
        ignored,
    )
    world.run(0.2)
    heard = stopped.membership.counters.ignored - ignored
    assert SOCKET_BACKLOG - 20 <= heard <= SOCKET_BACKLOG


def test_the_dead_are_known_within_the_time_of_the_preset() -> None:
    world = a_world(20)
    died: list[float] = []
    world.watch.append(
        lambda _observer, change, _about: (
            died.append(world.now) if change.state is MemberState.DEAD else None
        )
    )
    crashed_at = world.now
    world.crash(4)
    world.run(10)
    assert len(died) == 19
    assert max(died) - crashed_at < 5


# figures


def test_a_small_network_is_measured_to_the_last_view() -> None:
    found = network(8, 1, Plan(quiet_s=5, publications=4, crashes=2))
    assert len(found.converged) == 4 * 7
    assert found.missing == 0
    assert all(0 < seconds < 2 for seconds in found.converged)
    assert len(found.first) == len(found.every) == 2
    assert all(first <= every < 6 for first, every in zip(found.first, found.every, strict=True))
    assert sum(found.received) == pytest.approx(sum(found.sent), rel=0.1)
    assert found.false_deaths == 0


def test_nobody_is_mistaken_where_nobody_is_slow_long() -> None:
    found = mistakes(8, 1, 5, self_doubt=True, notices_stalls=True)
    assert found.deaths == 0


@pytest.mark.slow
def test_estimates_between_those_who_never_met_are_as_good_as_the_page_says() -> None:
    rng = drawn(1)
    found = estimates(geographic(200, rng), 200, 300, rng)
    assert found.median < 0.08
    assert found.p90 < 0.25
    assert 2 / 3 <= found.held <= 0.95
