"""The Docker engine that SERVER_IP, SERVER_PORT and API_VERSION name, and the workers' image."""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
import requests
from docker.errors import DockerException

import bench
from bench.lab.errors import BadInput, LabError
from overlay.spec import Image
from registry.conf.docker import DockerConf
from registry.docker import Engine
from registry.image import build_image

DEFAULT_PORT = "2375"
ANSWER_TIMEOUT_S = 10

IMAGE = "myxo-queue-worker:latest"
BASE = "python:3.12-slim"

_FILES = (
    *("__init__.py", "lab/__init__.py", "lab/queueing/__init__.py"),
    *("lab/queueing/figures.py", "lab/queueing/services.py", "lab/queueing/worker.py"),
)
"""All that a worker is, below the package `bench`."""


class EngineFailed(LabError):
    """The Docker engine that is to run the workers does not answer, or not as it was asked."""


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Of an engine's Remote API.

    Attributes:
        url: such as tcp://10.0.0.1:2375.
        api_version: such as 1.41; None is negotiated.
    """

    url: str
    api_version: str | None = None


def engine_of(said: Mapping[str, str]) -> EngineAddress | None:
    """Return the engine that an `.env` file's variables name; None if they name none.

    Raises:
        BadInput: the port is none, or the version.
    """
    host, port = said.get("SERVER_IP"), said.get("SERVER_PORT", DEFAULT_PORT)
    if host is None:
        return None
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise BadInput(f"SERVER_PORT is {port!r}; it must be 1 to 65535")
    version = said.get("API_VERSION", "").removeprefix("v") or None
    if version and not all(part.isdecimal() for part in version.split(".")):
        raise BadInput(f"API_VERSION is {said['API_VERSION']!r}; write it as v1.41")
    return EngineAddress(
        f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}", version
    )


def spoken(engine: EngineAddress) -> str:
    """Return the version in which an engine is spoken to: as named, or negotiated; blocks.

    Raises:
        EngineFailed: it does not answer, or not in that version.
    """
    try:
        version = engine.api_version or "auto"
        client = docker.APIClient(engine.url, version=version, timeout=ANSWER_TIMEOUT_S)
        with closing(client):
            client.version(api_version=True)
            return str(client.api_version)
    except (DockerException, requests.RequestException, OSError) as exc:
        asked = f" in version {engine.api_version}" if engine.api_version else ""
        raise EngineFailed(
            f"no Docker engine answers at {engine.url}{asked}: {_why(exc)}. SERVER_IP, "
            "SERVER_PORT and API_VERSION say where and how; without SERVER_IP it is this machine's"
        ) from exc


def _why(exc: BaseException) -> str:
    """Return the engine's own words, or the system's at the bottom of what libraries wrap."""
    if said := getattr(exc, "explanation", None):
        return str(said)
    while (inner := exc.__cause__ or exc.__context__) is not None:
        exc = inner
    return str(getattr(exc, "strerror", None) or exc)


@contextmanager
def named(engine: EngineAddress | None) -> Iterator[None]:
    """For the block, have this process and those that it starts talk to an engine."""
    if engine is None:
        yield
        return
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = engine.url
    try:
        yield
    finally:
        if before is None:
            del os.environ["DOCKER_HOST"]
        else:
            os.environ["DOCKER_HOST"] = before


async def worker_image(base: str) -> Image:
    """Make the image of a worker on the engine that the environment names.

    Args:
        base: an image with /bin/sh and python3, of this version or 3.11 at least.

    Raises:
        MyxoError: it cannot be built; says why.
    """
    conf = DockerConf(
        base=base,
        copies=tuple((f"bench/{file}", f"bench/{file}") for file in _FILES),
        cmd="QUEUE_WORKER_HOST=0.0.0.0 exec python3 -m bench.lab.queueing.worker",
    )
    sources = Path(bench.__file__).resolve().parents[1]
    return await build_image(Engine(), conf, sources, IMAGE, push=False, progress=lambda _: None)
