"""The passphrases of this machine's networks, in the state directory.

`passphrases/NETWORK.json` holds a network's ring once its passphrase has been changed; before that
the settings say all there is. A daemon looks there for the ring that knows the passphrase in its
settings, be it an old one, and goes on with the ring. So a machine that was restarted in the middle
of a change, or whose settings nobody could change, comes up with what is in force.

All daemons of a state directory share the file. Each writes what it has taken, under a lock, and
none writes anything older than what is there.

What people and commands read is changed too, where it is in the state directory: the line with the
old passphrase in `network.toml`, `founded.toml` and `myxo.env`.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from overlay.errors import SettingsInvalid
from overlay.passphrase import network_keys
from overlay.rotation import KeyRing, Passphrase

_DIRECTORY = "passphrases"

_PLAIN = re.compile(r"[A-Za-z0-9_./:=@+,-]+")
"""What systemd reads in an environment file as it is written."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def find_ring(directory: Path, passphrase: Passphrase) -> KeyRing:
    """Return the ring of the network that this passphrase is or was one of.

    Raises:
        SettingsInvalid: the file is there and cannot be read.
    """
    for path in sorted((directory / _DIRECTORY).glob("*.json")):
        ring = _read(path)
        if ring.knows(passphrase.id):
            return ring
    return KeyRing.founded(passphrase)


def passphrase_in_force(directory: Path, given: str | None) -> str | None:
    """Return the passphrase that replaced `given`, or `given` if it was never replaced."""
    if not given or not (directory / _DIRECTORY).exists():
        return given
    named = Passphrase(text=given, id=network_keys(given).network_id)
    return find_ring(directory, named).current.text


def keep_ring(directory: Path, ring: KeyRing) -> None:
    """Store the ring durably, unless a newer one is there already.

    Raises:
        OSError: it cannot be written.
    """
    folder = directory / _DIRECTORY
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{ring.network}.json"
    with _locked(folder):
        if path.exists() and _read(path).stamp > ring.stamp:
            return
        _write(path, ring.model_dump_json())


def restate(directory: Path, old: str, new: str) -> None:
    """Put the new passphrase in place of the old one in the files that name it.

    A file that cannot be written keeps the old one, which leads to the ring all the same.
    """
    for name, line in _FILES.items():
        path = directory / name
        try:
            text = path.read_text() if path.exists() else ""
            lines = [line(new) if found == line(old) else found for found in text.split("\n")]
            if (changed := "\n".join(lines)) != text:
                with _locked(directory):
                    _write(path, changed)
        except (OSError, UnicodeDecodeError) as exc:
            log.warning("passphrase.file_not_changed", path=str(path), error=str(exc))


def toml_line(passphrase: str) -> str:
    """Return the line of a TOML file that holds the passphrase."""
    return f"psk = {json.dumps(passphrase)}"


def environment_line(passphrase: str) -> str:
    """Return the line of a systemd environment file that holds the passphrase."""
    if _PLAIN.fullmatch(passphrase):
        return f"P2P_PSK={passphrase}"
    escaped = passphrase.replace("\\", "\\\\").replace('"', '\\"')  # nothing else is special there
    return f'P2P_PSK="{escaped}"'


_FILES = {
    "network.toml": toml_line,
    "founded.toml": toml_line,
    "myxo.env": environment_line,
}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes that write here waiting; each holds it for one small file's writing."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _read(path: Path) -> KeyRing:
    try:
        return KeyRing.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise SettingsInvalid(
            f"{path}, which holds the network's passphrase, cannot be read ({exc}); move it away "
            "and join with the passphrase that is in force"
        ) from exc


def _write(path: Path, text: str) -> None:
    """Replace the file's content at once, also if the power fails meanwhile; its user's alone."""
    written = path.with_suffix(".new")
    with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
