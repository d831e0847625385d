#!/usr/bin/env python3
"""Makes the image `myxo-demo-base` from this machine's own Python and shell.

The demos are built on it, so that they need no image registry and no network. It holds /bin/sh,
python3 with its standard library, and the shared libraries that these load. Where images can be
pulled, any image with a shell and Python does as well: change `From` in service-conf.json.

Usage: base_image.py [--tag NAME] [--force]
"""

import argparse
import hashlib
import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import docker
from docker.errors import DockerException, ImageNotFound

TAG = "myxo-demo-base"
MADE_BY = "myxo.demo.made-by"
"""A label: an image that an older version of this script made is made anew."""

LEFT_OUT = {
    *("dist-packages", "site-packages", "test", "tests", "idlelib", "tkinter", "turtledemo"),
    *("ensurepip", "lib2to3", "pydoc_data"),
}
USERS = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"


def shared_libraries(binary: Path) -> set[Path]:
    """Return the libraries that the loader maps for `binary`, the loader among them."""
    listed = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False)
    found = re.findall(r"(/\S+) \(0x", listed.stdout)
    # Wheels lead to libraries of theirs by `..`, and no image may hold a file twice.
    return {Path(os.path.normpath(path)) for path in found}


def python_files() -> tuple[Path, list[Path]]:
    """Return the interpreter behind any virtual environment, and its standard library's files."""
    interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    files = [
        path
        for path in library.rglob("*")
        if path.is_file()
        and path.suffix != ".a"
        and ".opt-" not in path.name  # compiled for flags that nobody gives here
        and LEFT_OUT.isdisjoint(path.relative_to(library).parts)
    ]
    return interpreter, files


def image_files(extra: list[Path]) -> Iterator[tuple[str, Path]]:
    """Yield the path in the image and the file on this machine of all that goes in."""
    interpreter, library = python_files()
    shell = Path("/bin/sh").resolve()
    more = [file for path in extra for file in ([path] if path.is_file() else path.rglob("*"))]
    needed = {interpreter, *library, *(path for path in more if path.is_file())}
    for path in [shell, interpreter, *(path for path in needed if ".so" in path.name)]:
        needed |= shared_libraries(path)
    # Nothing names this one: the C library loads it when a thread is ended.
    folders = {path.parent for path in needed if path.name.startswith("libc.so")}
    needed |= {file for folder in folders for file in folder.glob("libgcc_s.so.1")}
    yield "bin/sh", shell
    for path in sorted(needed):
        yield str(path).lstrip("/"), path


def image_tar(extra: list[Path], moved: Mapping[Path, str]) -> bytes:
    """Return the image's file system as a tar archive."""
    interpreter, _ = python_files()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, path in image_files(extra):
            entry = tar.gettarinfo(str(path.resolve()), _placed(name, moved))
            entry.type, entry.uid, entry.gid = tarfile.REGTYPE, 0, 0
            entry.size = path.stat().st_size
            with path.open("rb") as content:
                tar.addfile(entry, content)
        for name in ("usr/bin/python3", "usr/local/bin/python3"):
            if "/" + name != str(interpreter):
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, str(interpreter)
                tar.addfile(link)
        users = tarfile.TarInfo("etc/passwd")
        users.size = len(USERS)
        tar.addfile(users, io.BytesIO(USERS.encode()))
        temporary = tarfile.TarInfo("tmp")
        temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(temporary)
    return buffer.getvalue()


def _placed(name: str, moved: Mapping[Path, str]) -> str:
    """Return where a file is in the image: below the deepest folder of those that are moved."""
    path = Path("/", name)
    for folder in sorted(moved, key=lambda folder: len(folder.parts), reverse=True):
        if path.is_relative_to(folder):
            return str(Path(moved[folder], path.relative_to(folder))).lstrip("/")
    return name


def make_base_image(
    engine: docker.DockerClient,
    tag: str,
    *,
    extra: list[Path],
    moved: Mapping[Path, str] | None = None,
    changes: list[str] | None = None,
) -> None:
    """Make the image `tag`; `extra` files and folders get the paths that they have here.

    Except those below folders that are `moved` to others. `changes` are further lines as of a
    Dockerfile, such as `ENV NAME=value`.
    """
    repository, _, version = tag.partition(":")
    engine.api.import_image_from_data(
        image_tar(extra, moved or {}),
        repository=repository,
        tag=version or "latest",
        changes=changes,
    )


def _made_by(engine: docker.DockerClient, tag: str) -> str | None:
    """Return which version of this script made the image, if it is there."""
    try:
        label: str | None = engine.images.get(tag).labels.get(MADE_BY)
    except ImageNotFound:
        return None
    return label


def main() -> None:
    parser = argparse.ArgumentParser(description="makes the demos' base image")
    parser.add_argument("--tag", default=TAG, help=f"its name, {TAG} by default")
    parser.add_argument("--force", action="store_true", help="make it even if there is one")
    parser.add_argument("--add", action="append", default=[], type=Path, help="a further file")
    options = parser.parse_args()
    made_by = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    try:
        engine = docker.from_env()
        if not options.force and _made_by(engine, options.tag) == made_by:
            print(f"{options.tag} is there")
            return
        label = f"LABEL {MADE_BY}={made_by}"
        make_base_image(engine, options.tag, extra=options.add, changes=[label])
    except DockerException as error:
        sys.exit(f"no Docker engine answers: {error}")
    size = engine.images.get(options.tag).attrs["Size"]
    print(f"{options.tag} made from this machine's Python and shell, {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
