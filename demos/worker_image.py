#!/usr/bin/env python3
"""Makes an image for workers of `myxo.map` and for services that are written in Python.

It is made of this machine's own Python, without any registry, and holds /bin/sh, python3 with its
standard library, what workers and the services of `myxo serve` and `myxo.puma` need of Myxo, and
the packages that are named, as they are installed here with all that they require. What runs in it
is nobody. Where images can be pulled, a Dockerfile does as well: `FROM python:3.11-slim`,
`RUN pip install 'myxo[serve]' numpy`, `USER nobody`.

Usage: worker_image.py [--tag NAME] [PACKAGE ...]
"""

import argparse
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import docker
from base_image import make_base_image
from docker.errors import DockerException

import myxo

TAG = "myxo-worker"
CHECKOUT = Path(myxo.__file__).resolve().parents[1]
NOBODY = "65534:65534"
NEEDED = ("anyio", "cloudpickle", "hypercorn", "packaging", "pydantic", "trio")
"""By workers and services, of what `myxo[serve]` requires."""


def required(names: list[str]) -> set[str]:
    """Return packages with all that they require and that is installed here."""
    found: set[str] = set()
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name not in found:
            found.add(name)
            needs = [need for need in distribution(name).requires or () if "extra ==" not in need]
            names += [one for need in needs if _is_installed(one := re.split(r"[^\w.-]", need)[0])]
    return found


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def files_of(package: str) -> list[Path]:
    """Return the files of an installed package, less commands."""
    files = distribution(package).files or []
    return [Path(str(file.locate())) for file in files if ".." not in file.parts]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="makes an image for workers and services in Python"
    )
    parser.add_argument("--tag", default=TAG, help=f"its name, {TAG} by default")
    parser.add_argument("packages", nargs="*", help="what functions and services import")
    options = parser.parse_args()
    try:
        packages = required([*NEEDED, *options.packages])
    except PackageNotFoundError as error:
        sys.exit(f"{error.name} is not installed here")
    files = [file for package in packages for file in files_of(package) if file.is_file()]
    own = [CHECKOUT / "myxo", CHECKOUT / "overlay"]
    roots = [CHECKOUT, *{Path(str(distribution(one).locate_file(""))) for one in packages}]
    # Moved, since a container's /tmp is its own, and what lies there on this machine is not seen.
    moved = {root: f"/opt/{number}" for number, root in enumerate(roots)}
    changes = [f"ENV PYTHONPATH={':'.join(moved.values())}", f"USER {NOBODY}"]
    try:
        make_base_image(
            docker.from_env(), options.tag, extra=[*own, *files], moved=moved, changes=changes
        )
    except DockerException as error:
        sys.exit(f"no Docker engine answers: {error}")
    print(f"{options.tag} made with {', '.join(sorted(packages))}")


if __name__ == "__main__":
    main()
