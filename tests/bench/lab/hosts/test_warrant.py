import pytest

from bench.lab.hosts.warrant import SKEW_S, WARRANT_S, NotTrusted, check, warrant
from overlay.identity import Identity
from overlay.signed import Purpose, Signed, sign

OWNER, STRANGER, COMMANDER, OTHER = (Identity.from_seed(bytes([n]) * 32) for n in range(4))
NOW = 1_000_000.0


def test_whom_a_trusted_owner_lets_command_may() -> None:
    check(warrant(OWNER, COMMANDER.peer_id, NOW), COMMANDER.peer_id, {OWNER.peer_id}, NOW)


def test_a_stranger_may_not_and_is_told_how_to_be_allowed() -> None:
    said = warrant(STRANGER, COMMANDER.peer_id, NOW)
    with pytest.raises(NotTrusted, match=f"myxo allow {STRANGER.peer_id}"):
        check(said, COMMANDER.peer_id, {OWNER.peer_id}, NOW)


def test_nobody_can_use_what_was_said_of_another_peer() -> None:
    with pytest.raises(NotTrusted, match="not"):
        check(warrant(OWNER, COMMANDER.peer_id, NOW), OTHER.peer_id, {OWNER.peer_id}, NOW)


@pytest.mark.parametrize("later_s", [WARRANT_S + SKEW_S, -SKEW_S - 1])
def test_it_holds_for_a_time(later_s: float) -> None:
    said = warrant(OWNER, COMMANDER.peer_id, NOW)
    with pytest.raises(NotTrusted, match="ended"):
        check(said, COMMANDER.peer_id, {OWNER.peer_id}, NOW + later_s)


def test_a_forged_one_is_none() -> None:
    said = warrant(STRANGER, COMMANDER.peer_id, NOW)
    forged = Signed(signer=OWNER.peer_id, payload=said.payload, signature=said.signature)
    with pytest.raises(NotTrusted, match="no such statement"):
        check(forged, COMMANDER.peer_id, {OWNER.peer_id}, NOW)


def test_what_an_owner_signed_for_another_purpose_is_none() -> None:
    said = warrant(OWNER, COMMANDER.peer_id, NOW)
    other = sign(OWNER, Purpose.REVISION, said.payload)
    with pytest.raises(NotTrusted, match="no such statement"):
        check(other, COMMANDER.peer_id, {OWNER.peer_id}, NOW)
    nonsense = sign(OWNER, Purpose.LAB, b"{}")
    with pytest.raises(NotTrusted, match="no such statement"):
        check(nonsense, COMMANDER.peer_id, {OWNER.peer_id}, NOW)
