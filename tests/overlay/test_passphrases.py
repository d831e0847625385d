import shlex
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import SettingsInvalid
from overlay.passphrase import network_keys
from overlay.passphrases import (
    environment_line,
    find_ring,
    keep_ring,
    passphrase_in_force,
    restate,
    toml_line,
)
from overlay.rotation import KeyRing, Passphrase

OLD, NEW = (Passphrase(text=t, id=network_keys(t).network_id) for t in ("old", "new"))
CHANGED = KeyRing(network=OLD.id, current=NEW, earlier=(OLD.id,), stamp=(7, 1))


def test_a_network_whose_passphrase_never_changed_has_no_file(tmp_path: Path) -> None:
    assert find_ring(tmp_path, OLD) == KeyRing.founded(OLD)
    assert passphrase_in_force(tmp_path, "old") == "old"
    assert passphrase_in_force(tmp_path, None) is None
    assert list(tmp_path.iterdir()) == []


def test_a_ring_is_found_by_every_passphrase_that_the_network_had(tmp_path: Path) -> None:
    keep_ring(tmp_path, CHANGED)
    for named in (OLD, NEW):
        assert find_ring(tmp_path, named) == CHANGED
        assert passphrase_in_force(tmp_path, named.text) == "new"
    assert passphrase_in_force(tmp_path, "another network's") == "another network's"


def test_what_is_stored_is_its_users_alone(tmp_path: Path) -> None:
    keep_ring(tmp_path, CHANGED)
    (path,) = (tmp_path / "passphrases").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_nothing_older_takes_the_place_of_what_is_there(tmp_path: Path) -> None:
    keep_ring(tmp_path, CHANGED)
    keep_ring(tmp_path, KeyRing.founded(OLD))
    assert find_ring(tmp_path, OLD) == CHANGED


def test_of_many_that_write_at_once_the_newest_wins(tmp_path: Path) -> None:
    rings = [CHANGED.model_copy(update={"stamp": (n % 17, 1)}) for n in range(100)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda ring: keep_ring(tmp_path, ring), rings))
    assert find_ring(tmp_path, OLD).stamp == (16, 1)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    keep_ring(tmp_path, CHANGED)
    (path,) = (tmp_path / "passphrases").iterdir()
    path.write_text("nonsense")
    with pytest.raises(SettingsInvalid, match=path.name):
        find_ring(tmp_path, OLD)


def test_the_lines_that_name_the_old_one_name_the_new_one_and_no_other_changes(
    tmp_path: Path,
) -> None:
    network = tmp_path / "network.toml"
    network.write_text(f'admin = "old"\n{toml_line("old")}\nmore = 1\n')
    network.chmod(0o600)
    (tmp_path / "founded.toml").write_text(toml_line("own") + "\n")
    (tmp_path / "myxo.env").write_text("A=old\n" + environment_line("old"))
    restate(tmp_path, "old", "new")
    assert network.read_text() == 'admin = "old"\npsk = "new"\nmore = 1\n'
    assert stat.S_IMODE(network.stat().st_mode) == 0o600
    assert (tmp_path / "founded.toml").read_text() == 'psk = "own"\n'
    assert (tmp_path / "myxo.env").read_text() == "A=old\nP2P_PSK=new"


def test_a_file_that_cannot_be_changed_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    (tmp_path / "network.toml").mkdir()
    (tmp_path / "founded.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "myxo.env").write_text(environment_line("old"))
    restate(tmp_path, "old", "new")
    assert (tmp_path / "myxo.env").read_text() == "P2P_PSK=new"


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1))
def test_systemd_reads_the_passphrase_that_was_written(passphrase: str) -> None:
    """In double quotes it takes backslashes as a shell does (systemd.exec, EnvironmentFile=)."""
    assert shlex.split(environment_line(passphrase)) == [f"P2P_PSK={passphrase}"]
