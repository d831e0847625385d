"""Whose maps they are, also when that changes while a program runs."""

from pathlib import Path

import pytest

from myxo.mapping.owner import owner
from overlay.errors import SettingsInvalid
from overlay.identity import Identity
from overlay.settings import owner_key_path


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path))
    return owner_key_path()


def test_the_key_is_made_once_and_read_once() -> None:
    made = owner()
    read = owner()
    assert read.peer_id == made.peer_id
    assert owner() is read


def test_another_key_in_its_place_counts_at_once(key: Path) -> None:
    owner()
    owner()
    other = Identity.generate()
    written = key.with_name("other")
    written.write_text(other.seed.hex() + "\n")
    written.rename(key)
    assert owner().peer_id == other.peer_id


def test_a_key_of_another_place_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = owner()
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path / "elsewhere"))
    assert owner().peer_id != first.peer_id


def test_what_is_no_key_is_said_each_time(key: Path) -> None:
    key.write_text("no key\n")
    for _ in range(2):
        with pytest.raises(SettingsInvalid, match="holds no Ed25519 key"):
            owner()
