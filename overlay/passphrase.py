"""The keys that a network's passphrase gives.

master = scrypt(passphrase, salt `myxo/1`, N = 2^15, r = 8, p = 1): slow enough that a recorded
handshake is no cheap oracle for guesses. Each key is an HKDF-SHA256 label of the master, so that
none tells anything about another. An open network runs the same code with a public constant.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

_SALT = b"myxo/1"
_OPEN_NETWORK = "myxo open network: everyone may join"
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**15, 8, 1
_SCRYPT_MEMORY = 64 * 1024 * 1024
"""128·N·r bytes is 32 MiB; OpenSSL refuses exactly that as its bound."""

_WORDS = 5
_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"
"""31 signs that nobody confuses when reading aloud: 4 each × 5 groups = 99 bits."""


@dataclass(frozen=True, slots=True)
class NetworkKeys:
    """What a member holds: none of these ever leaves its processes.

    Attributes:
        psk: 32 bytes for libp2p's private network, None in an open one.
        ca_seed: 32 bytes, the private scalar's source for the network's certificate authority.
        network_id: 8 bytes in hexadecimal, safe to show: tells networks apart in state and logs.
            A network keeps that of its first passphrase.
        passphrase_id: that of the passphrase which these keys came from.
        member_key: 32 bytes, with which a peer shows in its record that it knows the passphrase.
        announcement_key: 32 bytes, for datagrams to peers whose own key is not known yet.
    """

    psk: bytes | None = field(repr=False)
    ca_seed: bytes = field(repr=False)
    network_id: str
    passphrase_id: str
    member_key: bytes = field(repr=False)
    announcement_key: bytes = field(repr=False)

    @property
    def is_open(self) -> bool:
        """Whether anybody may join."""
        return self.psk is None


@lru_cache(maxsize=8)
def network_keys(passphrase: str | None) -> NetworkKeys:
    """Return the keys of the network with this passphrase; None or empty means an open network.

    Made once in a process for each passphrase, since that takes a tenth of a second of a core.
    """
    master = hashlib.scrypt(
        (passphrase or _OPEN_NETWORK).encode(),
        salt=_SALT,
        n=_SCRYPT_N,
        r=_SCRYPT_R,
        p=_SCRYPT_P,
        maxmem=_SCRYPT_MEMORY,
        dklen=32,
    )
    own_id = _label(master, b"id", 8).hex()
    return NetworkKeys(
        psk=_label(master, b"psk", 32) if passphrase else None,
        ca_seed=_label(master, b"ca", 32),
        network_id=own_id,
        passphrase_id=own_id,
        member_key=_label(master, b"member", 32),
        announcement_key=_label(master, b"announcement", 32),
    )


def generate_passphrase() -> str:
    """Return a fresh passphrase of 99 bits, easy to read aloud and free of shell characters."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(4)) for _ in range(_WORDS))


def _label(master: bytes, name: bytes, length: int) -> bytes:
    return HKDFExpand(SHA256(), length, b"myxo/" + name).derive(master)
