"""Whose maps they are: the key of this machine's user."""

from functools import lru_cache
from pathlib import Path

from overlay.identity import Identity, load_or_create
from overlay.settings import owner_key_path


def owner() -> Identity:
    """Return the key that signs what this user registers.

    Raises:
        SettingsInvalid: it cannot be read or made.
    """
    path = owner_key_path()
    try:
        found = path.stat()
    except OSError:
        return load_or_create(path)
    return _kept(path, (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@lru_cache(maxsize=1)
def _kept(path: Path, _version: tuple[int, ...]) -> Identity:
    """Return the key of a file that is there: each map asks, and reading it takes 0.2 ms."""
    return load_or_create(path)
