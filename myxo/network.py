"""A machine's part in a network: `myxo up` founds one, `myxo join` joins one."""

import shlex
import shutil
import socket
import tomllib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from myxo.daemons import Daemon
from myxo.forking import Forked
from myxo.running import held
from myxo.supervisor import supervised
from overlay.addresses import InvalidAddress, parse_address
from overlay.advertising import advertised_hosts, to_multiaddr
from overlay.errors import MyxoError, SettingsInvalid
from overlay.identity import load_or_create
from overlay.notify import notify
from overlay.passphrase import generate_passphrase, network_keys
from overlay.passphrases import find_ring, passphrase_in_force, toml_line
from overlay.records import Role
from overlay.remembered import knows_peers_of
from overlay.rotation import Passphrase
from overlay.settings import (
    forget_joined_network,
    key_path,
    owner_key_path,
    read_joined_network,
    split_address,
    write_joined_network,
)

KNOCK_TIMEOUT_S = 5.0
"""How long `join` tries each bootstrap address before any daemon is started."""

_FOUNDED = "founded.toml"


@dataclass(frozen=True, slots=True)
class Part:
    """What this machine does in a network.

    Attributes:
        bootstraps: what its daemons, and others, join through.
        psk: the passphrase; None in an open network.
        admin: the founder's owner key id, if known.
        daemons: what runs here.
        state_dir: of its daemons.
        proxy_port: where programs of this machine send requests.
    """

    bootstraps: tuple[str, ...]
    psk: str | None
    admin: str | None
    daemons: tuple[Daemon, ...]
    state_dir: Path
    proxy_port: int


def founding(
    *,
    state_dir: Path,
    psk: str | None,
    open_to_all: bool,
    p2p_listen_addr: str,
    proxy_port: int,
    hostname: str | None,
    log_level: str,
    allocator_flags: Sequence[str],
    registry_flags: Sequence[str],
) -> Part:
    """Return the part of a machine that founds a network, or founded it before.

    Its passphrase is made once and kept, so that machines that joined find it again. If it was
    changed since, the one in force takes the place of the one that is named.

    Raises:
        SettingsInvalid: an address, or the state directory, cannot be used.
    """
    host, port = split_address(p2p_listen_addr, "0.0.0.0")  # noqa: S104
    passphrase = None
    if not open_to_all:
        passphrase = passphrase_in_force(state_dir, psk or _kept_passphrase(state_dir))
    identity = load_or_create(key_path(state_dir, Role.BOOTSTRAP))
    admin = load_or_create(owner_key_path()).peer_id
    dialled = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104
    local = f"{to_multiaddr(dialled, port)}/p2p/{identity.peer_id}"
    make = _DaemonMaker(state_dir, passphrase, admin, hostname, log_level)
    bootstrap = make("bootstrap", ["--p2p-listen-addr", f"{p2p_listen_addr}"])
    return Part(
        bootstraps=tuple(
            f"{to_multiaddr(h, port)}/p2p/{identity.peer_id}" for h in advertised_hosts(host)
        ),
        psk=passphrase,
        admin=admin,
        daemons=(
            bootstrap,
            make("registry-service", ["--bootstrap", local, *registry_flags]),
            make("allocator", ["--bootstrap", local, *allocator_flags]),
            make("proxy", ["--bootstrap", local, str(proxy_port)]),
        ),
        state_dir=state_dir,
        proxy_port=proxy_port,
    )


def joining(
    bootstraps: Sequence[str],
    *,
    state_dir: Path,
    psk: str | None,
    admin: str | None,
    proxy_port: int,
    hostname: str | None,
    log_level: str,
    allocator_flags: Sequence[str],
) -> Part:
    """Return the part of a machine that joins a network: an allocator and a proxy.

    Raises:
        SettingsInvalid: an address is none, or does not name its peer.
    """
    for address in bootstraps:
        _check_names_its_peer(address)
    psk = passphrase_in_force(state_dir, psk)
    flags = [part for address in bootstraps for part in ("--bootstrap", address)]
    make = _DaemonMaker(state_dir, psk, admin, hostname, log_level)
    return Part(
        bootstraps=tuple(bootstraps),
        psk=psk,
        admin=admin,
        daemons=(
            make("allocator", [*flags, *allocator_flags]),
            make("proxy", [*flags, str(proxy_port)]),
        ),
        state_dir=state_dir,
        proxy_port=proxy_port,
    )


def _check_names_its_peer(address: str) -> None:
    try:
        named = parse_address(address).peer is not None
    except InvalidAddress as exc:
        raise SettingsInvalid(str(exc)) from exc
    if not named:
        raise SettingsInvalid(f"{address} does not end in /p2p/PEER: who must answer there")


async def run(part: Part, *, ready: Callable[[Part], None], forked: Sequence[Forked] = ()) -> None:
    """Run a machine's part until cancelled; while it runs, commands beside it need no flags.

    Args:
        part: what to run.
        ready: called once it runs.
        forked: children that wait to be its daemons.

    Raises:
        MyxoError: this machine is in a network already, or a daemon does not start.
    """
    async with running(part, forked):
        ready(part)
        notify("READY=1")
        await trio.sleep_forever()


@asynccontextmanager
async def running(part: Part, forked: Sequence[Forked] = ()) -> AsyncIterator[None]:
    """Run a machine's part for the length of a block, which begins when its daemons are ready.

    Raises:
        MyxoError: this machine is in a network already, or a daemon does not start.
    """
    refuse_second(part.state_dir)
    founds = any(daemon.name == "bootstrap" for daemon in part.daemons)
    if not founds and not _was_there_before(part):
        await _knock(part.bootstraps)
    run_dir = part.state_dir / "run"
    with held(run_dir):
        try:
            async with supervised(forked=forked) as supervisor:
                await supervisor.start(part.daemons)
                write_joined_network(
                    part.state_dir, bootstraps=part.bootstraps, psk=part.psk, admin=part.admin
                )
                yield
        finally:
            forget_joined_network(part.state_dir)
            shutil.rmtree(run_dir, ignore_errors=True)


def refuse_second(state_dir: Path) -> None:
    """Return unless this machine is in a network.

    Raises:
        MyxoError: it is.
    """
    if is_in_network(state_dir):
        raise MyxoError(
            f"this machine is in a network already (state in {state_dir}); stop that one "
            "first (`myxo down`), or choose another --state-dir, --proxy-port and, to found, "
            "--p2p-listen-addr"
        )


def is_in_network(state_dir: Path) -> bool:
    """Return whether this machine is in a network, and a daemon of its part still runs."""
    return bool(read_joined_network(state_dir)) and is_running(state_dir)


def is_running(state_dir: Path) -> bool:
    """Return whether a daemon of this state directory serves its socket."""
    for path in (state_dir / "run").glob("*.sock"):
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(path))
            except OSError:
                continue
            return True
    return False


def _was_there_before(part: Part) -> bool:
    """Whether daemons of this machine know other ways into the network than its bootstrap nodes."""
    network = network_keys(part.psk).network_id
    if part.psk is not None:
        network = find_ring(part.state_dir, Passphrase(text=part.psk, id=network)).network
    return knows_peers_of(part.state_dir, network)


async def _knock(bootstraps: Sequence[str]) -> None:
    """Return if something listens at one of the addresses, before daemons wait for it for long.

    Raises:
        MyxoError: nothing does.
    """
    for text in bootstraps:
        address = parse_address(text)
        with trio.move_on_after(KNOCK_TIMEOUT_S):
            try:
                stream = await trio.open_tcp_stream(address.host, address.port)
            except OSError:
                continue
            await stream.aclose()
            return
    raise MyxoError(
        f"nothing answers at {' or '.join(bootstraps)}: does `myxo up` run there, and does the "
        "firewall let its port through?"
    )


def join_command(part: Part) -> str:
    """Return the line to type on the next machine."""
    return join_words(part.bootstraps[0], part.psk, part.admin)


def join_words(bootstrap: str, psk: str | None, admin: str | None) -> str:
    """Return the line that joins the network of a bootstrap node, as a shell takes it."""
    words = ["myxo", "join", bootstrap]
    words += ["--psk", psk] if psk else []
    words += ["--admin", admin] if admin else []
    return shlex.join(words)


class _DaemonMaker:
    """Makes daemons of one machine; the passphrase travels in the environment, not in flags."""

    def __init__(
        self,
        state_dir: Path,
        psk: str | None,
        admin: str | None,
        hostname: str | None,
        log_level: str,
    ) -> None:
        self._common = ["--state-dir", str(state_dir), "--log-level", log_level]
        self._common += ["--hostname", hostname] if hostname else []
        self._admin = ["--admin", admin] if admin else []
        self._environment = {"P2P_PSK": psk} if psk else {}

    def __call__(self, name: str, flags: Sequence[str]) -> Daemon:
        """Return the daemon `name` with `flags` besides the common ones."""
        return Daemon(name, [*self._common, *self._admin, *flags], self._environment)


def _kept_passphrase(state_dir: Path) -> str:
    path = state_dir / _FOUNDED
    try:
        kept: dict[str, Any] = tomllib.loads(path.read_text())
        return str(kept["psk"])
    except FileNotFoundError:
        passphrase = generate_passphrase()
    except (OSError, tomllib.TOMLDecodeError, KeyError) as exc:
        raise SettingsInvalid(f"{path} cannot be read: {exc}; remove it to found anew") from exc
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    path.write_text(toml_line(passphrase) + "\n")
    return passphrase
