"""The archives that engines save and load: where the layers are in one, and how one is written.

What `docker save` prints has a `manifest.json`, which names the config and, in the config's order,
the file of each layer; in the old format a layer that occurs twice is a link. The same three kinds
of files, in the old format's way, are what every engine loads. Layers that the engine has already
need not be among them. Everything here blocks, and nothing holds more than a piece of a layer.
"""

import json
import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from allocator.images.plan import MAX_CONFIG_BYTES, ImageWrong, diff_ids
from overlay.names import Digest

PIECE_BYTES = 1024 * 1024

_BLOCK = 512
_MAX_MEMBERS = 4096
"""127 layers with four files each, and some more."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in an archive a layer's tar is."""

    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Archive:
    """What is in an archive that an engine has saved."""

    config: bytes
    layers: Mapping[Digest, Place]


def read_archive(path: Path, image: Digest) -> Archive:
    """Return what the archive of one image has, and where.

    Raises:
        ImageWrong: it is not such an archive.
    """
    try:
        with tarfile.open(path, mode="r:") as tar:
            files = _files(tar)
            manifest = json.loads(_small(tar, files["manifest.json"]))[0]
            config = _small(tar, files[manifest["Config"]])
            layers = [_resolved(files, name) for name in manifest["Layers"]]
    except (tarfile.TarError, KeyError, IndexError, TypeError, ValueError, OSError) as exc:
        raise ImageWrong(f"the engine's archive cannot be read: {exc!r}") from exc
    names = diff_ids(config, image)
    if len(names) != len(layers):
        raise ImageWrong("the engine's archive has other layers than its config names")
    places = [Place(layer.offset_data, layer.size) for layer in layers]
    return Archive(config, dict(zip(names, places, strict=True)))


def written_archive(
    image: Digest, config: bytes, layers: Sequence[Digest], files: Mapping[Digest, Path]
) -> Iterator[bytes]:
    """Yield the archive of an image in pieces; `files` has the layers that the engine lacks."""
    for layer, path in files.items():
        size = path.stat().st_size
        yield archive_head(layer, size)
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
        yield archive_padding(size)
    yield from archive_end(image, config, layers)


def archive_head(layer: Digest, size: int) -> bytes:
    """Return what comes before a layer in an archive."""
    return _head(_file_of(layer), size)


def archive_padding(size: int) -> bytes:
    """Return what comes after so many bytes."""
    return bytes(-size % _BLOCK)


def archive_end(image: Digest, config: bytes, layers: Sequence[Digest]) -> Iterator[bytes]:
    """Yield what comes after the layers; without it an engine takes nothing in."""
    name = f"{image.removeprefix('sha256:')}.json"
    files = [_file_of(layer) for layer in layers]
    manifest = {"Config": name, "RepoTags": None, "Layers": files}
    for member, data in ((name, config), ("manifest.json", json.dumps([manifest]).encode())):
        yield _head(member, len(data)) + data + archive_padding(len(data))
    yield bytes(2 * _BLOCK)


def _file_of(layer: Digest) -> str:
    return f"{layer.removeprefix('sha256:')}.tar"


def _files(tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    found: dict[str, tarfile.TarInfo] = {}
    for member in tar:
        if len(found) >= _MAX_MEMBERS:
            raise ImageWrong("the engine's archive has too many files")
        found[posixpath.normpath(member.name)] = member
    return found


def _resolved(files: Mapping[str, tarfile.TarInfo], name: str) -> tarfile.TarInfo:
    member = files[posixpath.normpath(name)]
    if member.issym():
        folder = posixpath.dirname(member.name)
        member = files[posixpath.normpath(posixpath.join(folder, member.linkname))]
    if not member.isreg():
        raise ImageWrong(f"{name} is no file")
    return member


def _small(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None or member.size > MAX_CONFIG_BYTES:
        raise ImageWrong(f"{member.name} is no small file")
    return file.read()


def _head(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)
