import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import control
from overlay.errors import StatementRefused
from overlay.framing import MAX_MESSAGE_BYTES
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.rotation import (
    MAX_MEMBERS,
    MAX_PREVIOUS,
    KeyRing,
    Passphrase,
    Rotation,
    SignedRotation,
    Stage,
)
from overlay.spreading import MAX_PASSPHRASE, _Offer
from overlay.trust_desk import Step

ADMIN, OTHER = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))
MEMBER, STRANGER = PeerId("member"), PeerId("stranger")
FIRST = Passphrase(text="first", id="first id")
DAY = 24 * 3600.0
NOW = 1e9


def step(
    version: int,
    stage: Stage,
    to: str,
    *,
    replaces: str = "first",
    at: float = NOW,
    grace_s: float = DAY,
    network: str = "first id",
) -> SignedRotation:
    rotation = Rotation(
        network=network,
        version=version,
        stage=stage,
        replaces=f"{replaces} id",
        passphrase_id=f"{to} id",
        members=(MEMBER,),
        at=at,
        grace_s=grace_s,
    )
    return SignedRotation.sign(ADMIN, rotation)


def take(ring: KeyRing, offered: SignedRotation, now: float = NOW) -> KeyRing:
    if not ring.check(offered):
        return ring
    return ring.take(offered, offered.rotation.passphrase_id.removesuffix(" id"), now)


FOUNDED = KeyRing.founded(FIRST)
PREPARED = take(FOUNDED, step(5, Stage.PREPARE, "second"))
COMMITTED = take(PREPARED, step(5, Stage.COMMIT, "second"))


def test_before_any_change_there_is_one_passphrase() -> None:
    assert FOUNDED.accepted() == FOUNDED.dialled(None) == ("first id",)
    assert FOUNDED.stage is Stage.COMMIT
    assert FOUNDED.next_expiry() == float("inf")


def test_prepared_a_peer_dials_under_the_old_one_first_and_accepts_both_from_everybody() -> None:
    assert PREPARED.dialled(MEMBER) == ("first id", "second id")
    for peer in (MEMBER, STRANGER):
        assert PREPARED.accepts(peer, "first id", NOW)
        assert PREPARED.accepts(peer, "second id", NOW)
    assert PREPARED.stage is Stage.PREPARE


def test_after_the_commit_the_old_one_is_worth_something_to_members_for_the_grace_time() -> None:
    assert COMMITTED.dialled(MEMBER) == ("second id", "first id")
    assert COMMITTED.dialled(STRANGER) == ("second id",)
    assert COMMITTED.dialled(None) == ("second id", "first id")
    assert COMMITTED.accepts(STRANGER, "second id", NOW)
    assert COMMITTED.accepts(MEMBER, "first id", NOW + DAY - 1)
    assert not COMMITTED.accepts(STRANGER, "first id", NOW)
    assert not COMMITTED.accepts(MEMBER, "first id", NOW + DAY)
    assert COMMITTED.next_expiry() == NOW + DAY
    over = COMMITTED.expired(NOW + DAY)
    assert over.accepted() == ("second id",)
    assert over.stamp == COMMITTED.stamp


def test_a_network_keeps_its_id_and_is_found_by_every_passphrase_that_it_had() -> None:
    assert COMMITTED.network == FOUNDED.network == "first id"
    assert COMMITTED.expired(NOW + 2 * DAY).knows("first id")
    assert PREPARED.knows("second id")
    assert not FOUNDED.knows("second id")


def test_a_peer_that_missed_the_prepare_does_both_at_the_commit() -> None:
    assert take(FOUNDED, step(5, Stage.COMMIT, "second")) == COMMITTED


@pytest.mark.parametrize("late", [step(5, Stage.PREPARE, "second"), step(4, Stage.COMMIT, "x")])
def test_what_is_older_says_nothing(late: SignedRotation) -> None:
    assert take(COMMITTED, late) is COMMITTED


def test_a_change_that_is_begun_anew_takes_the_place_of_one_that_was_not_finished() -> None:
    again = take(PREPARED, step(6, Stage.PREPARE, "third"))
    assert again.accepted() == ("first id", "third id")
    assert take(again, step(5, Stage.COMMIT, "second")) is again
    assert take(again, step(6, Stage.COMMIT, "third")).current.text == "third"


def test_who_joined_with_the_new_passphrase_learns_the_networks_id() -> None:
    joined = KeyRing.founded(Passphrase(text="second", id="second id"))
    settled = take(joined, step(5, Stage.COMMIT, "second"))
    assert (settled.network, settled.current.text) == ("first id", "second")
    assert settled.previous == ()
    assert settled.accepted() == ("second id",)


def test_who_joined_later_and_never_heard_of_the_network_follows_the_next_change() -> None:
    joined = KeyRing.founded(Passphrase(text="second", id="second id"))
    third = take(joined, step(9, Stage.COMMIT, "third", replaces="second"))
    assert (third.network, third.current.text) == ("first id", "third")


def test_a_statement_about_another_network_is_refused() -> None:
    with pytest.raises(StatementRefused, match="another network"):
        FOUNDED.check(step(9, Stage.COMMIT, "third", replaces="second", network="z"))
    with pytest.raises(StatementRefused, match="another network"):
        COMMITTED.check(step(9, Stage.COMMIT, "third", replaces="second", network="z"))


def test_only_the_admin_changes_the_passphrase() -> None:
    good = step(5, Stage.COMMIT, "second").signed
    assert SignedRotation.verified(good, ADMIN.peer_id).rotation.stamp == (5, 1)
    for admin in (OTHER.peer_id, None):
        with pytest.raises(StatementRefused):
            SignedRotation.verified(good, admin)
    forged = good.model_copy(
        update={"payload": good.payload.replace(b'"version":5', b'"version":6')}
    )
    with pytest.raises(StatementRefused):
        SignedRotation.verified(forged, ADMIN.peer_id)


def test_a_grace_of_nothing_ends_every_earlier_one_too() -> None:
    third = take(COMMITTED, step(7, Stage.COMMIT, "third", replaces="second", grace_s=0))
    assert third.accepted() == ("third id",)


@pytest.mark.parametrize(("at", "until"), [(NOW - 3600, NOW - 3600 + DAY), (NOW + DAY, NOW + DAY)])
def test_the_grace_time_runs_from_the_earlier_of_two_clocks(at: float, until: float) -> None:
    assert take(FOUNDED, step(5, Stage.COMMIT, "second", at=at)).next_expiry() == until


def test_going_back_to_an_earlier_passphrase_leaves_no_trace_of_it_as_an_old_one() -> None:
    back = take(COMMITTED, step(7, Stage.COMMIT, "first", replaces="second"))
    assert [p.passphrase.id for p in back.previous] == ["second id"]
    assert back.accepts(STRANGER, "first id", NOW)


def test_a_ring_is_the_same_after_a_restart() -> None:
    assert KeyRing.model_validate_json(COMMITTED.model_dump_json()) == COMMITTED


def test_neither_a_passphrase_nor_a_ring_shows_its_secret() -> None:
    ring = KeyRing.founded(Passphrase(text="hush", id="i"))
    assert "hush" not in repr(ring)
    assert "hush" not in repr(take(ring, step(5, Stage.COMMIT, "second", replaces="", network="i")))


def test_a_statement_about_the_largest_network_fits_every_message_that_carries_it() -> None:
    members = tuple(Identity.from_seed(n.to_bytes(32, "big")).peer_id for n in range(50)) * 200
    assert len(members) == MAX_MEMBERS
    rotation = step(5, Stage.COMMIT, "second").rotation.model_copy(update={"members": members})
    signed = SignedRotation.sign(ADMIN, rotation).signed
    assert SignedRotation.verified(signed, ADMIN.peer_id).rotation == rotation
    words = "x" * MAX_PASSPHRASE
    assert len(Step(statement=signed, passphrase=words).model_dump_json()) < control.MAX_LINE
    assert len(rotation.model_dump_json()) + 100 < control.MAX_LINE
    assert len(_Offer(statement=signed, passphrase=words).model_dump_json()) < MAX_MESSAGE_BYTES


steps = st.lists(
    st.tuples(
        st.integers(1, 6),
        st.sampled_from(Stage),
        st.floats(0, 3 * DAY),
    ),
    max_size=12,
)


@given(steps, st.floats(0, 5 * DAY))
def test_whatever_comes_the_ring_is_bounded_and_what_is_dialled_is_held(
    given_steps: list[tuple[int, Stage, float]], later: float
) -> None:
    ring = FOUNDED
    for version, stage, at in given_steps:
        before = ring
        ring = take(ring, step(version, stage, f"p{version}", at=NOW + at), NOW + at)
        assert ring.stamp >= before.stamp
    ring = ring.expired(NOW + later)
    held = {p.id for p in ring.held()}
    assert len(ring.previous) <= MAX_PREVIOUS
    assert set(ring.dialled(MEMBER)) <= held == set(ring.accepted())
    assert set(ring.dialled(STRANGER)) <= {ring.current.id, ring.next.id if ring.next else ""}
    assert all(NOW + later < p.until for p in ring.previous)
    assert KeyRing.model_validate_json(ring.model_dump_json()) == ring


@pytest.mark.parametrize("dialler", [FOUNDED, PREPARED, COMMITTED])
@pytest.mark.parametrize("accepter", [FOUNDED, PREPARED, COMMITTED])
def test_members_at_any_two_steps_of_a_change_can_meet(dialler: KeyRing, accepter: KeyRing) -> None:
    assert any(accepter.accepts(MEMBER, key, NOW) for key in dialler.dialled(MEMBER))
