"""Custom clients: a folder of Python, packed, known by its content, and unpacked where it runs.

A package is a zip archive whose bytes depend on nothing but the files' names and contents, so that
its SHA-256 says whether a host has it already. It goes from a person's machine to the load hosts
that need it with the order that does; hosts keep what they were given.
"""

import hashlib
import io
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.lab.errors import BadInput
from bench.lab.hosts.messages import MAX_APP_BYTES
from bench.lab.loading.custom import GENERATOR, MANIFEST, find_client

MAX_FILES = 500
MAX_UNPACKED_BYTES = 16 * 1024 * 1024
"""Of all files; a package that says it holds more is no custom client."""

MAX_KEPT = 32
"""Packages that a host keeps unpacked; the one that came first goes first."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LEFT_OUT = frozenset({"__pycache__", ".git", ".venv"})
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that an archive can state."""


@dataclass(frozen=True, slots=True)
class Package:
    """A packed custom client."""

    name: str
    data: bytes

    @property
    def digest(self) -> str:
        """Return its SHA-256 in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


def pack(path: Path) -> Package:
    """Return the client in a folder, or in a single Python file, packed.

    Raises:
        BadInput: it is none, or too large.
    """
    name = checked_name(find_client(path).name)
    if path.is_dir():
        files = dict(_files(path))
    else:
        files = {MANIFEST: f"name: {name}\n".encode(), GENERATOR: path.read_bytes()}
    data = _zipped(files)
    if len(data) > MAX_APP_BYTES:
        raise BadInput(f"{path} packs to {len(data)} bytes; a client may have {MAX_APP_BYTES}")
    return Package(name, data)


def checked_name(name: str) -> str:
    """Return a client's name.

    Raises:
        BadInput: it cannot be one.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name!r} is no client's name: up to 64 of A-Z a-z 0-9 . _ -")
    return name


def unpack(package: Package, folder: Path) -> None:
    """Write a package's files into `folder`, all or none.

    Raises:
        BadInput: it is no archive of a client.
    """
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True, mode=0o700)
    try:
        with zipfile.ZipFile(io.BytesIO(package.data)) as archive:
            for name, data in _checked(archive):
                target = fresh / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        fresh.replace(folder)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as exc:
        raise BadInput(f"the package of {package.name} cannot be unpacked: {exc}") from exc
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


class Deployed:
    """The clients that a person has deployed, by name.

    Args:
        folder: where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def below(cls, state_dir: Path) -> "Deployed":
        """Return those of the person whose state directory it is."""
        return cls(state_dir / "lab" / "apps")

    def put(self, package: Package) -> None:
        """Keep a client, instead of one that had its name."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(package.name)
        written = path.with_suffix(".new")
        written.write_bytes(package.data)
        written.replace(path)

    def get(self, name: str) -> Package:
        """Return a client.

        Raises:
            BadInput: there is none of that name.
        """
        try:
            return Package(name, self._path(name).read_bytes())
        except OSError as exc:
            there = ", ".join(p.name for p in self.all()) or "none"
            raise BadInput(
                f"no client {name!r} is deployed; there are: {there} (`myxo lab app deploy`)"
            ) from exc

    def all(self) -> list[Package]:
        """Return every client, by name."""
        return [Package(p.stem, p.read_bytes()) for p in sorted(self._folder.glob("*.zip"))]

    def remove(self, name: str) -> None:
        """Forget a client; hosts keep what they were given.

        Raises:
            BadInput: there is none of that name.
        """
        self.get(name)
        self._path(name).unlink()

    def _path(self, name: str) -> Path:
        return self._folder / f"{checked_name(name)}.zip"


class Unpacked:
    """The clients that a load host was given, by content.

    Args:
        folder: where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, package: Package) -> None:
        """Keep a client.

        Raises:
            BadInput: it is none.
        """
        if self.find(package.digest) is not None:
            return
        kept = sorted(self._folder.glob("*/"), key=lambda path: path.stat().st_mtime)
        for old in kept[: max(0, len(kept) - MAX_KEPT + 1)]:
            shutil.rmtree(old, ignore_errors=True)
        unpack(package, self._folder / package.digest)

    def find(self, digest: str) -> Path | None:
        """Return the folder of a client; None if this host does not have it."""
        path = self._folder / digest
        return path if path.is_dir() else None


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    found = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()]
    kept = [p for p in found if not _LEFT_OUT.intersection(p.relative_to(folder).parts)]
    if len(kept) > MAX_FILES:
        raise BadInput(f"{folder} has {len(kept)} files; a client may have {MAX_FILES}")
    if sum(p.stat().st_size for p in kept) > MAX_UNPACKED_BYTES:
        raise BadInput(f"{folder} is larger than the {MAX_UNPACKED_BYTES} bytes of a client")
    for path in kept:
        yield path.relative_to(folder).as_posix(), path.read_bytes()


def _zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _checked(archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > MAX_FILES:
        raise BadInput(f"a package of {len(entries)} files; at most {MAX_FILES}")
    left = MAX_UNPACKED_BYTES
    for entry in entries:
        parts = Path(entry.filename).parts
        if not parts or Path(entry.filename).is_absolute() or ".." in parts:
            raise BadInput(f"a package with a file {entry.filename!r}, which is outside of it")
        with archive.open(entry) as file:
            data = file.read(left + 1)
        left -= len(data)
        if left < 0:
            raise BadInput(f"a package of more than {MAX_UNPACKED_BYTES} bytes of files")
        yield entry.filename, data
