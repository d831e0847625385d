"""Ed25519 identities: the key that a peer is known by, and the key that a person owns names with.

A peer id is libp2p's: the base58 form of the identity multihash of the protobuf-encoded public key
(libp2p peer-ids specification), so it can be computed from the key and the key read back from it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from overlay.errors import SettingsInvalid, SignatureInvalid
from overlay.names import PeerId

_PEER_ID_PREFIX = bytes([0x00, 0x24, 0x08, 0x01, 0x12, 0x20])
"""identity multihash (0x00) of 36 bytes: protobuf key type Ed25519 (08 01), 32 bytes of data."""

_KEY_BYTES = 32

_MAX_PEER_ID_LENGTH = 64
"""An Ed25519 key's id has 52 characters."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A private Ed25519 key and the peer id that belongs to it."""

    seed: bytes
    peer_id: PeerId

    @classmethod
    def generate(cls) -> "Identity":
        """Return a fresh identity that is stored nowhere."""
        return cls.from_seed(os.urandom(_KEY_BYTES))

    @classmethod
    def from_seed(cls, seed: bytes) -> "Identity":
        """Return the identity of a 32-byte private key."""
        public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        return cls(seed, peer_id_of(public))

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`."""
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(message)

    def __repr__(self) -> str:
        """Show who this is, never the key."""
        return f"Identity({self.peer_id})"


def peer_id_of(public_key: bytes) -> PeerId:
    """Return the peer id of a 32-byte Ed25519 public key."""
    return PeerId(base58.b58encode(_PEER_ID_PREFIX + public_key).decode())


def public_key_of(peer_id: PeerId) -> bytes:
    """Return the 32-byte public key that `peer_id` embeds.

    Raises:
        SignatureInvalid: the text is not the id of an Ed25519 key.
    """
    if len(peer_id) > _MAX_PEER_ID_LENGTH:  # decoding takes time that grows with the square
        raise SignatureInvalid(f"{peer_id[:80]!r}… is too long for a peer id")
    try:
        raw = base58.b58decode(peer_id)
    except ValueError as exc:
        raise SignatureInvalid(f"{peer_id!r} is not a peer id") from exc
    key = raw[len(_PEER_ID_PREFIX) :]
    if len(key) != _KEY_BYTES or peer_id_of(key) != peer_id:  # one key has one spelling
        raise SignatureInvalid(f"{peer_id!r} is not the id of an Ed25519 key")
    return key


def verify(peer_id: PeerId, message: bytes, signature: bytes) -> None:
    """Return if `signature` is `peer_id`'s over `message`.

    Raises:
        SignatureInvalid: it is not.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key_of(peer_id)).verify(signature, message)
    except InvalidSignature as exc:
        raise SignatureInvalid(f"the signature is not {peer_id}'s over these bytes") from exc


def load_or_create(path: Path) -> Identity:
    """Return the identity stored at `path`, made there (mode 0600) if the file does not exist.

    Raises:
        SettingsInvalid: the file exists and holds no key, or cannot be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return _read(path)
        identity = Identity.generate()
        with os.fdopen(fd, "w") as file:
            file.write(identity.seed.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        raise SettingsInvalid(
            f"the key file {path} cannot be used ({exc.strerror}); name another with --keyfile"
        ) from exc
    return identity


def _read(path: Path) -> Identity:
    try:
        seed = bytes.fromhex(path.read_text().strip())
    except ValueError:
        seed = b""
    if len(seed) != _KEY_BYTES:
        raise SettingsInvalid(
            f"{path} holds no Ed25519 key (64 hexadecimal digits); move it away to have a new one "
            "made, or name another with --keyfile"
        )
    return Identity.from_seed(seed)
