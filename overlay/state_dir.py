"""What a daemon keeps of itself in its state directory: its key, and how often it has started."""

import time
from pathlib import Path

from overlay.errors import SettingsInvalid
from overlay.identity import Identity, load_or_create
from overlay.names import PeerId
from overlay.records import Role
from overlay.settings import NodeSettings, key_path


def open_state_dir(directory: Path) -> None:
    """Make the state directory for its user alone: keys and definitions are nobody else's."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(exist_ok=True, mode=0o700)
    except OSError as exc:
        raise _unusable(directory, exc) from exc


def own_identity(settings: NodeSettings, role: Role, name: str) -> Identity:
    """Return the key that a daemon is known by; a client has another one at each start."""
    if settings.ephemeral or role is Role.CLIENT:
        return Identity.generate()
    return load_or_create(settings.keyfile or key_path(settings.state_dir, role, name))


def next_epoch(settings: NodeSettings, role: Role, peer: PeerId) -> float:
    """Return an epoch above every earlier one of this identity, stored before it is used."""
    if settings.ephemeral or role is Role.CLIENT:
        return time.time()
    path = settings.state_dir / "epochs" / peer
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        last = float(path.read_text()) if path.exists() else 0.0
        epoch = max(time.time(), last + 0.001)
        written = path.with_suffix(".new")
        written.write_text(repr(epoch))
        written.replace(path)
    except (OSError, ValueError) as exc:
        raise _unusable(settings.state_dir, exc) from exc
    return epoch


def _unusable(directory: Path, why: Exception) -> SettingsInvalid:
    return SettingsInvalid(
        f"the state directory {directory} cannot be used: {why}; name another with --state-dir or "
        "MYXO_STATE_DIR"
    )
