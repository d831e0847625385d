import shlex
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from myxo.commands.part import FirstSettings
from myxo.install import ENVIRONMENT_FILE, UNIT_DIR, install
from myxo.network import Part, founding, join_command, joining, run
from overlay.control import serve_control
from overlay.errors import MyxoError, SettingsInvalid
from overlay.identity import Identity
from overlay.passphrase import network_keys
from overlay.passphrases import keep_ring
from overlay.rotation import KeyRing, Passphrase
from overlay.settings import NodeSettings, read_joined_network, write_joined_network

PEER = Identity.from_seed(b"p" * 32).peer_id
ADDRESS = f"/ip4/10.0.0.1/tcp/4001/p2p/{PEER}"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path / "config"))


def found(state: Path, *, psk: str | None = None, open_to_all: bool = False) -> Part:
    return founding(
        state_dir=state,
        psk=psk,
        open_to_all=open_to_all,
        p2p_listen_addr="127.0.0.1:4001",
        proxy_port=4200,
        hostname=None,
        log_level="warning",
        allocator_flags=[],
        registry_flags=["--etcd", "http://e"],
    )


def join(state: Path, *addresses: str, psk: str | None = "secret %$ word") -> Part:
    return joining(
        addresses,
        state_dir=state,
        psk=psk,
        admin=PEER,
        proxy_port=4201,
        hostname="h",
        log_level="info",
        allocator_flags=["--runtime", "process"],
    )


def test_a_founder_makes_a_passphrase_once_and_keeps_it(tmp_path: Path) -> None:
    first, again = found(tmp_path), found(tmp_path)
    assert first.psk
    assert first == again
    (path,) = tmp_path.glob("*.toml")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert found(tmp_path, psk="own").psk == "own"
    assert found(tmp_path, open_to_all=True).psk is None


def test_a_founder_runs_all_four_daemons_and_no_flag_shows_the_passphrase(tmp_path: Path) -> None:
    part = found(tmp_path)
    assert [d.name for d in part.daemons] == [
        "bootstrap",
        "registry-service",
        "allocator",
        "proxy",
    ]
    for daemon in part.daemons:
        assert part.psk not in daemon.arguments
        assert daemon.environment == {"P2P_PSK": part.psk}


def test_the_line_for_the_next_machine_is_what_it_needs_to_join(tmp_path: Path) -> None:
    part = found(tmp_path)
    words = join_command(part).split()
    assert words[:3] == ["myxo", "join", part.bootstraps[0]]
    assert words[3:] == ["--psk", part.psk, "--admin", part.admin]
    joined = join(tmp_path / "b", words[2], psk=words[4])
    assert (joined.bootstraps, joined.psk) == (part.bootstraps, part.psk)


def test_who_joins_runs_an_allocator_and_a_proxy(tmp_path: Path) -> None:
    part = join(tmp_path, ADDRESS)
    assert [d.name for d in part.daemons] == ["allocator", "proxy"]
    for daemon in part.daemons:
        position = daemon.arguments.index("--bootstrap")
        assert daemon.arguments[position + 1] == ADDRESS


@pytest.mark.parametrize("address", ["nonsense", "/ip4/10.0.0.1/tcp/4001", "/ip4/x/tcp/1"])
def test_an_address_must_say_who_answers_there(tmp_path: Path, address: str) -> None:
    with pytest.raises(SettingsInvalid):
        join(tmp_path, address)


async def test_a_machine_is_in_one_network_at_a_time(tmp_path: Path, nursery: trio.Nursery) -> None:
    write_joined_network(tmp_path, bootstraps=(ADDRESS,), psk=None, admin=None)
    with trio.fail_after(60):
        await nursery.start(serve_control, tmp_path / "run" / "proxy.sock", dict, {})
        with pytest.raises(MyxoError, match="in a network already"):
            await run(join(tmp_path, ADDRESS), ready=lambda _: None)
    assert read_joined_network(tmp_path)["bootstraps"] == [ADDRESS]


def test_installed_units_start_in_order_and_keep_the_passphrase_to_root(tmp_path: Path) -> None:
    part = join(tmp_path / "state", ADDRESS)
    written = install(part, root=tmp_path)
    environment = tmp_path / "state" / ENVIRONMENT_FILE
    assert environment in written
    assert stat.S_IMODE(environment.stat().st_mode) == 0o600
    units = {p.name: p.read_text() for p in (tmp_path / UNIT_DIR).iterdir()}
    assert set(units) == {"myxo-allocator.service", "myxo-proxy.service"}
    assert "myxo-allocator.service" in units["myxo-proxy.service"].split("[Service]")[0]
    for text in units.values():
        assert "Type=notify" in text
        assert "secret" not in text
        assert f"--bootstrap {ADDRESS}" in text
        assert f"EnvironmentFile={environment}\n" in text
    assert read_joined_network(tmp_path / "state")["psk"] == part.psk


@pytest.mark.parametrize(("version", "delegates"), [(0, False), (252, False), (254, True)])
def test_an_allocator_is_given_a_control_group_where_it_can_be_started_again_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, delegates: bool
) -> None:
    monkeypatch.setattr("myxo.install.systemd_version", lambda: version)
    install(join(tmp_path / "state", ADDRESS), root=tmp_path)
    units = {p.name: p.read_text() for p in (tmp_path / UNIT_DIR).iterdir()}
    assert ("DelegateSubgroup=allocator\n" in units["myxo-allocator.service"]) == delegates
    assert "Delegate" not in units["myxo-proxy.service"]


async def test_who_joins_where_nothing_answers_is_told_so_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen: connections are refused
        address = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}/p2p/{PEER}"
        with trio.fail_after(60), pytest.raises(MyxoError, match=f"nothing answers at {address}"):
            await run(join(tmp_path, address), ready=lambda _: pytest.fail("it joined"))


def test_who_founds_does_not_borrow_the_passphrase_of_the_network_that_runs_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MYXO_STATE_DIR", str(tmp_path))
    write_joined_network(tmp_path, bootstraps=(ADDRESS,), psk="another network's", admin=None)
    assert NodeSettings.load({}).psk == "another network's"
    assert FirstSettings.load({}).psk is None


def test_whoever_names_a_passphrase_that_was_changed_gets_the_one_in_force(
    tmp_path: Path,
) -> None:
    old, new = (Passphrase(text=t, id=network_keys(t).network_id) for t in ("old", "new"))
    keep_ring(tmp_path, KeyRing(network=old.id, current=new, earlier=(old.id,), stamp=(1, 1)))
    for part in (join(tmp_path, ADDRESS, psk="old"), found(tmp_path, psk="old")):
        assert part.psk == "new"
        assert {d.environment["P2P_PSK"] for d in part.daemons} == {"new"}
    assert join(tmp_path, ADDRESS, psk="another").psk == "another"
    assert found(tmp_path, open_to_all=True).psk is None


def test_every_daemon_is_told_the_admin(tmp_path: Path) -> None:
    for part in (found(tmp_path), join(tmp_path, ADDRESS)):
        for daemon in part.daemons:
            assert daemon.arguments[daemon.arguments.index("--admin") + 1] == part.admin


def test_the_printed_line_survives_a_shell_whatever_the_passphrase(tmp_path: Path) -> None:
    part = join(tmp_path, ADDRESS, psk="it's $HOME; `true`")
    words = shlex.split(join_command(part))
    assert words == ["myxo", "join", ADDRESS, "--psk", "it's $HOME; `true`", "--admin", PEER]


async def test_who_was_in_the_network_before_does_not_depend_on_its_bootstrap_nodes(
    tmp_path: Path,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen: connections are refused
        address = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}/p2p/{PEER}"
        for psk in ("one", None):
            part = replace(join(tmp_path, address, psk=psk), daemons=())
            network = network_keys(psk).network_id
            (tmp_path / "peers").mkdir(exist_ok=True)
            (tmp_path / "peers" / f"{network}-12345678.json").write_text("[]")
            assert await _starts(part)
        other = replace(join(tmp_path, address, psk="another"), daemons=())
        with pytest.raises(MyxoError, match="nothing answers"):
            await run(other, ready=lambda _: pytest.fail("it joined"))


async def _starts(part: Part) -> bool:
    with trio.fail_after(60), trio.CancelScope() as scope:
        await run(part, ready=lambda _: scope.cancel())
    return scope.cancelled_caught
