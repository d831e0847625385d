"""Whose maps they are: the key of this machine's user."""

from overlay.identity import Identity, load_or_create
from overlay.settings import owner_key_path


def owner() -> Identity:
    """Return the key that signs what this user registers.

    Raises:
        SettingsInvalid: it cannot be read or made.
    """
    return load_or_create(owner_key_path())
