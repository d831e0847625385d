"""`myxo install`: systemd units that keep a machine's part in a network running over reboots.

One unit a daemon, so that systemd restarts and limits each alone. The passphrase goes into an
environment file in the state directory, which only its user reads, and where the daemons put the
new one when it is changed; the units are `Type=notify`, so `systemctl start` returns when the
daemon is ready.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from myxo.daemons import Daemon
from myxo.network import Part
from overlay.passphrases import environment_line
from overlay.settings import write_joined_network

UNIT_DIR = Path("etc/systemd/system")
DELEGATES_SUBGROUPS = 254
"""The first systemd that starts a service in a leaf of the control group that it gives to it."""

ENVIRONMENT_FILE = "myxo.env"
"""In the state directory; `overlay.passphrases.restate` knows it."""


def install(part: Part, *, root: Path = Path("/"), user: str = "root") -> list[Path]:
    """Write units below `root`, and passphrase and network to the state directory.

    Units start in the order of `part.daemons`, after the network and the engine if there is one.

    Returns:
        What was written.
    """
    environment = part.state_dir / ENVIRONMENT_FILE
    environment.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    environment.touch(mode=0o600)
    environment.write_text(environment_line(part.psk) + "\n" if part.psk else "")
    units = root / UNIT_DIR
    units.mkdir(parents=True, exist_ok=True)
    written = [environment]
    for position, daemon in enumerate(part.daemons):
        path = units / unit_name(daemon)
        path.write_text(_unit(daemon, part.daemons[:position], user, environment))
        written.append(path)
    write_joined_network(part.state_dir, bootstraps=part.bootstraps, psk=part.psk, admin=part.admin)
    return written


def enable(part: Part) -> bool:
    """Have systemd start the units now and at every boot; return False where it does not run."""
    if not shutil.which("systemctl") or not Path("/run/systemd/system").exists():
        return False
    names = [unit_name(d) for d in part.daemons]
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    subprocess.run(["systemctl", "enable", "--now", *names], check=True)
    return True


def unit_name(daemon: Daemon) -> str:
    """Return the name of a daemon's unit."""
    return f"myxo-{daemon.name}.service"


def _unit(daemon: Daemon, earlier: Sequence[Daemon], user: str, environment: Path) -> str:
    after = ["network-online.target", "docker.service", *(unit_name(d) for d in earlier)]
    command = [sys.executable, "-m", "myxo", daemon.name, *daemon.arguments]
    return f"""[Unit]
Description=Myxo {daemon.name}
Wants=network-online.target
After={" ".join(after)}

[Service]
Type=notify
NotifyAccess=main
User={user}
EnvironmentFile={str(environment).replace("%", "%%")}
ExecStart={" ".join(_quoted(word) for word in command)}
{_reload(daemon)}Restart=always
RestartSec=1
TimeoutStopSec=10
KillMode={"process" if daemon.name == "allocator" else "mixed"}
{_delegation(daemon)}LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""


def _reload(daemon: Daemon) -> str:
    """Return how a proxy is replaced without a failed request, by `systemctl reload`."""
    return "ExecReload=/bin/kill -USR2 $MAINPID\n" if daemon.name == "proxy" else ""


def _delegation(daemon: Daemon) -> str:
    """Return what gives an allocator a control group to divide among processes.

    Without a leaf of its own for the daemon, as older systemds have none, a crashed allocator could
    not be started again beside the instances that it left: a divided group takes no members.
    """
    if daemon.name != "allocator" or systemd_version() < DELEGATES_SUBGROUPS:
        return ""
    return "Delegate=cpu memory pids\nDelegateSubgroup=allocator\n"


def systemd_version() -> int:
    """Return the version of this machine's systemd; 0 if there is none."""
    if not shutil.which("systemctl"):
        return 0
    said = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=False)
    number = said.stdout.split()[1:2]
    return int(number[0]) if number and number[0].isdigit() else 0


def _quoted(word: str) -> str:
    """Return `word` as systemd reads it: `%` and `$` mean themselves."""
    escaped = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$").replace('"', '\\"')
    return f'"{escaped}"' if escaped != word or not word or " " in word else word
