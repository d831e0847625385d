import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.membership import (
    PROBE_PERIOD_S,
    PROBE_TIMEOUT_CEILING_S,
    PROBE_TIMEOUT_FLOOR_S,
    SUSPICION_S,
    Change,
    Membership,
    MemberState,
    Probe,
)
from overlay.mesh import TICK_S
from overlay.names import PeerId

A, B = PeerId("a"), PeerId("b")
ALIVE, SUSPECT, DEAD, LEFT = MemberState


def answered(membership: Membership, peer: PeerId, at: float, rtt: float = 0.0) -> None:
    """One whole probe of `peer` that is sent at `at`."""
    (probe,) = [p for p in membership.tick(at)[0] if p.peer == peer]
    membership.acked(peer, probe.sequence, at + rtt)


def test_a_peer_that_is_heard_is_alive_once() -> None:
    membership = Membership()
    assert membership.heard(A, 0.0) == [Change(A, ALIVE)]
    assert membership.heard(A, 0.1) == []
    assert membership.state(A) is ALIVE


def test_a_stranger_counts_as_dead_and_has_no_rtt() -> None:
    assert Membership().state(A) is DEAD
    assert Membership().rtt(A) is None


def test_a_peer_is_probed_at_once_and_then_every_period() -> None:
    membership = Membership()
    membership.heard(A, 0.0)
    assert membership.tick(0.0)[0] == [Probe(A, 1)]
    membership.acked(A, 1, 0.0)
    assert membership.tick(PROBE_PERIOD_S - 0.001)[0] == []
    assert membership.tick(PROBE_PERIOD_S)[0] == [Probe(A, 2)]


def test_a_silent_peer_is_suspect_after_the_timeout_and_dead_after_the_suspicion() -> None:
    membership = Membership()
    membership.heard(A, 0.0)
    membership.tick(0.0)
    suspect_at = PROBE_TIMEOUT_CEILING_S
    assert membership.tick(suspect_at - 0.001)[1] == []
    assert membership.tick(suspect_at)[1] == [Change(A, SUSPECT)]
    dead_at = suspect_at + SUSPICION_S
    assert membership.tick(dead_at - 0.001)[1] == []
    assert membership.tick(dead_at)[1] == [Change(A, DEAD)]
    assert membership.tick(dead_at + 10) == ([], [])


def test_a_measured_neighbour_is_suspected_sooner_but_not_below_the_floor() -> None:
    membership = Membership()
    membership.heard(A, 0.0)
    answered(membership, A, 0.0, rtt=0.001)
    membership.tick(PROBE_PERIOD_S)
    assert membership.tick(PROBE_PERIOD_S + PROBE_TIMEOUT_FLOOR_S - 0.001)[1] == []
    assert membership.tick(PROBE_PERIOD_S + PROBE_TIMEOUT_FLOOR_S)[1] == [Change(A, SUSPECT)]


@given(
    cut_at=st.floats(3.0, 5.0),
    rtt=st.floats(0.0, 0.4),
    late=st.lists(st.floats(TICK_S / 5, TICK_S), min_size=1, max_size=7),
)
def test_a_cut_peer_is_dead_within_2_9_seconds_however_the_ticks_fall(
    cut_at: float, rtt: float, late: list[float]
) -> None:
    membership = Membership()
    membership.heard(A, 0.0)
    now, step, pending = 0.0, 0, dict[float, int]()
    while membership.state(A) is not DEAD:
        now += late[step % len(late)]
        step += 1
        for when, sequence in list(pending.items()):
            if when <= now:
                del pending[when]
                membership.acked(A, sequence, when)
        for probe in membership.tick(now)[0]:
            if now + rtt < cut_at:
                pending[now + rtt] = probe.sequence
    assert now - cut_at <= 2.9 + 1e-9


def test_a_cut_connection_makes_the_peer_suspect_at_once_and_dead_after_the_suspicion() -> None:
    membership = Membership()
    membership.heard(A, 0.0)
    assert membership.cut(A, 5.0) == [Change(A, SUSPECT)]
    assert membership.cut(A, 5.1) == []
    assert membership.tick(5.0 + SUSPICION_S)[1] == [Change(A, DEAD)]


@pytest.mark.parametrize("bad", [SUSPECT, DEAD])
def test_any_word_revives(bad: MemberState) -> None:
    membership = Membership()
    membership.heard(A, 0.0)
    membership.cut(A, 0.0)
    if bad is DEAD:
        membership.tick(SUSPICION_S)
    assert membership.state(A) is bad
    assert membership.heard(A, 9.0) == [Change(A, ALIVE)]


def test_a_word_from_a_suspect_counts_until_the_next_probe_is_unanswered_too() -> None:
    membership = Membership()
    membership.heard(A, 0.0)
    membership.tick(0.0)
    membership.tick(PROBE_TIMEOUT_CEILING_S)
    membership.heard(A, 0.6)
    assert membership.tick(0.65)[1] == []
    assert membership.tick(PROBE_PERIOD_S) == ([Probe(A, 2)], [])
    assert membership.tick(PROBE_PERIOD_S + PROBE_TIMEOUT_CEILING_S)[1] == [Change(A, SUSPECT)]


def test_a_suspect_is_probed_on() -> None:
    membership = Membership()
    membership.heard(A, 0.0)
    membership.cut(A, 0.0)
    assert membership.tick(0.0)[0] == [Probe(A, 1)]


def test_the_answer_to_the_latest_probe_is_a_sample() -> None:
    membership = Membership()
    membership.heard(A, 0.0)
    answered(membership, A, 0.0, rtt=0.02)
    estimate = membership.rtt(A)
    assert estimate is not None
    assert estimate.latest == 0.02


def test_a_late_answer_makes_a_suspect_alive_and_is_a_sample() -> None:
    membership = Membership()
    membership.heard(A, 0.0)
    membership.tick(0.0)
    membership.tick(PROBE_TIMEOUT_CEILING_S)
    assert membership.acked(A, 1, 0.7) == [Change(A, ALIVE)]
    estimate = membership.rtt(A)
    assert estimate is not None
    assert estimate.latest == 0.7


def test_an_answer_to_an_older_probe_or_a_second_answer_is_no_sample() -> None:
    membership = Membership()
    membership.heard(A, 0.0)
    membership.tick(0.0)
    membership.tick(PROBE_PERIOD_S)
    membership.acked(A, 1, PROBE_PERIOD_S)
    assert membership.rtt(A) is None
    membership.acked(A, 2, PROBE_PERIOD_S + 0.25)
    membership.acked(A, 2, PROBE_PERIOD_S + 0.3)
    estimate = membership.rtt(A)
    assert estimate is not None
    assert estimate.latest == 0.25


def test_a_peer_that_left_stays_out_until_it_comes_back() -> None:
    membership = Membership()
    membership.heard(A, 0.0)
    (probe,), _ = membership.tick(0.0)
    assert membership.left(A, 0.1) == [Change(A, LEFT)]
    assert membership.left(A, 0.1) == []
    assert membership.acked(A, probe.sequence, 0.2) == []
    assert membership.cut(A, 0.3) == []
    assert membership.tick(10.0) == ([], [])
    assert membership.state(A) is LEFT
    assert membership.heard(A, 11.0) == [Change(A, ALIVE)]
    assert membership.tick(11.0)[0] == [Probe(A, 2)]


def test_a_stranger_cannot_leave_be_cut_or_answer() -> None:
    membership = Membership()
    assert membership.left(A, 0.0) == membership.cut(A, 0.0) == membership.acked(A, 1, 0.0) == []
    assert membership.tick(10.0) == ([], [])


def test_a_forgotten_peer_is_a_stranger() -> None:
    membership = Membership()
    membership.heard(A, 0.0)
    membership.forget(A)
    assert membership.state(A) is DEAD
    assert membership.tick(1.0) == ([], [])


events = st.lists(
    st.tuples(
        st.sampled_from(["heard", "acked", "cut", "left", "tick", "forget"]),
        st.sampled_from([A, B]),
        st.floats(0, 2),
    ),
    max_size=40,
)


@given(events)
def test_the_changes_told_always_add_up_to_the_state(
    script: list[tuple[str, PeerId, float]],
) -> None:
    membership, now = Membership(), 0.0
    told: dict[PeerId, MemberState] = {}
    for event, peer, later in script:
        now += later
        changes: list[Change] = []
        match event:
            case "tick":
                probes, changes = membership.tick(now)
                assert all(told[p.peer] in {ALIVE, SUSPECT} for p in probes)
            case "acked":
                changes = membership.acked(peer, 1, now)
            case "forget":
                membership.forget(peer)
                told.pop(peer, None)
            case _:
                changes = getattr(membership, event)(peer, now)
        for change in changes:
            assert told.get(change.peer) is not change.state
            told[change.peer] = change.state
        assert all(membership.state(p) is told.get(p, DEAD) for p in (A, B))


def test_time_in_which_this_process_stood_still_is_nobodys_silence() -> None:
    membership = Membership()
    membership.heard(A, 0.0)
    membership.tick(0.0)
    membership.stood_still(0.4)
    assert membership.tick(0.85)[1] == []
    assert membership.tick(0.9)[1] == [Change(A, MemberState.SUSPECT)]
    membership.stood_still(3.0)
    assert membership.tick(0.9 + 3.0 + SUSPICION_S - 0.01)[1] == []
    assert membership.tick(0.9 + 3.0 + SUSPICION_S + 0.01)[1] == [Change(A, MemberState.DEAD)]


def test_a_silent_peer_on_this_machine_is_judged_by_its_connection_alone() -> None:
    membership = Membership(local={A})
    membership.heard(A, 0.0)
    assert all(membership.tick(tick * 0.05)[1] == [] for tick in range(200))
    assert membership.cut(A, 10.0) == [Change(A, MemberState.SUSPECT)]
    assert membership.tick(10.0 + SUSPICION_S)[1] == [Change(A, MemberState.DEAD)]
