"""Bans and changes of the passphrase between real nodes in one process."""

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import trio

from overlay import passphrases, rotation
from overlay.bans import Ban, SignedBan
from overlay.calls import CallRefused
from overlay.connection import Connection
from overlay.errors import (
    MyxoError,
    PassphraseRefused,
    PeerRefused,
    RecordRefused,
    StatementRefused,
)
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.node import Node
from overlay.passphrase import network_keys
from overlay.records import Role, Version, sign_record
from overlay.rotation import Rotation, SignedRotation, Stage
from overlay.settings import read_joined_network, write_joined_network
from overlay.signed import Signed
from overlay.spreading import (
    BANS_PROTOCOL,
    ROTATE_PROTOCOL,
    _Offer,
    _State,
    _Taken,
)
from overlay.testing_nodes import PASSPHRASE, NodeLab, sees, until

ADMIN, OTHER = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))
OLD, NEW = PASSPHRASE, "new passphrase"
FAST_S = 30.0
TIME = 1_700_000_000.0


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[NodeLab]:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(60):
            yield NodeLab(tmp_path, nursery, ADMIN)
        nursery.cancel_scope.cancel()


def ban(
    node: Node, peer: PeerId, version: int = 1, *, lifted: bool = False, key: Identity = ADMIN
) -> Signed:
    statement = Ban(
        network=node.keys.network_id, peer=peer, version=version, lifted=lifted, at=TIME
    )
    return SignedBan.sign(key, statement).signed


async def say(node: Node, *statements: Signed) -> None:
    """Have a node take statements and tell everybody, as `myxo ban` does."""
    _, refused = node.trust.take_bans(statements)
    assert refused is None
    await node.spreading.tell_bans(statements)


def refused(why: str) -> AbstractContextManager[object]:
    return pytest.RaisesGroup(
        pytest.RaisesExc(PassphraseRefused, match=why), flatten_subgroups=True, allow_unwrapped=True
    )


# Bans


async def test_a_banned_peer_is_cut_by_all_at_once_and_cannot_come_back(lab: NodeLab) -> None:
    first, second, shut = (
        await lab.open("first", Role.BOOTSTRAP),
        await lab.open("second"),
        await lab.open("shut"),
    )
    await until(second, lambda: sees(second, first, shut))
    cut: list[tuple[PeerId, str]] = []
    second.banned.append(lambda peer, record: cut.append((peer, record.host if record else "")))
    await say(first, ban(first, shut.peer_id))
    for node in (first, second):
        assert shut.peer_id not in node.host.connected()
        assert not sees(node, shut)
        assert shut.peer_id not in node.view.known()
        with pytest.raises(PeerRefused):
            await node.host.connect(shut.peer_id, shut.record.addresses[0], timeout_s=FAST_S)
        while node.peer_id in shut.host.connected():  # noqa: ASYNC110  (it hears of the end later)
            await trio.sleep(0.01)
        with pytest.raises(PeerRefused, match="banned"):
            await shut.host.connect(node.peer_id, node.record.addresses[0], timeout_s=FAST_S)
    assert cut == [(shut.peer_id, "shut")]
    assert sees(first, second)
    assert sees(second, first)


async def test_a_record_of_a_banned_peer_is_refused_whoever_brings_it(lab: NodeLab) -> None:
    first, shut = await lab.open("first", Role.BOOTSTRAP), await lab.open("shut")
    (signed,) = shut.view.records_of(shut.peer_id)
    await say(first, ban(first, shut.peer_id))
    with pytest.raises(MyxoError, match="banned"):
        first.take(signed)


async def test_a_banned_peer_knows_by_whom_and_since_when(lab: NodeLab) -> None:
    first, shut = await lab.open("first", Role.BOOTSTRAP), await lab.open("shut")
    await say(first, ban(first, shut.peer_id))
    await until(shut, lambda: shut.trust.status()["banned"] is not None)
    assert shut.trust.status()["banned"] == {"by": ADMIN.peer_id, "at": TIME}
    assert first.trust.status()["banned"] is None
    assert first.trust.status()["bans"] == 1


async def test_a_banned_peer_without_an_admin_key_knows_who_says_so(lab: NodeLab) -> None:
    first, shut = await lab.open("first", Role.BOOTSTRAP), await lab.open("shut", admin=None)
    await say(first, ban(first, shut.peer_id))
    await until(shut, lambda: shut.trust.status()["banned"] is not None)
    assert shut.trust.status()["banned"]["said_by"] == first.peer_id


async def test_a_peer_whose_ban_is_lifted_comes_back_by_itself(lab: NodeLab) -> None:
    first, second, shut = (
        await lab.open("first", Role.BOOTSTRAP),
        await lab.open("second"),
        await lab.open("shut"),
    )
    await say(first, ban(first, shut.peer_id))
    await until(shut, lambda: shut.trust.status()["banned"] is not None)
    await say(first, ban(first, shut.peer_id, 2, lifted=True))
    await until(second, lambda: sees(second, shut))
    await until(shut, lambda: shut.trust.status()["banned"] is None)
    assert sees(shut, first, second)


async def test_only_the_admins_word_counts_whoever_passes_it_on(lab: NodeLab) -> None:
    first, member, other = (
        await lab.open("first", Role.BOOTSTRAP),
        await lab.open("member"),
        await lab.open("other"),
    )
    forged = ban(first, other.peer_id, key=OTHER)
    posing = forged.model_copy(update={"signer": ADMIN.peer_id})
    for signed in (forged, posing, ban(first, other.peer_id, key=member.identity)):
        request = _State(digest="", stamp=(0, 1), bans=(signed,))
        answer = await member.calls.call(
            first.peer_id, BANS_PROTOCOL, request, _State, timeout_s=FAST_S
        )
        assert "signed by" in answer.refused or "signature" in answer.refused
    assert sees(first, other)
    genuine = _State(digest="", stamp=(0, 1), bans=(ban(first, other.peer_id),))
    answer = await member.calls.call(
        first.peer_id, BANS_PROTOCOL, genuine, _State, timeout_s=FAST_S
    )
    assert not answer.refused
    assert not sees(first, other)


async def test_who_comes_later_learns_who_is_banned_before_it_counts_as_there(lab: NodeLab) -> None:
    first, shut = await lab.open("first", Role.BOOTSTRAP), await lab.open("shut")
    await say(first, ban(first, shut.peer_id))
    for number in range(3):
        late = await lab.open(f"late{number}")
        assert late.trust.bans.is_banned(shut.peer_id)


async def test_what_one_of_two_learned_while_they_were_apart_the_other_learns(lab: NodeLab) -> None:
    first = await lab.open("first", Role.BOOTSTRAP)
    shut, forgiven = (Identity.generate().peer_id for _ in range(2))
    async with lab.opened("second") as second:
        await say(second, ban(second, forgiven))
        second.trust.take_bans([ban(second, shut)])
        second.trust.take_bans([ban(second, forgiven, 3, lifted=True)])
    first.trust.take_bans([ban(first, forgiven, 2)])
    assert first.trust.bans.is_banned(forgiven)
    second = await lab.open("second")
    await until(first, lambda: first.trust.bans.digest == second.trust.bans.digest)
    assert first.trust.bans.is_banned(shut)
    assert not first.trust.bans.is_banned(forgiven)


async def test_bans_outlive_a_restart(lab: NodeLab) -> None:
    shut = Identity.generate().peer_id
    async with lab.opened("alone", Role.BOOTSTRAP) as node:
        await say(node, ban(node, shut))
    async with lab.opened("alone", Role.BOOTSTRAP) as node:
        assert node.trust.bans.is_banned(shut)
    async with lab.opened("alone", Role.BOOTSTRAP, admin=OTHER.peer_id) as node:
        assert not node.trust.bans.is_banned(shut), "who is no admin any more bans nobody"


async def test_a_peer_that_was_told_no_admin_bans_nobody_and_says_so(lab: NodeLab) -> None:
    first = await lab.open("first", Role.BOOTSTRAP)
    without = await lab.open("without", admin=None)
    statement = ban(first, Identity.generate().peer_id)
    first.trust.take_bans([statement])
    (told,) = await first.spreading.tell_bans([statement])
    assert (told.peer, told.answer) == (without.peer_id, "refused")
    assert "--admin" in told.why
    assert len(without.trust.bans) == 0


async def test_a_banned_peer_bans_itself_from_nothing(lab: NodeLab) -> None:
    node = await lab.open("alone", Role.BOOTSTRAP)
    await say(node, ban(node, node.peer_id))
    node.set_peer(gateway=("1.2.3.4:5",))
    assert node.record.gateway == ("1.2.3.4:5",)


# Changing the passphrase


def step(
    node: Node, stage: Stage, *members: Node | PeerId, text: str = NEW, grace_s: float = 3600
) -> Signed:
    ids = [m.peer_id if isinstance(m, Node) else m for m in members]
    statement = Rotation(
        network=node.trust.ring.network,
        version=node.trust.ring.stamp[0] + (node.trust.ring.stage is Stage.COMMIT),
        stage=stage,
        replaces=node.trust.ring.current.id,
        passphrase_id=network_keys(text).network_id,
        members=tuple(ids),
        at=4e9,  # later than any clock here, so the grace time runs from when it is taken
        grace_s=grace_s,
    )
    return SignedRotation.sign(ADMIN, statement).signed


async def change(
    node: Node,
    *members: Node | PeerId,
    stages: tuple[Stage, ...] = tuple(Stage),
    text: str = NEW,
    grace_s: float = 3600,
) -> None:
    """Have a node change the passphrase for `members`, as `myxo psk rotate` does."""

    async def done(_: object) -> None:
        await trio.lowlevel.checkpoint()

    for stage in stages:
        assert await node.trust.take_rotation(
            step(node, stage, *members, text=text, grace_s=grace_s), text
        )
        there = [p.peer_id for p in node.view.peers() if p.peer_id in node.host.connected()]
        await node.spreading.tell_rotation(there, done)
        node.spreading.spread(None)


async def until_connected(*nodes: Node) -> None:
    with trio.fail_after(60):
        for one in nodes:
            others = {other.peer_id for other in nodes if other is not one}
            while not others <= one.host.connected():  # noqa: ASYNC110  (nobody is told of it)
                await trio.sleep(0.02)


def connections(node: Node) -> set[Connection]:
    return set(node.host._connections)


def has_new(node: Node) -> bool:
    return node.trust.ring.current.text == NEW and node.trust.ring.stage is Stage.COMMIT


async def test_all_members_change_and_none_loses_a_connection(lab: NodeLab) -> None:
    first, second, third = (
        await lab.open("first", Role.BOOTSTRAP),
        await lab.open("second"),
        await lab.open("third"),
    )
    nodes = (first, second, third)
    await until_connected(*nodes)
    before = {n.peer_id: connections(n) for n in nodes}
    pins = {n.peer_id: n.record.certificate for n in nodes}
    await change(first, first, second, third)
    for node in nodes:
        assert has_new(node)
        assert node.keys.psk == network_keys(NEW).psk
        assert node.keys.network_id == network_keys(OLD).network_id
        assert before[node.peer_id] <= connections(node)
        assert not any(c.is_closed for c in before[node.peer_id])
        assert node.record.certificate == pins[node.peer_id] == node.tls.pin


async def test_between_prepare_and_commit_old_and_new_get_in(lab: NodeLab) -> None:
    first, second = await lab.open("first", Role.BOOTSTRAP), await lab.open("second")
    await change(first, first, second, stages=(Stage.PREPARE,))
    assert second.trust.ring.next is not None
    async with lab.opened("early", psk=NEW) as early, lab.opened("late", psk=OLD) as late:
        assert sees(first, early, late)
        assert sees(second, early, late)


async def test_after_the_commit_the_new_one_gets_in_and_the_old_one_nobody_unknown(
    lab: NodeLab,
) -> None:
    first, second = await lab.open("first", Role.BOOTSTRAP), await lab.open("second")
    await change(first, first, second)
    async with lab.opened("new", psk=NEW) as new:
        assert sees(first, new)
    with refused("was changed"):
        async with lab.opened("stranger", psk=OLD):
            pytest.fail("it joined")
    assert {p.record.host for p in first.view.peers()} == {"second"}


async def test_a_member_that_was_off_comes_back_and_is_told_the_new_one(lab: NodeLab) -> None:
    first = await lab.open("first", Role.BOOTSTRAP)
    second = await lab.open("second")
    async with lab.opened("away") as away:
        absent = away.peer_id
    await change(first, first, second, absent)
    back = await lab.open("away", psk=OLD)
    assert back.peer_id == absent
    await until(back, lambda: has_new(back))
    await until(second, lambda: sees(second, back))


async def test_a_member_that_was_off_reaches_the_network_through_anybody(lab: NodeLab) -> None:
    first = await lab.open("first", Role.BOOTSTRAP)
    second = await lab.open("second")
    async with lab.opened("away") as away:
        absent = away.peer_id
    await change(first, first, second, absent)
    through = f"{second.record.addresses[0]}/p2p/{second.peer_id}"
    back = await lab.open("away", psk=OLD, bootstraps=(through,))
    await until(back, lambda: has_new(back))
    await until(first, lambda: sees(first, back))


async def test_a_banned_member_is_told_nothing_and_does_not_get_in(lab: NodeLab) -> None:
    first, second, shut = (
        await lab.open("first", Role.BOOTSTRAP),
        await lab.open("second"),
        await lab.open("shut"),
    )
    await say(first, ban(first, shut.peer_id))
    await change(first, first, second, shut)
    with pytest.raises(PeerRefused):
        await shut.host.connect(second.peer_id, second.record.addresses[0], timeout_s=FAST_S)
    assert shut.trust.ring.current.text == OLD
    assert shut.trust.ring.next is None
    assert has_new(second)


async def test_whoever_joined_while_it_was_prepared_and_is_not_listed_is_cut_at_the_commit(
    lab: NodeLab,
) -> None:
    first, second = await lab.open("first", Role.BOOTSTRAP), await lab.open("second")
    await change(first, first, second, stages=(Stage.PREPARE,))
    late = await lab.open("late", psk=OLD)
    assert late.trust.ring.next is None, "it is told nothing"
    await change(first, first, second, stages=(Stage.COMMIT,))
    assert late.peer_id not in first.host.connected() | second.host.connected()
    assert late.trust.ring.current.text == OLD
    await until(first, lambda: not sees(first, late))
    await until(second, lambda: not sees(second, late))


async def test_a_node_killed_between_prepare_and_commit_comes_back_with_both(lab: NodeLab) -> None:
    first = await lab.open("first", Role.BOOTSTRAP)
    async with lab.opened("second") as second:
        await change(first, first, second, stages=(Stage.PREPARE,))
        members = (first, second.peer_id)
    async with lab.opened("second") as second:
        assert [k is not None for k in second.trust.keys_to_accept()] == [True, True]
        await change(first, *members, stages=(Stage.COMMIT,))
        assert has_new(second)


async def test_a_node_that_was_down_during_the_commit_is_told_when_it_is_back(lab: NodeLab) -> None:
    first = await lab.open("first", Role.BOOTSTRAP)
    async with lab.opened("second") as second:
        members = (first, second.peer_id)
        await change(first, *members, stages=(Stage.PREPARE,))
    await change(first, *members, stages=(Stage.COMMIT,))
    second = await lab.open("second")
    await until(second, lambda: has_new(second))


async def test_a_restarted_node_goes_on_with_the_new_one_whatever_its_settings_say(
    lab: NodeLab,
) -> None:
    async with lab.opened("alone", Role.BOOTSTRAP) as node:
        await change(node, node)
        network = node.keys.network_id
    for psk in (OLD, NEW):
        async with lab.opened("alone", Role.BOOTSTRAP, psk=psk) as node:
            assert has_new(node)
            assert node.keys.network_id == network


async def test_what_people_and_commands_read_has_the_new_one(lab: NodeLab) -> None:
    state = lab.folder / "alone"
    state.mkdir()
    write_joined_network(state, bootstraps=("/b",), psk=OLD, admin=ADMIN.peer_id)
    (state / "founded.toml").write_text(passphrases.toml_line(OLD) + "\n")
    (state / "myxo.env").write_text("MORE=1\n" + passphrases.environment_line(OLD) + "\n")
    async with lab.opened("alone", Role.BOOTSTRAP) as node:
        await change(node, node)
    assert read_joined_network(state) == {
        "bootstraps": ["/b"],
        "psk": NEW,
        "admin": ADMIN.peer_id,
    }
    assert (state / "founded.toml").read_text() == f'psk = "{NEW}"\n'
    assert (state / "myxo.env").read_text() == f'MORE=1\nP2P_PSK="{NEW}"\n'
    assert passphrases.passphrase_in_force(state, OLD) == NEW
    assert OLD not in "".join(
        p.read_text() for p in state.rglob("*") if p.suffix in {".toml", ".env"}
    )


async def test_who_joins_with_the_new_one_learns_which_network_it_is(lab: NodeLab) -> None:
    first = await lab.open("first", Role.BOOTSTRAP)
    await change(first, first)
    shut = Identity.generate().peer_id
    await say(first, ban(first, shut))
    async with lab.opened("late", psk=NEW) as late:
        assert late.keys.network_id == network_keys(OLD).network_id
        await until(late, lambda: late.trust.bans.is_banned(shut))
    async with lab.opened("late", psk=NEW, bootstraps=()) as late:
        assert late.keys.network_id == network_keys(OLD).network_id, "and remembers"


async def test_a_second_change_reaches_who_knows_only_the_first_passphrase(lab: NodeLab) -> None:
    first = await lab.open("first", Role.BOOTSTRAP)
    async with lab.opened("away") as away:
        absent = away.peer_id
    await change(first, first, absent, text="in between")
    await change(first, first, absent)
    back = await lab.open("away", psk=OLD)
    await until(back, lambda: has_new(back))


async def test_when_the_grace_time_is_over_the_old_one_is_worth_nothing(
    lab: NodeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "MIN_GRACE_S", 0)
    first, second = await lab.open("first", Role.BOOTSTRAP), await lab.open("second")
    async with lab.opened("away") as away:
        absent = away.peer_id
    deaf = await lab.open("deaf", admin=None)
    await change(first, first, second, absent, deaf, grace_s=2)
    assert deaf.peer_id in first.host.connected()
    kept = list(first.host._connections.of(second.peer_id))
    await until(first, lambda: not first.trust.ring.previous)
    await until(first, lambda: deaf.peer_id not in first.host.connected())
    assert first.host._connections.of(second.peer_id) == kept, "who took the change is not cut"
    await until(first, lambda: not sees(first, deaf))
    await until(second, lambda: not sees(second, deaf))
    assert first.trust.trusted_authorities() == []
    with refused("does not share"):
        async with lab.opened("away"):
            pytest.fail("it came back")


async def test_only_the_admin_changes_the_passphrase(lab: NodeLab) -> None:
    first, member = await lab.open("first", Role.BOOTSTRAP), await lab.open("member")
    good = step(first, Stage.COMMIT, first, member)
    forged = SignedRotation.sign(OTHER, Rotation.model_validate_json(good.payload)).signed
    for signed in (forged, forged.model_copy(update={"signer": ADMIN.peer_id})):
        with pytest.raises(CallRefused):
            await member.calls.call(
                first.peer_id,
                ROTATE_PROTOCOL,
                _Offer(statement=signed, passphrase=NEW),
                _Taken,
                timeout_s=FAST_S,
            )
    with pytest.raises(CallRefused, match="not the one"):
        await member.calls.call(
            first.peer_id,
            ROTATE_PROTOCOL,
            _Offer(statement=good, passphrase="another"),
            _Taken,
            timeout_s=FAST_S,
        )
    assert first.trust.ring.stamp == (0, 1)


async def test_a_passphrase_that_cannot_be_stored_is_not_taken(lab: NodeLab) -> None:
    node = await lab.open("alone", Role.BOOTSTRAP)
    (lab.folder / "alone" / "passphrases").write_text("in the way")
    with pytest.raises(StatementRefused, match="cannot be stored"):
        await node.trust.take_rotation(step(node, Stage.COMMIT, node), NEW)
    assert node.trust.ring.current.text == OLD


async def test_a_client_follows_by_what_its_machines_daemons_have_stored(lab: NodeLab) -> None:
    first = await lab.open("first", Role.BOOTSTRAP)
    client = await lab.open("first", Role.CLIENT)
    await until_connected(first, client)
    before = {p.name for p in (lab.folder / "first").rglob("*")}
    await change(first, first)
    assert client.peer_id not in first.host.connected()
    await until(client, lambda: has_new(client))
    await until_connected(first, client)
    added = {p.name for p in (lab.folder / "first").rglob("*")} - before
    assert added == {"passphrases", f"{network_keys(OLD).network_id}.json"}


async def test_a_client_leaves_nothing_behind_when_the_passphrase_changes(lab: NodeLab) -> None:
    first = await lab.open("first", Role.BOOTSTRAP)
    client = await lab.open("client", Role.CLIENT)
    await until_connected(first, client)
    await change(first, first)
    assert not (lab.folder / "client").exists()


# What a record shows


def shown(node: Node, proof: str) -> Signed:
    """A newer record of `node` that holds this proof."""
    version = Version(epoch=node.epoch + 1, counter=1)
    record = node.record.model_copy(update={"version": version, "proof": proof})
    return sign_record(node.identity, record)


@pytest.mark.parametrize("proof", ["", ":", "nonsense", "ü:ü", "0" * 16 + ":" + "0" * 32])
async def test_a_record_without_a_proof_of_the_passphrase_is_not_taken(
    lab: NodeLab, proof: str
) -> None:
    first, other = await lab.open("first", Role.BOOTSTRAP), await lab.open("other")
    with pytest.raises(RecordRefused, match="does not know"):
        first.take(shown(other, proof))
    first.take(shown(other, other.trust.proof()))


async def test_a_proof_is_of_no_use_to_anybody_else(lab: NodeLab) -> None:
    first, other = await lab.open("first", Role.BOOTSTRAP), await lab.open("other")
    with pytest.raises(RecordRefused, match="does not know"):
        first.take(shown(other, first.trust.proof()))


async def test_in_an_open_network_nothing_is_to_be_shown(lab: NodeLab) -> None:
    first = await lab.open("first", Role.BOOTSTRAP, psk=None)
    other = await lab.open("other", psk=None)
    assert other.record.proof == ""
    first.take(shown(other, "anything"))
