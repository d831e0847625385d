"""Engines' images in memory, and peers that hand them on well or badly, for tests.

`FakeImages` passes the contract tests of the real engine's images.
"""

import io
import json
import tarfile
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from allocator.errors import ImageMissing
from allocator.images.fetch import Near
from allocator.images.messages import ImageRefusal, ImageReply, Layer, parse_layer_target
from allocator.images.plan import ImageWrong, digest_of
from overlay.calls import CallRefused
from overlay.errors import PeerUnreachable
from overlay.names import Digest, PeerId

_PIECE_BYTES = 1000


@dataclass(frozen=True, slots=True)
class FakeImage:
    """An image: its config's bytes, and its layers' tars by diff id, the lowest first."""

    config: bytes
    layers: dict[Digest, bytes]

    @property
    def digest(self) -> Digest:
        """What engines call it."""
        return digest_of(self.config)

    @property
    def size_bytes(self) -> int:
        """Of all layers."""
        return sum(map(len, self.layers.values()))


def make_image(*layers: bytes) -> FakeImage:
    """Return an image of these layers."""
    by_id = {digest_of(layer): layer for layer in layers}
    rootfs = {"type": "layers", "diff_ids": list(by_id)}
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}
    return FakeImage(json.dumps(config).encode(), by_id)


def layer_tar(name: str, content: bytes) -> bytes:
    """Return a layer with one file, as engines accept it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        _add(tar, name, content)
    return out.getvalue()


@dataclass(slots=True)
class FakeImages:
    """What an engine does with images.

    Attributes:
        images: what is there.
        pushed: what a registry has, by reference.
        in_use: what cannot be removed.
        free: bytes on its disk.
        gate: saves wait for this.
        pulled: what came from a registry, by reference.
        saves, loads, pulls: how often that was done.
        loaded_layers: those that came with the last load.
    """

    images: dict[Digest, FakeImage] = field(default_factory=dict)
    pushed: dict[str, FakeImage] = field(default_factory=dict)
    in_use: set[Digest] = field(default_factory=set)
    free: int | None = None
    gate: trio.Event | None = None
    pulled: dict[str, Digest] = field(default_factory=dict)
    saves: int = 0
    loads: int = 0
    pulls: int = 0
    loaded_layers: list[Digest] = field(default_factory=list)

    def put(self, *images: FakeImage) -> None:
        """Have these images."""
        self.images |= {image.digest: image for image in images}

    async def size_bytes(self, image: Digest) -> int | None:
        """Return the bytes of an image's layers."""
        await trio.lowlevel.checkpoint()
        return self.images[image].size_bytes if image in self.images else None

    async def repo_digests(self, image: Digest) -> tuple[str, ...]:
        """Return what an image was pulled by."""
        await trio.lowlevel.checkpoint()
        return tuple(name for name, pulled in self.pulled.items() if pulled == image)

    async def has(self, reference: str) -> bool:
        """Return whether an image was pulled by a name."""
        await trio.lowlevel.checkpoint()
        return reference in self.pulled

    async def held_layers(self) -> list[tuple[Digest, ...]]:
        """Return every image's layers."""
        await trio.lowlevel.checkpoint()
        return [tuple(image.layers) for image in self.images.values()]

    async def free_bytes(self) -> int | None:
        """Return what is set."""
        await trio.lowlevel.checkpoint()
        return self.free

    async def save(self, image: Digest, path: Path, most_bytes: int) -> None:
        """Write the archive as Docker did until 24."""
        await trio.lowlevel.checkpoint()
        self.saves += 1
        if self.gate is not None:
            await self.gate.wait()
        if image not in self.images:
            raise ImageMissing(f"there is no {image}")
        found = self.images[image]
        if found.size_bytes > most_bytes:
            raise ImageWrong(f"{image} has more than {most_bytes} bytes")
        with tarfile.open(path, "w") as tar:
            names = [f"{number}/layer.tar" for number in range(len(found.layers))]
            for name, layer in zip(names, found.layers.values(), strict=True):
                _add(tar, name, layer)
            _add(tar, "config.json", found.config)
            manifest = [{"Config": "config.json", "RepoTags": None, "Layers": names}]
            _add(tar, "manifest.json", json.dumps(manifest).encode())

    async def load(self, pieces: Iterable[bytes]) -> None:
        """Take in an archive whose layers are what they are named for."""
        archive = await trio.to_thread.run_sync(b"".join, pieces, abandon_on_cancel=True)
        self.loads += 1
        here = {d: data for image in self.images.values() for d, data in image.layers.items()}
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            files = {m.name: f.read() for m in tar if (f := tar.extractfile(m)) is not None}
        manifest = json.loads(files["manifest.json"])[0]
        config = files[manifest["Config"]]
        wanted = json.loads(config)["rootfs"]["diff_ids"]
        layers: dict[Digest, bytes] = {}
        self.loaded_layers = []
        for diff_id, name in zip(wanted, manifest["Layers"], strict=True):
            if name in files:
                self.loaded_layers.append(diff_id)
            data = files.get(name, here.get(diff_id, b""))
            if digest_of(data) != diff_id:
                raise ImageMissing(f"invalid diffID for {diff_id}")
            layers[diff_id] = data
        self.put(FakeImage(config, layers))

    async def pull(self, reference: str, told: Callable[[int, int], None]) -> Digest:
        """Take in what a registry has."""
        await trio.lowlevel.checkpoint()
        self.pulls += 1
        if reference not in self.pushed:
            raise ImageMissing(f"no registry has {reference}")
        found = self.pushed[reference]
        told(found.size_bytes, found.size_bytes)
        self.put(found)
        self.pulled[reference] = found.digest
        return found.digest

    async def remove(self, image: Digest) -> bool:
        """Remove an image that nothing uses."""
        await trio.lowlevel.checkpoint()
        if image in self.in_use:
            return False
        self.images.pop(image, None)
        self.pulled = {name: pulled for name, pulled in self.pulled.items() if pulled != image}
        return True


@dataclass(slots=True)
class FakePeer:
    """A peer that has images, and how it behaves.

    Attributes:
        images: by digest.
        rtt_s: how far it is.
        named: its record names its images.
        cuts: after how many bytes each of its next reads is cut.
        lies: its bytes are wrong.
        states: sizes that it states instead of the true ones.
        silent: it never answers.
        gate: its reads wait for this before the first byte.
        asked, reads: what was asked of it: whether to prepare; layer and first byte.
    """

    images: dict[Digest, FakeImage]
    rtt_s: float = 0.01
    named: bool = True
    cuts: list[int] = field(default_factory=list)
    lies: bool = False
    states: int | None = None
    silent: bool = False
    gate: trio.Event | None = None
    asked: list[bool] = field(default_factory=list)
    reads: list[tuple[Digest, int]] = field(default_factory=list)


@dataclass(slots=True)
class FakePeers:
    """The peers of a fetching allocator."""

    peers: dict[PeerId, FakePeer] = field(default_factory=dict)

    def near(self, image: Digest) -> Sequence[Near]:
        """Return all peers, the nearest first."""
        found = [
            Near(peer, p.rtt_s, p.named and image in p.images) for peer, p in self.peers.items()
        ]
        return sorted(found, key=lambda near: near.rtt_s)

    async def ask(
        self, peer: PeerId, image: Digest, *, prepare: bool, timeout_s: float
    ) -> ImageReply:
        """Answer as the peer does."""
        await trio.lowlevel.checkpoint()
        there = self.peers[peer]
        there.asked.append(prepare)
        if there.silent:
            await trio.sleep(timeout_s)
            raise PeerUnreachable(f"{peer} did not answer")
        found = there.images.get(image)
        if found is None:
            raise CallRefused(ImageRefusal.ABSENT, "the image is not here")
        if not prepare:
            return ImageReply(size_bytes=found.size_bytes)
        layers = tuple(
            Layer(diff_id=d, size_bytes=len(data) if there.states is None else there.states)
            for d, data in found.layers.items()
        )
        return ImageReply(size_bytes=found.size_bytes, config=found.config, layers=layers)

    async def read(
        self, peer: PeerId, target: bytes, begin: int, size: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield a layer as the peer gives it."""
        await trio.lowlevel.checkpoint()
        there = self.peers[peer]
        image, layer = parse_layer_target(target) or (Digest(""), Digest(""))
        there.reads.append((layer, begin))
        data = there.images[image].layers[layer]
        if len(data) != size:
            raise ImageMissing(f"{peer} has a layer of another size than it said")
        if there.lies:
            data = bytes(len(data))
        cut = begin + there.cuts.pop(0) if there.cuts else None
        if there.gate is not None:
            await there.gate.wait()
        for at in range(begin, size, _PIECE_BYTES):
            if cut is not None and at >= cut:
                raise PeerUnreachable(f"{peer} was cut")
            yield data[at : min(at + _PIECE_BYTES, size)]
            await trio.lowlevel.checkpoint()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
