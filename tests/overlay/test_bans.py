import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import bans as bans_module
from overlay.bans import Ban, Bans, SignedBan
from overlay.errors import StatementRefused
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.signed import Purpose, sign

NETWORK = "n" * 16
ADMIN, OTHER = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))
PEERS = [Identity.from_seed(bytes([n]) * 32).peer_id for n in range(10, 14)]


def ban(peer: PeerId, version: int = 1, *, lifted: bool = False, host: str = "") -> SignedBan:
    statement = Ban(network=NETWORK, peer=peer, version=version, lifted=lifted, host=host)
    return SignedBan.sign(ADMIN, statement)


def taken(statements: list[SignedBan]) -> Bans:
    table = Bans(NETWORK)
    for one in statements:
        table.take(one)
    return table


STATEMENTS = [
    ban(peer, version, lifted=lifted, host=host)
    for peer, version, lifted, host in itertools.product(PEERS, (1, 2), (False, True), ("", "h"))
]
statements = st.lists(st.sampled_from(STATEMENTS), max_size=20)


@given(statements, st.randoms(use_true_random=False))
def test_the_order_in_which_statements_come_does_not_matter(
    some: list[SignedBan], random: object
) -> None:
    shuffled = sorted(some, key=lambda _: random.random())  # type: ignore[attr-defined]
    one, other = taken(some), taken(shuffled + some)
    assert one.digest == other.digest
    assert {b.ban for b in one} == {b.ban for b in other}


@given(statements)
def test_the_highest_version_about_a_peer_holds(some: list[SignedBan]) -> None:
    table = taken(some)
    for peer in PEERS:
        about = [one.ban for one in some if one.ban.peer == peer]
        newest = [b for b in about if b.version == max(x.version for x in about)]
        assert table.is_banned(peer) == any(not b.lifted for b in newest)


@given(statements, statements)
def test_two_tables_are_the_same_once_each_has_what_the_other_lacked(
    some: list[SignedBan], others: list[SignedBan]
) -> None:
    mine, theirs = taken(some), taken(others)
    sent = [SignedBan.verified(s, ADMIN.peer_id) for s in mine.lacking(h.signed for h in theirs)]
    back = [SignedBan.verified(s, ADMIN.peer_id) for s in theirs.lacking(h.signed for h in mine)]
    for one in sent:
        theirs.take(one)
    for one in back:
        mine.take(one)
    assert mine.digest == theirs.digest


@given(statements, st.sampled_from(PEERS), st.floats(0, 1e6))
def test_a_new_statement_beats_every_one_that_is_held(
    some: list[SignedBan], peer: PeerId, now: float
) -> None:
    table = taken(some)
    table.take(ban(peer, table.next_version(peer, now)))
    assert table.is_banned(peer)
    table.take(ban(peer, table.next_version(peer, now), lifted=True))
    assert not table.is_banned(peer)


def test_a_new_statement_beats_what_others_hold_though_the_admin_lost_its_table() -> None:
    known, lost = Bans(NETWORK), Bans(NETWORK)
    known.take(ban(PEERS[0], known.next_version(PEERS[0], 1000.0)))
    assert known.take(ban(PEERS[0], lost.next_version(PEERS[0], 2000.0), lifted=True))


def test_a_statement_that_is_held_is_no_news_and_needs_no_second_look() -> None:
    table, one = Bans(NETWORK), ban(PEERS[0])
    assert table.take(one)
    assert not table.take(one)
    assert table.holds(one.signed)
    assert not table.holds(one.signed.model_copy(update={"payload": b"{}"}))
    assert table.take(ban(PEERS[0], 2))
    assert not table.holds(one.signed)


def test_only_the_admin_bans() -> None:
    mine = ban(PEERS[0]).signed
    assert SignedBan.verified(mine, ADMIN.peer_id).ban.peer == PEERS[0]
    with pytest.raises(StatementRefused, match="is signed by"):
        SignedBan.verified(mine, OTHER.peer_id)
    with pytest.raises(StatementRefused, match="--admin"):
        SignedBan.verified(mine, None)


def test_what_is_forged_malformed_or_about_nobody_is_no_ban() -> None:
    good = ban(PEERS[0]).signed
    forged = sign(OTHER, Purpose.BAN, good.payload).model_copy(update={"signer": ADMIN.peer_id})
    as_revision = sign(ADMIN, Purpose.REVISION, good.payload)
    malformed = sign(ADMIN, Purpose.BAN, b'{"peer": 1}')
    nobody = ban(PeerId("nobody")).signed
    long = sign(ADMIN, Purpose.BAN, b" " * 2000 + good.payload)
    for signed in (forged, as_revision, malformed, nobody, long):
        with pytest.raises(StatementRefused):
            SignedBan.verified(signed, ADMIN.peer_id)


def test_a_ban_of_another_network_is_refused() -> None:
    table = Bans("m" * 16)
    with pytest.raises(StatementRefused, match="another network"):
        table.take(ban(PEERS[0]))
    assert not table.is_banned(PEERS[0])


def test_a_full_table_says_so_and_still_takes_news_about_whom_it_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bans_module, "MAX_BANS", 2)
    table = taken([ban(PEERS[0]), ban(PEERS[1])])
    with pytest.raises(StatementRefused, match="psk rotate"):
        table.take(ban(PEERS[2]))
    assert table.take(ban(PEERS[0], 2, lifted=True))
    assert [b.ban.peer for b in table.in_force()] == [PEERS[1]]


def test_a_network_that_turns_out_to_be_another_begins_with_no_bans() -> None:
    table = taken([ban(PEERS[0])])
    empty = Bans("m" * 16).digest
    table.move("m" * 16)
    assert (len(table), table.is_banned(PEERS[0]), table.digest) == (0, False, empty)
    assert not table.holds(ban(PEERS[0]).signed)
