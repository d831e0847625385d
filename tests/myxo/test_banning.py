from pathlib import Path

import pytest
import trio
from pydantic import BaseModel

from myxo import banning
from myxo.banning import Target, find_targets
from myxo.status import as_tables, read_status
from overlay.calls import CallRefused, serve_calls
from overlay.errors import MyxoError, SettingsInvalid
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.records import Role
from overlay.settings import owner_key_path
from overlay.spreading import BANS_PROTOCOL
from overlay.testing_nodes import NodeLab, sees, until

A, B, C = (Identity.from_seed(bytes([n]) * 32).peer_id for n in range(3))
KNOWN = [Target(A, "one", "proxy"), Target(B, "one", "allocator"), Target(C, "two", here=True)]


@pytest.mark.parametrize(
    ("word", "meant"),
    [(A, [A]), (A[-8:], [A]), ("…" + C[-8:], [C]), ("one", [A, B]), ("two", [C])],
)
def test_a_word_means_a_peer_or_all_peers_of_a_host(word: str, meant: list[PeerId]) -> None:
    assert [t.peer for t in find_targets(word, KNOWN)] == meant


def test_a_peer_that_nobody_sees_is_named_by_its_whole_id() -> None:
    stranger = Identity.generate().peer_id
    assert find_targets(stranger, KNOWN) == [Target(stranger)]


@pytest.mark.parametrize("word", ["three", "", A[-4:], A[:20], "12D3KooW"])
def test_a_word_that_means_nobody_is_refused_with_the_hosts_that_are_known(word: str) -> None:
    with pytest.raises(SettingsInvalid, match="one, two"):
        find_targets(word, KNOWN)


def test_the_end_of_several_ids_means_none_of_them() -> None:
    twins = [Target(PeerId("x-ending")), Target(PeerId("y-ending"))]
    with pytest.raises(SettingsInvalid, match="several"):
        find_targets("-ending", twins)


async def test_a_host_is_banned_with_all_its_peers_and_let_in_again(lab: NodeLab) -> None:
    first, other = await lab.open("first", Role.BOOTSTRAP), await lab.open("other")
    shut = [
        await lab.open("shut", Role.PROXY),
        await lab.open("shut", Role.ALLOCATOR),
    ]
    await until(first, lambda: sees(first, other, *shut))
    state = lab.folder / "first"
    outcome = await banning.ban(state, "shut", force=False)
    assert {t.peer for t in outcome.targets} == {n.peer_id for n in shut}
    assert (outcome.told, outcome.troubles) == (2, [])
    for node in (first, other):
        assert {p.record.host for p in node.view.peers()} <= {"first", "other"}
    assert {(b["host"], b["peer"]) for b in await banning.read_bans(state)} == {
        ("shut", n.peer_id) for n in shut
    }
    await until(shut[0], lambda: shut[0].trust.status()["banned"] is not None)
    status = await read_status(lab.folder / "shut")
    assert "Banned from the network" in str(as_tables(status)[0].title)
    outcome = await banning.unban(state, "shut")
    assert {t.peer for t in outcome.targets} == {n.peer_id for n in shut}
    await until(first, lambda: sees(first, *shut))
    assert await banning.read_bans(state) == []


async def test_one_peer_of_a_host_is_banned_alone(lab: NodeLab) -> None:
    first = await lab.open("first", Role.BOOTSTRAP)
    shut, left = await lab.open("host"), await lab.open("host", Role.ALLOCATOR)
    await banning.ban(lab.folder / "first", shut.peer_id[-8:], force=False)
    assert [p.peer_id for p in first.view.peers()] == [left.peer_id]


async def test_banning_ones_own_daemon_must_be_meant(lab: NodeLab) -> None:
    await lab.open("first", Role.BOOTSTRAP)
    state = lab.folder / "first"
    with pytest.raises(SettingsInvalid, match="--force"):
        await banning.ban(state, "first", force=False)
    assert await banning.read_bans(state) == []
    await banning.ban(state, "first", force=True)
    assert len(await banning.read_bans(state)) == 1


async def test_only_the_admin_bans_and_everybody_else_is_told_who_that_is(
    lab: NodeLab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await lab.open("first", Role.BOOTSTRAP)
    state = lab.folder / "first"
    for config in ("nobody", "somebody"):
        monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path / config))
        if config == "somebody":
            owner_key_path().parent.mkdir()
            owner_key_path().write_text(Identity.generate().seed.hex())
        with pytest.raises(MyxoError, match=lab.admin.peer_id):
            await banning.ban(state, A, force=False)
    assert not (tmp_path / "nobody").exists(), "asking makes no key"
    assert await banning.read_bans(state) == []


async def test_daemons_that_know_no_admin_are_no_help(lab: NodeLab) -> None:
    await lab.open("first", Role.BOOTSTRAP, admin=None)
    with pytest.raises(MyxoError, match="--admin"):
        await banning.ban(lab.folder / "first", A, force=False)


async def test_a_peer_that_does_not_take_a_ban_is_named(lab: NodeLab) -> None:
    first = await lab.open("first", Role.BOOTSTRAP)
    deaf = await lab.open("deaf", admin=None)
    await until(first, lambda: sees(first, deaf))
    outcome = await banning.ban(lab.folder / "first", A, force=False)
    assert outcome.told == 1
    (trouble,) = outcome.troubles
    assert trouble.startswith("deaf: ")


async def test_who_is_not_banned_cannot_be_unbanned(lab: NodeLab) -> None:
    await lab.open("first", Role.BOOTSTRAP)
    for word in (A, "first"):
        with trio.fail_after(60), pytest.raises(SettingsInvalid):
            await banning.unban(lab.folder / "first", word)


async def test_a_peers_words_do_not_steer_the_terminal(lab: NodeLab) -> None:
    first = await lab.open("first", Role.BOOTSTRAP)
    liar = await lab.open("liar")
    await until(first, lambda: sees(first, liar))

    async def lie(_: PeerId, request: BaseModel) -> BaseModel:
        assert request is not None
        raise CallRefused("refused", "\x1b[2J" + "x" * 10_000)

    serve_calls(liar.host, BANS_PROTOCOL, BaseModel, lie)
    with trio.fail_after(20):
        while True:  # a stream from before the lie is answered honestly
            first.calls.forget(liar.peer_id)
            outcome = await banning.ban(lab.folder / "first", A, force=False)
            if outcome.troubles:
                break
    (trouble,) = outcome.troubles
    assert trouble.isprintable()
    assert len(trouble) < 500
