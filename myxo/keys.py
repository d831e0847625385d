"""`myxo key` and `myxo allow`: owner keys, and whose processes may run on this machine."""

from pathlib import Path

from overlay.errors import MyxoError, SettingsInvalid, SignatureInvalid
from overlay.identity import Identity, load_or_create, public_key_of
from overlay.names import PeerId
from overlay.settings import allowed_keys_path, owner_key_path


def own_key() -> Identity:
    """Return this person's owner key, made if there is none."""
    return load_or_create(owner_key_path())


def admin_key(admin: str | None) -> Identity:
    """Return this person's owner key, which is the network's admin key.

    Args:
        admin: the admin key's id as this machine's daemons know it.

    Raises:
        MyxoError: it is not, or the daemons know of no admin.
    """
    if admin is None:
        raise MyxoError(
            "this machine's daemons know no admin key, so they would not believe anybody: start "
            "them with --admin KEY, as in the line that `myxo up` prints"
        )
    mine = load_or_create(owner_key_path()) if owner_key_path().exists() else None
    if mine is None or mine.peer_id != admin:
        raise MyxoError(
            f"only the network's admin may do that: the owner key {admin}, and "
            f"{'this user has none' if mine is None else f'this user has {mine.peer_id}'}; do it "
            "on the machine that founded the network, or `myxo key import` the admin's key here"
        )
    return mine


def export_key(path: Path) -> PeerId:
    """Write this person's owner key to `path` (mode 0600); return its id.

    Raises:
        SettingsInvalid: something is at `path` already.
    """
    key = own_key()
    if path.exists():
        raise SettingsInvalid(f"{path} exists; name a new file")
    try:
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(key.seed.hex() + "\n")
    except OSError as exc:
        raise SettingsInvalid(f"{path} cannot be written: {exc.strerror}") from exc
    return key.peer_id


def import_key(path: Path) -> PeerId:
    """Make the key in `path` this person's owner key; return its id.

    Raises:
        SettingsInvalid: `path` holds no key, or there is another owner key already.
    """
    if not path.exists():
        raise SettingsInvalid(f"{path} does not exist")
    key = load_or_create(path)
    target = owner_key_path()
    if target.exists():
        if load_or_create(target).peer_id == key.peer_id:
            return key.peer_id
        raise SettingsInvalid(
            f"{target} holds another owner key; export it with `myxo key export FILE`, then move "
            "it away"
        )
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    target.touch(mode=0o600)
    target.write_text(key.seed.hex() + "\n")
    return key.peer_id


def allow(key: str) -> bool:
    """Let services and maps of owner `key` run as processes here; return False if it was allowed.

    Raises:
        SettingsInvalid: the text is no owner key's id.
    """
    try:
        public_key_of(PeerId(key))
    except SignatureInvalid as exc:
        raise SettingsInvalid(f"{exc}; `myxo key show` on the other machine prints its id") from exc
    path = allowed_keys_path()
    text = path.read_text() if path.exists() else ""
    if key in text.split():
        return False
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("a") as file:
        file.write(("" if text.endswith("\n") or not text else "\n") + key + "\n")
    return True
