"""Which fetched images have to go so that what was fetched stays within its part of the disk. Pure.

Only what Myxo fetched itself is ever considered, and never what a container uses. Of the rest those
go first whose service is not registered any more in this very revision, then those that were used
least lately.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from overlay.names import Digest

MARGIN_BYTES = 1024**3
"""Free space that a fetch leaves for everything else on the machine."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An image that Myxo fetched.

    Attributes:
        size_bytes: as the engine counts it; layers that images share count for each.
        used_at: when an instance of it was last here, on the wall clock, in seconds.
    """

    digest: Digest
    size_bytes: int
    used_at: float


def to_evict(
    fetched: Iterable[Fetched],
    *,
    bound_bytes: int,
    coming_bytes: int = 0,
    in_use: Collection[Digest],
    registered: Collection[Digest],
) -> list[Digest]:
    """Return what goes, in that order, until the rest and what comes are within the bound.

    Args:
        fetched: what there is.
        bound_bytes: 0 is no bound.
        coming_bytes: what is about to be fetched.
        in_use: what instances run from, or are about to.
        registered: images of services' newest revisions.
    """
    held = list(fetched)
    over = sum(each.size_bytes for each in held) + coming_bytes - bound_bytes
    gone: list[Digest] = []
    if not bound_bytes:
        return gone
    for each in sorted(held, key=lambda f: (f.digest in registered, f.used_at, f.digest)):
        if over <= 0:
            break
        if each.digest not in in_use:
            over -= each.size_bytes
            gone.append(each.digest)
    return gone


def lack_of_room(free_bytes: int, needed_bytes: int) -> str:
    """Return why an image does not fit on a disk; empty if it does."""
    if free_bytes - needed_bytes >= MARGIN_BYTES:
        return ""
    return (
        f"the disk has {free_bytes // 2**20} MiB free; the image needs {needed_bytes // 2**20} MiB "
        f"and {MARGIN_BYTES // 2**20} MiB are kept free: remove images, or have it run elsewhere"
    )
