from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from overlay import sealing
from overlay.datagrams import MAX_DATAGRAM_BYTES, MAX_MESSAGE_BYTES, SEAL_BYTES
from overlay.identity import Identity, public_key_of
from overlay.names import PeerId
from overlay.sealing import WINDOW, Dropped, ReplayWindow, Sealer

ME, OTHER, THIRD, *_ = PEERS = [Identity.from_seed(bytes([n]) * 32).peer_id for n in range(8)]
NETWORK = b"a secret of the network's members"

plaintexts = st.binary(max_size=MAX_MESSAGE_BYTES)


def pair(network: bytes = NETWORK) -> tuple[Sealer, Sealer]:
    """Two peers that hold each other's records."""
    mine, theirs = Sealer(ME, network), Sealer(OTHER, network)
    mine.know(OTHER, theirs.public_key)
    theirs.know(ME, mine.public_key)
    return mine, theirs


def sealed(sealer: Sealer, message: bytes = b"message", *, to: PeerId = OTHER) -> bytes:
    datagram = sealer.seal(to, message)
    assert datagram is not None
    return datagram


@given(message=plaintexts)
def test_what_one_seals_the_other_opens_and_knows_whose_it_is(message: bytes) -> None:
    mine, theirs = pair()
    datagram = sealed(mine, message)
    assert len(datagram) == len(message) + SEAL_BYTES <= MAX_DATAGRAM_BYTES
    assert theirs.open(datagram) == (ME, message)
    assert mine.open(sealed(theirs, message, to=ME)) == (OTHER, message)
    assert not mine.dropped + theirs.dropped


def test_the_bytes_are_those_that_the_documents_say() -> None:
    """An independent derivation: HKDF over X25519, both ends' identities and keys in its info."""
    mine, theirs = pair()
    datagram = sealed(mine, b"message")
    ends = [public_key_of(ME) + mine.public_key, public_key_of(OTHER) + theirs.public_key]
    secret = theirs._private_key.exchange(X25519PublicKey.from_public_bytes(mine.public_key))
    info = b"myxo/datagram/1" + b"".join(ends)
    cipher = ChaCha20Poly1305(HKDF(SHA256(), 32, salt=NETWORK, info=info).derive(secret))
    assert datagram[8:16] == bytes([0] * 7 + [1])
    nonce = bytes(4) + datagram[8:16]
    assert cipher.decrypt(nonce, datagram[16:], datagram[:16]) == b"message"


@given(bit=st.integers(0, 8 * (SEAL_BYTES + 7) - 1))
def test_a_flipped_bit_anywhere_is_dropped_and_the_real_one_still_opens(bit: int) -> None:
    mine, theirs = pair()
    datagram = sealed(mine)
    forged = bytearray(datagram)
    forged[bit // 8] ^= 1 << bit % 8
    assert theirs.open(bytes(forged)) is None
    assert theirs.dropped.total() == 1
    assert theirs.open(datagram) == (ME, b"message")


@given(data=st.binary(max_size=MAX_DATAGRAM_BYTES + 100))
def test_arbitrary_bytes_are_dropped_and_counted(data: bytes) -> None:
    _, theirs = pair()
    assert theirs.open(data) is None
    assert theirs.dropped.total() == 1


@pytest.mark.parametrize("size", [0, 1, SEAL_BYTES - 1, MAX_DATAGRAM_BYTES + 1, 65_507])
def test_a_datagram_of_no_possible_size_is_malformed(size: int) -> None:
    _, theirs = pair()
    assert theirs.open(bytes(size)) is None
    assert theirs.dropped == {Dropped.MALFORMED: 1}


@given(order=st.lists(st.integers(0, 30), max_size=60))
def test_each_datagram_opens_once_in_whatever_order_they_arrive(order: Sequence[int]) -> None:
    mine, theirs = pair()
    datagrams = [sealed(mine, bytes([n])) for n in range(31)]
    seen: set[int] = set()
    for n in order:
        assert theirs.open(datagrams[n]) == (None if n in seen else (ME, bytes([n])))
        seen.add(n)
    assert theirs.dropped[Dropped.REPLAYED] == len(order) - len(seen)


@given(
    st.lists(
        st.integers(1, 3 * WINDOW)
        | st.sampled_from([WINDOW, WINDOW + 1, WINDOW + 2, 2**64 - 1, 2**64 - WINDOW]),
        max_size=40,
    )
)
def test_a_window_takes_what_a_list_of_all_counters_would_but_nothing_too_old(
    counters: Sequence[int],
) -> None:
    window, seen = ReplayWindow(), {0}
    for counter in counters:
        taken = window.takes(counter)
        assert taken == (counter not in seen and counter > max(seen) - WINDOW)
        if taken:
            window.mark(counter)
            seen.add(counter)


def test_who_is_in_no_record_gets_nothing_even_with_everybodys_public_keys() -> None:
    mine, theirs = pair()
    stranger = Sealer(THIRD, NETWORK)
    stranger.know(OTHER, theirs.public_key)
    assert theirs.open(sealed(stranger)) is None
    assert theirs.dropped == {Dropped.UNKNOWN: 1}
    assert theirs.seal(THIRD, b"message") is None
    assert mine.open(sealed(stranger)) is None


def test_a_member_cannot_speak_as_another() -> None:
    mine, theirs = pair()
    liar = Sealer(ME, NETWORK)
    liar.know(OTHER, theirs.public_key)
    assert theirs.open(sealed(liar)) is None
    tag_of_me = sealed(mine)[:8]
    assert theirs.open(tag_of_me + sealed(liar)[8:]) is None
    assert theirs.dropped == {Dropped.UNKNOWN: 1, Dropped.FORGED: 1}


def test_a_datagram_that_is_sent_back_or_to_a_third_is_dropped() -> None:
    mine, theirs = pair()
    third = Sealer(THIRD, NETWORK)
    for known in (mine, theirs):
        third.know(known._me, known.public_key)
        known.know(THIRD, third.public_key)
    datagram = sealed(mine)
    assert mine.open(datagram) is None
    assert third.open(datagram) is None
    assert theirs.open(datagram) == (ME, b"message")


def test_peers_of_another_network_open_nothing() -> None:
    mine, _ = pair()
    _, elsewhere = pair(b"another secret")
    elsewhere.know(ME, mine.public_key)
    assert elsewhere.open(sealed(mine)) is None
    assert elsewhere.dropped == {Dropped.UNKNOWN: 1}


def test_a_message_over_the_limit_is_not_sealed() -> None:
    mine, _ = pair()
    with pytest.raises(ValueError, match="do not fit"):
        mine.seal(OTHER, bytes(MAX_MESSAGE_BYTES + 1))


def test_knowing_a_peer_costs_no_exchange_until_it_is_spoken_to() -> None:
    mine, theirs = pair()
    assert mine._pairs[OTHER].session.keys is None
    sealed(mine)
    made = mine._pairs[OTHER].session.keys
    assert made is not None
    mine.know(OTHER, theirs.public_key)
    sealed(mine)
    assert mine._pairs[OTHER].session.keys is made


def restarted(peer: Sealer, *known: Sealer) -> Sealer:
    """The same peer's next process, which has been told who there is."""
    again = Sealer(peer._me, NETWORK)
    for other in known:
        again.know(other._me, other.public_key)
    return again


def test_a_restarted_peer_is_spoken_to_under_its_new_key_at_once() -> None:
    mine, theirs = pair()
    theirs.open(sealed(mine))
    again = restarted(theirs, mine)
    mine.know(OTHER, again.public_key)
    datagram = sealed(mine)
    assert theirs.open(datagram) is None
    assert again.open(datagram) == (ME, b"message")


def test_a_restarted_peers_old_session_is_heard_until_the_new_one_speaks() -> None:
    mine, theirs = pair()
    late = [sealed(theirs, to=ME) for _ in range(3)]
    assert mine.open(late[0]) is not None
    again = restarted(theirs, mine)
    mine.know(OTHER, again.public_key)
    assert mine.open(late[1]) == (OTHER, b"message")
    assert mine.open(sealed(again, b"new", to=ME)) == (OTHER, b"new")
    assert mine.open(late[2]) is None
    assert mine.dropped == {Dropped.UNKNOWN: 1}


def test_any_number_of_restarts_leaves_two_sessions_and_the_last_that_spoke() -> None:
    mine, theirs = pair()
    late = sealed(theirs, to=ME)
    mine.open(sealed(theirs, to=ME))
    for _ in range(10):
        newest = restarted(theirs, mine)
        mine.know(OTHER, newest.public_key)
    assert len(mine._by_tag) == 2
    assert mine.open(late) is not None
    assert mine.open(sealed(newest, to=ME)) is not None
    assert len(mine._by_tag) == 1


def test_a_key_that_comes_back_is_taken_without_its_old_datagrams() -> None:
    mine, theirs = pair()
    datagram = sealed(theirs, to=ME)
    mine.open(datagram)
    mine.know(OTHER, X25519PrivateKey.generate().public_key().public_bytes_raw())
    mine.know(OTHER, theirs.public_key)
    assert mine.open(datagram) is None
    assert mine.dropped == {Dropped.REPLAYED: 1}
    assert mine.open(sealed(theirs, b"next", to=ME)) == (OTHER, b"next")


steps = st.lists(
    st.tuples(
        st.sampled_from(["seal", "forget", "one", "two", "three"]), st.sampled_from(PEERS[1:4])
    )
)
KEYS = {
    key: X25519PrivateKey.from_private_bytes(bytes([n]) * 32).public_key().public_bytes_raw()
    for n, key in enumerate(["one", "two", "three"])
}


@given(steps=steps)
def test_no_counter_is_ever_used_twice_under_one_key(steps: Sequence[tuple[str, PeerId]]) -> None:
    mine = Sealer(ME, NETWORK)
    used: set[bytes] = set()
    for step, peer in steps:
        if step == "seal":
            datagram = mine.seal(peer, b"")
            if datagram is not None:
                assert datagram[:16] not in used
                used.add(datagram[:16])
        elif step == "forget":
            mine.forget(peer)
        else:
            mine.know(peer, KEYS[step])


def test_what_was_heard_before_a_peer_was_forgotten_is_not_heard_again() -> None:
    mine, theirs = pair()
    before = [sealed(theirs, to=ME) for _ in range(3)]
    mine.open(before[1])
    mine.forget(OTHER)
    assert mine.open(before[2]) is None
    mine.know(OTHER, theirs.public_key)
    assert [mine.open(datagram) for datagram in before] == [None, None, (OTHER, b"message")]
    assert mine.dropped == {Dropped.UNKNOWN: 1, Dropped.REPLAYED: 2}


def test_the_peers_least_recently_spoken_with_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "MAX_SESSIONS", 3)
    mine = Sealer(ME, NETWORK)
    others = [Sealer(peer, NETWORK) for peer in PEERS[1:]]
    for other in others[:3]:
        mine.know(other._me, other.public_key)
        other.know(ME, mine.public_key)
    sealed(mine, to=others[0]._me)
    mine.open(sealed(others[1], to=ME))
    for other in others[3:5]:
        mine.know(other._me, other.public_key)
    assert [mine.knows(other._me) for other in others[:5]] == [False, True, False, True, True]
    assert len(mine._by_tag) == 3


def test_what_is_remembered_of_dropped_sessions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "MAX_SESSIONS", 3)
    mine = Sealer(ME, NETWORK)
    for peer in PEERS[1:]:
        other = Sealer(peer, NETWORK)
        other.know(ME, mine.public_key)
        mine.know(peer, other.public_key)
        assert mine.open(sealed(other, to=ME)) is not None
        mine.forget(peer)
    assert len(mine._heard) == 3


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_a_peer_without_a_key_is_not_known(key: bytes) -> None:
    mine, theirs = pair()
    mine.know(THIRD, key)
    assert mine.seal(THIRD, b"message") is None
    mine.know(OTHER, key)
    assert mine.seal(OTHER, b"message") is None
    assert mine.open(sealed(theirs, to=ME)) is None


def test_a_key_that_makes_no_secret_harms_only_its_owner() -> None:
    """Zero is a point of low order: whoever states it shares the same secret with everybody."""
    mine, _ = pair()
    mine.know(THIRD, bytes(32))
    assert mine.seal(THIRD, b"message") is None
    tag = next(tag for tag, session in mine._by_tag.items() if session.peer == THIRD)
    assert mine.open(tag + bytes(7) + b"\1" + bytes(16)) is None
    assert mine.dropped == {Dropped.FORGED: 1}
    sealed(mine)
