from pathlib import Path

import pytest

from myxo.rotating import Wish, rotate
from overlay import roster
from overlay.errors import MyxoError, SettingsInvalid
from overlay.node import Node
from overlay.records import Role
from overlay.rotation import Stage
from overlay.testing_nodes import NodeLab, until

OLD = "old passphrase"


def wish(passphrase: str | None = None, *, resume: bool = False, force: bool = False) -> Wish:
    return Wish(passphrase, 3600, resume=resume, force=force)


def holds(node: Node, passphrase: str) -> bool:
    ring = node.trust.ring
    return ring.current.text == passphrase and ring.stage is Stage.COMMIT


class Screen:
    """What a person is shown, who presses Ctrl-C at a line that has `until` in it."""

    def __init__(self, until: str = "never") -> None:
        self.lines: list[str] = []
        self._until = until

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if self._until in line:
            raise KeyboardInterrupt


async def test_every_member_has_the_new_passphrase_afterwards(lab: NodeLab) -> None:
    nodes = [await lab.open("first", Role.BOOTSTRAP)]
    nodes += [await lab.open(name) for name in ("second", "third")]
    screen = Screen()
    passphrase = await rotate(lab.folder / "first", wish(), screen)
    assert len(passphrase) == 24
    assert all(holds(node, passphrase) for node in nodes)
    assert screen.lines == ["prepared: 3 of 3 peers", "changed: 3 of 3 peers"]


async def test_a_machine_that_is_off_is_named_and_comes_back(
    lab: NodeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "NOTE_EVERY_S", 0.01)
    first = await lab.open("first", Role.BOOTSTRAP)
    off = await lab.open("off")
    notes = lab.folder / "first" / "roster"
    await until(first, lambda: any(off.peer_id in p.read_text() for p in notes.glob("*.json")))
    screen = Screen()
    await lab.close("off")
    await until(first, lambda: not first.view.peers())
    await rotate(lab.folder / "first", wish("new"), screen)
    assert screen.lines[0] == "prepared: 1 of 2 peers"
    assert "away     proxy on off" in screen.lines[1]
    back = await lab.open("off")
    await until(back, lambda: holds(back, "new"))


async def test_nothing_changes_while_a_live_peer_refuses(lab: NodeLab) -> None:
    first = await lab.open("first", Role.BOOTSTRAP)
    deaf = await lab.open("deaf", admin=None)
    state, screen = lab.folder / "first", Screen()
    with pytest.raises(MyxoError, match="--force"):
        await rotate(state, wish("new"), screen)
    assert "refuses  proxy on deaf" in screen.lines[1]
    assert first.trust.ring.current.text == OLD
    assert await rotate(state, wish(force=True), Screen()) == "new"
    assert holds(first, "new")
    assert holds(deaf, OLD)


async def test_an_interrupted_change_goes_on_where_it_was(lab: NodeLab) -> None:
    first, second = await lab.open("first", Role.BOOTSTRAP), await lab.open("second")
    state = lab.folder / "first"
    with pytest.raises(KeyboardInterrupt):
        await rotate(state, wish("new"), Screen("prepared"))
    assert first.trust.ring.stage is second.trust.ring.stage is Stage.PREPARE
    with pytest.raises(SettingsInvalid, match="not finished"):
        await rotate(state, wish("another"), Screen())
    screen = Screen()
    assert await rotate(state, wish(), screen) == "new"
    assert "begun before" in screen.lines[0]
    assert holds(first, "new")
    assert holds(second, "new")


async def test_a_daemon_that_was_killed_in_the_middle_finishes_with_the_rest(
    lab: NodeLab,
) -> None:
    await lab.open("first", Role.BOOTSTRAP)
    await lab.open("second")
    state = lab.folder / "first"
    with pytest.raises(KeyboardInterrupt):
        await rotate(state, wish("new"), Screen("prepared"))
    await lab.close("second")
    second = await lab.open("second")
    assert second.trust.ring.stage is Stage.PREPARE
    await rotate(state, wish(resume=True), Screen())
    assert holds(second, "new")


async def test_another_members_daemon_can_finish_what_one_began(lab: NodeLab) -> None:
    await lab.open("first", Role.BOOTSTRAP)
    second = await lab.open("second")
    with pytest.raises(KeyboardInterrupt):
        await rotate(lab.folder / "first", wish("new"), Screen("prepared"))
    await lab.close("first")
    assert await rotate(lab.folder / "second", wish(), Screen()) == "new"
    assert holds(second, "new")


async def test_resuming_what_is_done_begins_nothing_new(lab: NodeLab) -> None:
    first = await lab.open("first", Role.BOOTSTRAP)
    state = lab.folder / "first"
    with pytest.raises(SettingsInvalid, match="nothing to resume"):
        await rotate(state, wish(resume=True), Screen())
    await rotate(state, wish("new"), Screen())
    stamp = first.trust.ring.stamp
    assert await rotate(state, wish(resume=True), Screen()) == "new"
    assert first.trust.ring.stamp == stamp


@pytest.mark.parametrize("again", [OLD, "new"])
async def test_a_passphrase_that_the_network_has_or_had_is_no_new_one(
    lab: NodeLab, again: str
) -> None:
    await lab.open("first", Role.BOOTSTRAP)
    state = lab.folder / "first"
    await rotate(state, wish("new"), Screen())
    with pytest.raises(SettingsInvalid):
        await rotate(state, wish(again), Screen())


async def test_an_open_network_has_no_passphrase_to_change(lab: NodeLab) -> None:
    await lab.open("first", Role.BOOTSTRAP, psk=None)
    with pytest.raises(SettingsInvalid, match="open"):
        await rotate(lab.folder / "first", wish(), Screen())


async def test_only_the_admin_changes_the_passphrase(
    lab: NodeLab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = await lab.open("first", Role.BOOTSTRAP)
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path / "somebody else"))
    with pytest.raises(MyxoError, match="only the network's admin"):
        await rotate(lab.folder / "first", wish(), Screen())
    assert holds(first, OLD)


@pytest.mark.parametrize(
    ("passphrase", "grace_s"), [("", 0), ("a\nb", 0), ("x" * 2000, 0), ("x", -1), ("x", 1e9)]
)
async def test_what_cannot_be_meant_is_refused_before_anything_is_asked(
    tmp_path: Path, passphrase: str, grace_s: float
) -> None:
    with pytest.raises(SettingsInvalid):
        await rotate(tmp_path, Wish(passphrase, grace_s, resume=False, force=False), Screen())
