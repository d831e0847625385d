"""What two peers say to each other so that each has all records that the other has.

One sends its digest. The other answers with the records of the buckets that are empty there, and
with the versions it holds of those that merely differ. From these the first sees what it lacks and
asks for it, and what the other lacks and sends it. A member that one of them knows to be gone is
answered with that knowledge, which its owner refutes if it lives.

Pure: messages in, frames out.
"""

import random
from collections.abc import Iterable, Iterator, Sequence

from overlay import datagrams
from overlay.digest import Key, Stamp, bucket_of, empty_buckets
from overlay.gossip import (
    BUCKETS_PER_COMPARISON,
    ITEMS_PER_MESSAGE,
    RECORDS_PER_MESSAGE,
    Items,
    Records,
    Want,
    frame,
)
from overlay.membership import Gossip, Update
from overlay.names import PeerId
from overlay.signed import Signed
from overlay.view import View


def record_frames(records: Iterable[Signed]) -> Iterator[bytes]:
    """Yield the frames that carry `records`."""
    every = list(records)
    for start in range(0, len(every), RECORDS_PER_MESSAGE):
        yield frame(Records(records=tuple(every[start : start + RECORDS_PER_MESSAGE])))


def answer_digest(view: View, summary: bytes, rng: random.Random | None = None) -> Iterator[bytes]:
    """Yield what answers a digest: the missing records, and versions where the two tables differ.

    Args:
        view: what this peer holds.
        summary: what the other holds.
        rng: chooses the buckets if more than one message of them differ; None takes all.

    Raises:
        ValueError: it is no summary.
    """
    differing, empty = view.digest.differing(summary), empty_buckets(summary)
    keys = [key for n in differing if n in empty for key, _ in view.digest.items(n)]
    yield from record_frames(view.signed(keys))
    listed = [n for n in differing if n not in empty]
    if rng is not None and len(listed) > BUCKETS_PER_COMPARISON:
        listed = rng.sample(listed, BUCKETS_PER_COMPARISON)
    for start in range(0, len(listed), BUCKETS_PER_COMPARISON):
        yield from _items(view, listed[start : start + BUCKETS_PER_COMPARISON])


def answer_items(view: View, items: Items) -> Iterator[bytes]:
    """Yield what answers a list of versions: records the other lacks, and what this peer wants."""
    theirs: dict[int, dict[Key, Stamp]] = {n: {} for n in items.buckets}
    for owner, kind, name, epoch, counter in items.versions:
        bucket = theirs.get(bucket_of(PeerId(owner)))
        if bucket is not None:
            bucket[PeerId(owner), kind, name] = (epoch, counter)
    lacking = [k for n, held in theirs.items() for k in view.digest.news(n, held.items())]
    yield from record_frames(view.signed(lacking))
    mine = {key: stamp for n in theirs for key, stamp in view.digest.items(n)}
    news = [k for held in theirs.values() for k, s in held.items() if s > mine.get(k, (-1.0, 0))]
    strangers = list(dict.fromkeys(k[0] for k in news if not view.is_member(k[0])))
    yield from state_frames(view, strangers)
    if news:
        yield frame(Want(keys=tuple(news[:ITEMS_PER_MESSAGE])))


def answer_want(view: View, keys: Sequence[tuple[str, str, str]]) -> Iterator[bytes]:
    """Yield the records of members that the other lacks."""
    wanted = ((PeerId(owner), kind, name) for owner, kind, name in keys)
    yield from record_frames(view.signed(key for key in wanted if view.is_member(key[0])))


def state_frames(view: View, peers: Iterable[PeerId]) -> Iterator[bytes]:
    """Yield what this peer believes of others, as membership datagrams."""
    for updates in _in_datagrams(view.membership.digest_updates(peers)):
        yield datagrams.encode(Gossip(), updates)


def _in_datagrams(updates: Iterable[Update]) -> Iterator[list[Update]]:
    part: list[Update] = []
    room = datagrams.updates_room(Gossip())
    for update in updates:
        if room < update.SIZE:
            yield part
            part, room = [], datagrams.updates_room(Gossip())
        part.append(update)
        room -= update.SIZE
    if part:
        yield part


def _items(view: View, buckets: Sequence[int]) -> Iterator[bytes]:
    versions = [(*key, *stamp) for n in buckets for key, stamp in view.digest.items(n)]
    if len(versions) <= ITEMS_PER_MESSAGE:
        yield frame(Items(buckets=tuple(buckets), versions=tuple(versions)))
    elif len(buckets) > 1:
        half = len(buckets) // 2
        yield from _items(view, buckets[:half])
        yield from _items(view, buckets[half:])
    else:  # one bucket holds thousands: the records themselves say which versions there are
        yield from record_frames(view.signed(key for key, _ in view.digest.items(buckets[0])))
