"""The service that is measured: a small server in C, as a program and as an image of one file."""

import io
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
from docker.errors import DockerException, ImageNotFound
from docker.utils import kwargs_from_env

from bench.client import ask
from bench.native import compiled
from overlay.names import Digest
from overlay.spec import Image
from overlay.testing_ports import free_port

IMAGE = "myxo-bench-answer"
PORT = 8080

_TIMEOUT_S = 60


class NoEngine(Exception):
    """No Docker engine answers."""


def engine() -> docker.APIClient:
    """Return the Docker engine that the environment names.

    Raises:
        NoEngine: none answers.
    """
    try:
        return docker.APIClient(version="auto", timeout=_TIMEOUT_S, **kwargs_from_env())
    except DockerException as exc:
        raise NoEngine(f"no Docker engine answers: {exc}") from exc


def program() -> Path:
    """Return the server's program, compiled if it is not there yet."""
    return compiled("answer")


@contextmanager
def serving() -> Iterator[int]:
    """Run the program for the length of a block; yield its port on loopback once it answers."""
    port = free_port()
    with subprocess.Popen([program(), str(port)]) as server:
        ask(f"http://127.0.0.1:{port}/")
        try:
            yield port
        finally:
            server.terminate()


def image(client: docker.APIClient) -> Image:
    """Return the image with the program in it, made if the engine does not have it yet."""
    built = program()
    reference = f"{IMAGE}:{built.name.removeprefix('answer-')}"
    try:
        found = client.inspect_image(reference)
    except ImageNotFound:
        repository, _, tag = reference.partition(":")
        client.import_image_from_data(
            _archive(built),
            repository=repository,
            tag=tag,
            changes=['ENTRYPOINT ["/answer"]', f"EXPOSE {PORT}"],
        )
        found = client.inspect_image(reference)
    platform = f"{found['Os']}/{found['Architecture']}"
    return Image(reference=reference, config_digest=Digest(found["Id"]), platforms=(platform,))


def _archive(built: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tar.gettarinfo(str(built), "answer")
        entry.uid = entry.gid = 0
        with built.open("rb") as content:
            tar.addfile(entry, content)
    return buffer.getvalue()
