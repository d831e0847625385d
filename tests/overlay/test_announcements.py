"""What is announced is taken in once, while it is fresh, and from members only."""

import math
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import announcements as module
from overlay.announcements import (
    BURST,
    FRESH_S,
    MOST_SEEN,
    RATE,
    SALT_BYTES,
    UNSEALED_BURST,
    UNSEALED_BURST_IN_ALL,
    UNSEALED_RATE,
    UNSEALED_RATE_IN_ALL,
    Announcements,
    Unheeded,
    essentials,
)
from overlay.datagrams import MAX_DATAGRAM_BYTES
from overlay.identity import Identity
from overlay.names import Digest
from overlay.passphrase import network_keys
from overlay.records import MAX_IMAGES, MAX_RECORD_BYTES, PeerRecord, Role, Version, sign_record
from overlay.signed import Signed

NOW = 1_700_000_000.0
ME, OTHER, THIRD = (Identity.from_seed(bytes([n]) * 32) for n in range(3))
OLD, NEW, STRANGE = (bytes([n]) * 32 for n in range(3))


def salt(number: int = 0) -> bytes:
    return number.to_bytes(SALT_BYTES, "big")


def digests(count: int) -> tuple[Digest, ...]:
    return tuple(Digest(f"sha256:{zlib.crc32(bytes([n])):064x}") for n in range(count))


def record(images: tuple[Digest, ...] = (), *, counter: int = 2) -> PeerRecord:
    version = Version(epoch=NOW, counter=counter)
    return PeerRecord(version=version, role=Role.ALLOCATOR, host="h", images=images)


RECORD = sign_record(ME, record())


def sealed(
    signed: Signed = RECORD, *, now: float = NOW, number: int = 0, keys: tuple[bytes, ...] = (NEW,)
) -> bytes:
    datagram = Announcements(ME.peer_id, keys).seal(OTHER.peer_id, signed, now, salt(number))
    assert datagram is not None
    return datagram


def receiver(*keys: bytes) -> Announcements:
    return Announcements(OTHER.peer_id, keys or (NEW,))


def test_what_is_announced_arrives_as_it_was_signed() -> None:
    assert receiver().open(sealed(), NOW) == RECORD


def test_nobody_else_can_open_it() -> None:
    assert Announcements(THIRD.peer_id, [NEW]).open(sealed(), NOW) is None
    assert receiver(STRANGE).open(sealed(), NOW) is None


def test_an_older_passphrase_that_still_holds_is_taken() -> None:
    assert receiver(NEW, OLD).open(sealed(keys=(OLD,)), NOW) == RECORD


def test_a_passphrase_that_no_longer_holds_is_not() -> None:
    changed = receiver(OLD)
    changed.renew([NEW])
    assert changed.open(sealed(keys=(OLD,)), NOW) is None
    assert changed.open(sealed(), NOW) == RECORD


def test_an_open_network_neither_announces_nor_listens() -> None:
    silent = Announcements(ME.peer_id)
    assert silent.is_silent
    assert silent.seal(OTHER.peer_id, RECORD, NOW, salt()) is None
    assert Announcements(OTHER.peer_id).open(sealed(), NOW) is None


def test_the_same_announcement_is_taken_once() -> None:
    other = receiver()
    assert other.open(sealed(), NOW) == RECORD
    assert other.open(sealed(), NOW) is Unheeded.REPLAYED
    assert other.open(sealed(number=1), NOW) == RECORD, "sent once more by its owner"


@pytest.mark.parametrize("age", [FRESH_S + 1, -FRESH_S - 1, math.inf, math.nan])
def test_one_that_is_not_of_this_moment_is_not_taken(age: float) -> None:
    other = receiver()
    assert other.open(sealed(now=NOW - age), NOW) is Unheeded.STALE
    assert other.unheeded[Unheeded.STALE] == 1


@pytest.mark.parametrize("age", [FRESH_S - 1, 1 - FRESH_S])
def test_clocks_need_not_agree_to_the_second(age: float) -> None:
    assert receiver().open(sealed(now=NOW - age), NOW) == RECORD


@given(st.integers(0, 8 * len(sealed()) - 1))
def test_whatever_bit_is_changed_it_is_not_taken(bit: int) -> None:
    datagram = bytearray(sealed())
    datagram[bit // 8] ^= 1 << bit % 8
    assert not isinstance(receiver().open(bytes(datagram), NOW), Signed)


@given(st.binary(max_size=MAX_DATAGRAM_BYTES + 10))
def test_other_bytes_behind_the_tag_are_not_taken(rest: bytes) -> None:
    assert receiver().open(sealed()[: module.TAG_BYTES] + rest, NOW) is Unheeded.FORGED


@given(st.binary(max_size=300))
def test_whatever_a_member_seals_the_receiver_only_refuses_it(message: bytes) -> None:
    tag, fresh = sealed()[: module.TAG_BYTES], salt(7)
    cipher = module._cipher(NEW, OTHER.peer_id, fresh)
    datagram = tag + fresh + cipher.encrypt(bytes(12), message, tag)
    assert receiver().open(datagram, NOW) in {Unheeded.MALFORMED, Unheeded.STALE}


def test_what_inflates_without_end_is_cut_where_no_record_can_be_larger() -> None:
    bomb = Signed(signer=ME.peer_id, payload=bytes(100_000), signature=bytes(64))
    opened = receiver().open(sealed(bomb), NOW)
    assert isinstance(opened, Signed)
    assert len(opened.payload) == MAX_RECORD_BYTES + 1, "which the table refuses for its size"


def test_a_flood_of_members_is_bounded_and_others_have_their_turn_later() -> None:
    other = receiver()
    taken = [other.open(sealed(number=n), NOW) for n in range(BURST + 5)]
    assert taken == [RECORD] * BURST + [Unheeded.TOO_MANY] * 5
    assert other.open(sealed(number=10**6), NOW + 2 / RATE, "another") == RECORD


def test_replays_and_forgeries_take_nobodys_turn() -> None:
    other = receiver()
    other.open(sealed(), NOW)
    for _ in range(BURST):
        other.open(sealed(), NOW)
        other.open(sealed()[: module.TAG_BYTES] + bytes(60), NOW, "forger")
        other.open(sealed(now=NOW - 2 * FRESH_S, number=1), NOW, "late")
    assert other.open(sealed(number=2), NOW) == RECORD


def forged(number: int) -> bytes:
    """What whoever saw a tag pass can send."""
    return sealed()[: module.TAG_BYTES] + salt(number) + bytes(60)


def test_a_source_of_forgeries_is_not_unsealed_for_ever_and_others_are() -> None:
    other = receiver()
    found = [other.open(forged(n), NOW, "forger") for n in range(UNSEALED_BURST + 5)]
    assert found == [Unheeded.FORGED] * UNSEALED_BURST + [Unheeded.TOO_MANY] * 5
    assert other.open(sealed(number=10**6), NOW, "newcomer") == RECORD
    assert other.open(forged(10**7), NOW + 2 / UNSEALED_RATE, "forger") is Unheeded.FORGED


def test_forgeries_from_made_up_sources_cost_so_much_and_no_more() -> None:
    other = receiver()
    found = [other.open(forged(n), NOW, f"source-{n}") for n in range(UNSEALED_BURST_IN_ALL + 5)]
    assert found.count(Unheeded.FORGED) == UNSEALED_BURST_IN_ALL
    later = NOW + 2 / UNSEALED_RATE_IN_ALL
    assert other.open(sealed(number=10**6), later, "newcomer") == RECORD


def test_nothing_fresh_is_forgotten_however_fast_they_come() -> None:
    other = receiver()
    at = NOW
    for number in range(MOST_SEEN + 500):
        at += 0.5 / RATE
        other.open(sealed(now=at + FRESH_S, number=number), at)
    assert len(other._seen) <= MOST_SEEN
    assert other.open(sealed(now=at + FRESH_S, number=0), at) is Unheeded.REPLAYED


def test_a_record_that_does_not_fit_is_not_announced_but_its_essentials_are() -> None:
    large = record(tuple(Digest(f"sha256:{n * 7**90 % 16**64:064x}") for n in range(MAX_IMAGES)))
    assert (
        Announcements(ME.peer_id, [NEW]).seal(OTHER.peer_id, sign_record(ME, large), NOW, salt())
        is None
    )
    small = sign_record(ME, essentials(large))
    assert receiver().open(sealed(small), NOW) == small


def test_the_whole_record_takes_the_place_of_its_essentials() -> None:
    whole = record(digests(3))
    assert whole.version.newer_than(essentials(whole).version)
    assert essentials(whole).images == ()
    again = record(digests(3), counter=4)
    assert essentials(again).version.newer_than(whole.version)
    floored = PeerRecord.model_validate(whole.model_dump() | {"floor": whole.version.counter})
    assert PeerRecord.model_validate(essentials(floored).model_dump()) == essentials(floored)


def test_the_key_comes_from_the_passphrase_alone() -> None:
    keys = network_keys("secret")
    assert keys.announcement_key == network_keys("secret").announcement_key
    assert keys.announcement_key not in {keys.member_key, keys.psk, keys.ca_seed}
    assert keys.announcement_key.hex() not in repr(keys)
