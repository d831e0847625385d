"""The owner keys that may run everything on this machine.

`myxo allow KEY` adds to the file, an editor may too; `#` begins a comment. It is read at each use,
so that a change counts at once.
"""

import contextlib
from pathlib import Path

from overlay.errors import SettingsInvalid
from overlay.identity import load_or_create
from overlay.names import PeerId
from overlay.settings import allowed_keys_path, owner_key_path


def allowed_keys(admin: str | None) -> frozenset[PeerId]:
    """Return the keys in the file, the network's admin's, and the machine's own user's."""
    keys = set(_listed(allowed_keys_path()))
    if admin:
        keys.add(PeerId(admin))
    if owner_key_path().exists():
        with contextlib.suppress(SettingsInvalid):
            keys.add(load_or_create(owner_key_path()).peer_id)
    return frozenset(keys)


def _listed(path: Path) -> list[PeerId]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    words = (line.partition("#")[0].strip() for line in lines)
    return [PeerId(word) for word in words if word]
