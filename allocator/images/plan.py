"""Which source gives which layer of an image, and what is believed of what sources say. Pure.

An engine names an image by the sha256 of its config, and the config lists the sha256 of each
layer's tar (its diff id). What `docker save` prints differs from engine to engine, the tars of the
layers do not. So an image is fetched as a config, which proves itself, and layers, each of which
proves itself when it is whole; it does not matter who gave which byte.

    lacking ──take──► taken by one source ──done──► done
       ▲                      │
       └──────put back────────┘   with the bytes so far, for whoever takes it next

Each source has one layer at a time, so that several share the work by how fast they are. A layer
whose bytes are wrong in the end shows that its only giver lies; that one is left. Where there were
several givers nobody knows who lied, so the next try of that layer is one source's alone.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from overlay.names import Digest, PeerId

MAX_LAYERS = 256
"""Docker's own bound is 127."""

MAX_CONFIG_BYTES = 1024 * 1024
"""Real ones have some kilobytes; a reply frame has room for it."""

MAX_IMAGE_BYTES = 256 * 1024**3
"""Beyond what anybody starts within a request."""

LIE_FACTOR = 3
"""Layers' tars are larger than the engine's count of their files, by 512 to 1,024 bytes a file."""

LIE_SLACK_BYTES = 64 * 1024 * 1024

FIRST_PEER_RATE = 40e6
FIRST_REGISTRY_RATE = 10e6
"""Bytes a second that are expected until some were measured: a local network, and the Internet."""

RATE_ALPHA = 0.3
LEAST_RATE = 1e4


WHOLE_S = 60.0
WHOLE_RATE = 128 * 1024
WHOLE_MOST_S = 3600.0
"""A fetch may take so long, and as long as its bytes take at this rate, but no longer than anybody
waits for a service."""

_UNKNOWN = PeerId("an earlier try")


class ImageWrong(ValueError):
    """What a source says about an image cannot be true."""


def diff_ids(config: bytes, digest: Digest) -> tuple[Digest, ...]:
    """Return the layers, the lowest first, that an image's config names.

    Raises:
        ImageWrong: it is not the config of `digest`, or none that an engine would take.
    """
    if len(config) > MAX_CONFIG_BYTES or digest_of(config) != digest:
        raise ImageWrong("the config is not that of the image")
    try:
        found = json.loads(config)["rootfs"]["diff_ids"]
    except (ValueError, KeyError, TypeError) as exc:
        raise ImageWrong(f"the config names no layers: {exc!r}") from exc
    if not isinstance(found, list) or len(found) > MAX_LAYERS or not all(map(_is_digest, found)):
        raise ImageWrong("the config's layers are no digests, or too many")
    return tuple(Digest(each) for each in found)


def digest_of(data: bytes) -> Digest:
    """Return the sha256 of `data` as a digest."""
    return Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")


def _is_digest(value: object) -> bool:
    return (
        isinstance(value, str)
        and value.startswith("sha256:")
        and len(value) == len("sha256:") + 64
        and set(value[7:]) <= set("0123456789abcdef")
    )


def lacking(layers: Sequence[Digest], held: Iterable[Sequence[Digest]]) -> tuple[Digest, ...]:
    """Return the layers that have to come, given those of each image that is here.

    An engine keeps a layer together with all below it, so what counts is the longest common start.
    """
    here = max((_common(layers, other) for other in held), default=0)
    return tuple(dict.fromkeys(layers[here:]))


def _common(one: Sequence[Digest], other: Sequence[Digest]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def check_sizes(
    layers: Iterable[Digest], sizes: Mapping[Digest, int], size_bytes: int | None
) -> dict[Digest, int]:
    """Return the bytes of each layer as a source states them.

    Args:
        layers: that are wanted.
        sizes: what the source says.
        size_bytes: of the image, as its owner signed it.

    Raises:
        ImageWrong: it does not have all, or they cannot be so large.
    """
    try:
        stated = {layer: sizes[layer] for layer in layers}
    except KeyError as exc:
        raise ImageWrong(f"it lacks the layer {exc}") from exc
    most = MAX_IMAGE_BYTES
    if size_bytes is not None:
        most = min(most, LIE_FACTOR * size_bytes + LIE_SLACK_BYTES)
    if sum(stated.values()) > most:
        raise ImageWrong(f"it says {sum(stated.values())} bytes, which cannot be")
    return stated


def expected_s(size_bytes: int, rate: float, rtt_s: float) -> float:
    """Return how long a transfer takes: two round trips to begin, then the bytes."""
    return 2 * rtt_s + size_bytes / max(rate, LEAST_RATE)


def most_s(size_bytes: int) -> float:
    """Return how long the fetch of an image may take in all."""
    return min(WHOLE_MOST_S, WHOLE_S + size_bytes / WHOLE_RATE)


@dataclass(slots=True)
class Rates:
    """How fast images came lately, in bytes a second."""

    peers: float = FIRST_PEER_RATE
    registry: float = FIRST_REGISTRY_RATE

    def peers_first(self, size_bytes: int, nearest_rtt_s: float | None) -> bool:
        """Return whether peers are expected to be done before a registry."""
        if nearest_rtt_s is None:
            return False
        by_peers = expected_s(size_bytes, self.peers, nearest_rtt_s)
        return by_peers <= expected_s(size_bytes, self.registry, nearest_rtt_s)

    def measured(self, *, peers: bool, size_bytes: int, seconds: float) -> None:
        """Take in a transfer that succeeded."""
        rate = max(LEAST_RATE, size_bytes / max(seconds, 1e-3))
        if peers:
            self.peers += RATE_ALPHA * (rate - self.peers)
        else:
            self.registry += RATE_ALPHA * (rate - self.registry)


@dataclass(slots=True)
class Plan:
    """Who fetches what from whom, for one image.

    Attributes:
        wanted: layers in the order in which they are taken.
        done: those that came and proved themselves.
    """

    wanted: tuple[Digest, ...]
    done: set[Digest] = field(default_factory=set)
    _taken: dict[Digest, PeerId] = field(default_factory=dict)
    _givers: dict[Digest, set[PeerId]] = field(default_factory=dict)
    _alone: set[Digest] = field(default_factory=set)

    @property
    def finished(self) -> bool:
        """Whether everything is here."""
        return len(self.done) == len(self.wanted)

    def take(self, source: PeerId) -> Digest | None:
        """Return the layer that `source` is to give now; None if all are done or under way."""
        for layer in self.wanted:
            if layer not in self.done and layer not in self._taken:
                self._taken[layer] = source
                return layer
        return None

    def keeps_part(self, layer: Digest, source: PeerId) -> bool:
        """Whether `source` goes on where another one stopped, or begins anew."""
        return layer not in self._alone or self._givers.get(layer, set()) <= {source}

    def gave(self, layer: Digest, source: PeerId) -> None:
        """Take in that bytes of a layer came from `source`."""
        self._givers.setdefault(layer, set()).add(source)

    def resumed(self, layer: Digest) -> None:
        """Take in that there are bytes of a layer; where nobody knows of whom, nobody is blamed."""
        self._givers.setdefault(layer, {_UNKNOWN})

    def restarted(self, layer: Digest) -> None:
        """Take in that the bytes so far were thrown away."""
        self._givers.pop(layer, None)

    def put_back(self, layer: Digest) -> None:
        """Let another source take a layer; what came of it stays."""
        self._taken.pop(layer, None)

    def finish(self, layer: Digest) -> None:
        """Take in that a layer is here and is what its name says."""
        self._taken.pop(layer, None)
        self.done.add(layer)

    def spoiled(self, layer: Digest) -> bool:
        """Take in that a whole layer is not what its name says; return whether its source lies."""
        givers = self._givers.pop(layer, set())
        self._taken.pop(layer, None)
        if len(givers) <= 1 and _UNKNOWN not in givers:
            return True
        self._alone.add(layer)
        return False
