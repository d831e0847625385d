from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from overlay import roster as roster_module
from overlay.membership import MemberState
from overlay.names import PeerId
from overlay.records import PeerRecord, Role, Version
from overlay.roster import REMEMBER_S, KeptRoster, Roster
from overlay.view import PeerView

NOW = 1e9


def member(name: str, role: Role = Role.PROXY) -> PeerView:
    record = PeerRecord(version=Version(epoch=1, counter=1), role=role, host=f"{name}'s")
    return PeerView(PeerId(name), record, MemberState.ALIVE, None, local=False)


def names(roster: Roster) -> list[str]:
    return [seen.peer for seen in roster.all()]


def test_who_was_seen_is_remembered_the_latest_first() -> None:
    roster = Roster()
    assert roster.note([member("a"), member("b")], NOW)
    assert not roster.note([member("a")], NOW + 1)
    assert names(roster) == ["a", "b"]
    (a, b) = roster.all()
    assert (a.host, a.role, a.at, b.at) == ("a's", "proxy", NOW + 1, NOW)


def test_who_was_not_seen_for_long_is_forgotten_and_clients_at_once() -> None:
    roster = Roster()
    roster.note([member("a"), member("passing", Role.CLIENT)], NOW)
    assert names(roster) == ["a"]
    roster.note([], NOW + REMEMBER_S)
    assert names(roster) == ["a"]
    roster.note([member("b")], NOW + REMEMBER_S + 1)
    assert names(roster) == ["b"]


def test_there_is_a_bound_and_the_longest_unseen_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster_module, "MAX_MEMBERS", 2)
    roster = Roster()
    for number, name in enumerate("abc"):
        roster.note([member(name)], NOW + number)
    assert names(roster) == ["c", "b"]


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 10**6)), max_size=20))
def test_a_roster_is_the_same_after_a_restart(seen: list[tuple[str, int]]) -> None:
    roster = Roster()
    for name, at in sorted(seen, key=lambda one: one[1]):
        roster.note([member(name)], NOW + at)
    assert {s.peer: s for s in Roster.from_json(roster.to_json()).all()} == {
        s.peer: s for s in roster.all()
    }


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"peer": "a"}]', "3"])
def test_what_is_no_roster_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Roster.from_json(text)


@dataclass
class FakeView:
    members: list[PeerView] = field(default_factory=list)
    generation: int = 0

    def peers(self, role: Role | None = None) -> list[PeerView]:
        assert role is None
        return self.members


async def until(truth: Callable[[], bool]) -> None:
    while not truth():  # noqa: ASYNC110  (what it looks at is a file)
        await trio.sleep(0.01)


async def test_a_daemon_notes_who_comes_and_remembers_it_after_a_restart(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster_module, "NOTE_EVERY_S", 0.01)
    path, view = tmp_path / "roster" / "r.json", FakeView([member("a")])
    kept = KeptRoster(path, view)
    nursery.start_soon(kept.run)
    with trio.fail_after(60):
        await until(path.exists)
        view.members, view.generation = [member("b")], 1
        await until(lambda: "b's" in path.read_text())
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await trio.testing.wait_all_tasks_blocked()
    assert {s.peer for s in KeptRoster(path, FakeView()).all()} == {"a", "b"}


def test_a_damaged_file_is_an_empty_roster(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("nonsense")
    assert KeptRoster(tmp_path / "r.json", FakeView()).all() == []
