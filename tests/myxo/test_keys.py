import stat
from pathlib import Path

import pytest

from myxo import keys
from overlay.errors import SettingsInvalid
from overlay.identity import Identity
from overlay.settings import allowed_keys_path, owner_key_path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person without any file."""
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path


def test_a_person_has_one_key_made_when_first_needed() -> None:
    assert keys.own_key() == keys.own_key()
    assert stat.S_IMODE(owner_key_path().stat().st_mode) == 0o600


def test_an_exported_key_is_the_same_person_on_another_machine(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = keys.export_key(home / "alice.key")
    assert stat.S_IMODE((home / "alice.key").stat().st_mode) == 0o600
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(home / "other"))
    assert keys.import_key(home / "alice.key") == exported == keys.own_key().peer_id
    assert stat.S_IMODE(owner_key_path().stat().st_mode) == 0o600
    assert keys.import_key(home / "alice.key") == exported


def test_an_export_overwrites_nothing_and_says_where_it_cannot_write(home: Path) -> None:
    (home / "taken").write_text("precious")
    with pytest.raises(SettingsInvalid, match="exists"):
        keys.export_key(home / "taken")
    assert (home / "taken").read_text() == "precious"
    with pytest.raises(SettingsInvalid, match="cannot be written"):
        keys.export_key(home / "no" / "folder")


def test_an_import_replaces_no_other_key_and_wants_a_key(home: Path) -> None:
    keys.own_key()
    (home / "other.key").write_text(Identity.generate().seed.hex())
    with pytest.raises(SettingsInvalid, match="another owner key"):
        keys.import_key(home / "other.key")
    (home / "no.key").write_text("nonsense")
    for path in ("no.key", "none.key"):
        with pytest.raises(SettingsInvalid):
            keys.import_key(home / path)


def test_a_key_is_allowed_once_also_in_a_file_without_a_last_line_end() -> None:
    first, second = (Identity.generate().peer_id for _ in range(2))
    assert keys.allow(first)
    assert not keys.allow(first)
    allowed_keys_path().write_text(first)
    assert keys.allow(second)
    assert allowed_keys_path().read_text().split() == [first, second]


def test_what_is_no_key_is_not_allowed() -> None:
    with pytest.raises(SettingsInvalid):
        keys.allow("nonsense")
    assert not allowed_keys_path().exists()
