"""The identifiers that every part of Myxo passes around, and what a service may be called."""

import difflib
import re
from collections.abc import Iterable
from heapq import nlargest
from os.path import commonprefix
from typing import NewType

from overlay.errors import InvalidName

PeerId = NewType("PeerId", str)
"""A libp2p peer id in base58, derived from the peer's Ed25519 public key."""

ServiceName = NewType("ServiceName", str)
"""A name that passed `service_name`."""

InstanceId = NewType("InstanceId", str)
"""An instance's id, unique on its machine."""

SandboxId = NewType("SandboxId", str)
"""A network sandbox's id, unique on its machine."""

Digest = NewType("Digest", str)
"""`sha256:` and 64 hexadecimal digits."""

MAX_NAME_LENGTH = 63
"""A name is also a DNS label in `NAME.myxo.localhost`, and a label ends at 63 octets (RFC 1035)."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._:-]*[a-z0-9])?")


def service_name(text: str) -> ServiceName:
    """Return `text` as a service name.

    Raises:
        InvalidName: saying what a name may be.
    """
    if len(text) > MAX_NAME_LENGTH or not _NAME.fullmatch(text) or ".." in text:
        raise InvalidName(text)
    return ServiceName(text)


MAX_COMPARED = 256
"""Names that one is compared with for a hint; each takes some 0.1 ms, and nothing else is done."""


def near_names(name: str, known: Iterable[ServiceName], limit: int = 3) -> list[ServiceName]:
    """Return up to `limit` known names that `name` may be a slip of, closest first."""
    names = list(known)
    if len(names) > MAX_COMPARED:
        names = nlargest(MAX_COMPARED, names, key=lambda known: _ends_shared(known, name))
    return [ServiceName(n) for n in difflib.get_close_matches(name, names, limit, 0.6)]


def _ends_shared(one: str, other: str) -> int:
    """Return how many signs both begin and end with: what most slips leave as it is."""
    shared = commonprefix((one, other))  # noqa: RUF071  (these are no paths)
    return len(shared) + len(commonprefix((one[::-1], other[::-1])))  # noqa: RUF071
