import stat
from pathlib import Path
from typing import ClassVar

import pytest

from overlay.errors import SettingsInvalid
from overlay.settings import (
    NodeSettings,
    config_dir,
    forget_joined_network,
    read_joined_network,
    split_address,
    state_dir,
    write_joined_network,
)


class GateSettings(NodeSettings):
    """A daemon's own settings, as each package has them."""

    section: ClassVar[str] = "gate"

    port: int = 4200


class RootSettings(NodeSettings):
    """A daemon that founds networks."""

    uses_joined_network: ClassVar[bool] = False


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty machine: no variable, no file, no network joined."""
    for name in ("P2P_BOOTSTRAPS", "P2P_PSK", "MYXO_CONFIG", "MYXO_PSK", "MYXO_BOOTSTRAPS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MYXO_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setattr("overlay.settings.SYSTEM_STATE_DIR", tmp_path / "system")
    return tmp_path


def write_config(home: Path, text: str) -> Path:
    path = home / "config.toml"
    path.write_text(text)
    return path


def join(home: Path, psk: str = "joined") -> None:
    write_joined_network(home / "state", bootstraps=("/joined",), psk=psk, admin="admin")


def test_without_anything_the_defaults_hold() -> None:
    settings = GateSettings.load({})
    assert (settings.port, settings.psk, settings.bootstraps) == (4200, None, ())


def test_a_flag_beats_the_environment_beats_the_file_beats_the_joined_network(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(home)
    assert GateSettings.load({}).psk == "joined"
    write_config(home, 'psk = "file"')
    assert GateSettings.load({}).psk == "file"
    monkeypatch.setenv("P2P_PSK", "older name")
    assert GateSettings.load({}).psk == "older name"
    monkeypatch.setenv("MYXO_PSK", "environment")
    assert GateSettings.load({}).psk == "environment"
    monkeypatch.setenv("MYXO_GATE_PSK", "own section")
    assert GateSettings.load({}).psk == "own section"
    assert GateSettings.load({"psk": "flag"}).psk == "flag"
    assert GateSettings.load({"psk": None}).psk == "own section"


def test_the_joined_network_gives_bootstraps_passphrase_and_admin(home: Path) -> None:
    join(home)
    settings = GateSettings.load({})
    assert settings.bootstraps == ("/joined",)
    assert (settings.psk, settings.admin) == ("joined", "admin")
    assert RootSettings.load({}).psk is None
    forget_joined_network(home / "state")
    assert GateSettings.load({}).psk is None


def test_the_joined_network_of_another_state_directory_is_found_by_the_flag(home: Path) -> None:
    write_joined_network(home / "other", bootstraps=("/x",), psk=None, admin=None)
    assert GateSettings.load({"state_dir": home / "other"}).bootstraps == ("/x",)


def test_an_installed_network_is_the_last_resort(home: Path) -> None:
    write_joined_network(home / "system", bootstraps=("/system",), psk=None, admin=None)
    assert GateSettings.load({}).bootstraps == ("/system",)
    join(home)
    assert GateSettings.load({}).bootstraps == ("/joined",)


def test_what_is_stored_of_the_network_is_the_users_alone(home: Path) -> None:
    awkward = 'quote " backslash \\ newline \n unicode é'
    join(home, psk=awkward)
    (path,) = (home / "state").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_joined_network(home / "state")["psk"] == awkward


@pytest.mark.parametrize("content", [b"[", b"\xff\xfe"])
def test_a_garbled_joined_network_is_none(home: Path, content: bytes) -> None:
    join(home)
    (path,) = (home / "state").iterdir()
    path.write_bytes(content)
    assert read_joined_network(home / "state") == {}


@pytest.mark.parametrize("name", ["P2P_BOOTSTRAPS", "MYXO_BOOTSTRAPS", "MYXO_GATE_BOOTSTRAPS"])
def test_bootstraps_in_the_environment_are_parted_by_white_space(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, " /ip4/1.1.1.1/tcp/1\n/ip4/2.2.2.2/tcp/2\t")
    assert GateSettings.load({}).bootstraps == ("/ip4/1.1.1.1/tcp/1", "/ip4/2.2.2.2/tcp/2")


def test_an_empty_variable_and_an_empty_list_say_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(home)
    monkeypatch.setenv("P2P_PSK", "")
    settings = GateSettings.load({"bootstraps": []})
    assert (settings.psk, settings.bootstraps) == ("joined", ("/joined",))


def test_a_daemons_own_table_beats_the_top_and_others_tables_are_not_its_business(
    home: Path,
) -> None:
    write_config(home, 'log_level = "debug"\n[gate]\nlog_level = "error"\nport = 1\n[x]\ny = 1\n')
    settings = GateSettings.load({})
    assert (settings.log_level, settings.port) == ("error", 1)


def test_a_setting_that_only_another_daemon_has_may_stand_at_the_top(home: Path) -> None:
    write_config(home, "runtime = 1\nport = 2")
    assert GateSettings.load({}).port == 2


def test_a_file_may_be_named_by_flag_or_variable(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "a.toml").write_text("port = 1")
    (home / "b.toml").write_text("port = 2")
    monkeypatch.setenv("MYXO_CONFIG", str(home / "a.toml"))
    assert GateSettings.load({}).port == 1
    assert GateSettings.load({}, home / "b.toml").port == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gate]\nprot = 1", "no setting 'prot'"),
        ("[gate]\nport = 'x'", "'port' is wrong"),
        ("port = ", "cannot be read"),
        ("gate = 3", "must be a table"),
        ('log_level = "loud"', "'log_level' is wrong"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(home: Path, text: str, said: str) -> None:
    write_config(home, text)
    with pytest.raises(SettingsInvalid, match=said):
        GateSettings.load({})


def test_a_named_file_must_be_there_and_readable(home: Path) -> None:
    with pytest.raises(SettingsInvalid, match="does not exist"):
        GateSettings.load({}, home / "none.toml")
    (home / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        GateSettings.load({}, home / "binary.toml")


def test_a_wrong_flag_is_named_without_showing_the_passphrase() -> None:
    with pytest.raises(SettingsInvalid, match="'port'"):
        GateSettings.load({"port": "x"})
    with pytest.raises(SettingsInvalid) as refused:
        GateSettings.load({"psk": ["very", "secret"]})
    assert "secret" not in str(refused.value)
    assert "secret" not in repr(GateSettings.load({"psk": "secret"}))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (":4001", "d", 4001),
        ("1.2.3.4:0", "1.2.3.4", 0),
        ("[::1]:65535", "::1", 65535),
        ("name:1", "name", 1),
    ],
)
def test_an_address_is_host_and_port(text: str, host: str, port: int) -> None:
    assert split_address(text, "d") == (host, port)


@pytest.mark.parametrize("text", ["", "4001", "h:", "h:65536", "h:-1", "h:x", "h:²", ":١"])
def test_what_is_no_address_is_said_so(text: str) -> None:
    with pytest.raises(SettingsInvalid, match="HOST:PORT"):
        split_address(text, "d")


def test_directories_follow_the_users_wishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (state_dir(), config_dir()) == (tmp_path / "state", tmp_path)
    monkeypatch.delenv("MYXO_STATE_DIR")
    monkeypatch.delenv("MYXO_CONFIG_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/c")
    assert (state_dir(), config_dir()) == (Path("/s/myxo"), Path("/c/myxo"))
