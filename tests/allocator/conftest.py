import contextlib
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException, ImageNotFound
from docker.utils import kwargs_from_env

from overlay.names import Digest
from overlay.spec import Image

TAG = "myxo-test-instance:1"
SANDBOX = Path(__file__).parents[2] / "allocator" / "sandbox.c"
BUSYBOX = Path("/bin/busybox")
DOCKERFILE = b"""FROM scratch
COPY busybox /bin/busybox
COPY busybox /bin/sh
EXPOSE 8080
CMD ["/bin/sh", "-c", "/bin/busybox mkdir -p /tmp && /bin/busybox env > /tmp/env && exec /bin/busybox httpd -f -p $SERVICE_PORT -h /tmp"]
"""  # noqa: E501


def _unavailable(why: str) -> None:
    """A machine without Docker skips these tests; the build server may not."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.APIClient]:
    try:
        client = docker.APIClient(version="auto", **kwargs_from_env())
    except DockerException as exc:
        _unavailable(f"no Docker engine: {exc}")
        raise
    with contextlib.closing(client):
        yield client


@pytest.fixture(scope="session")
def image(engine: docker.APIClient) -> Image:
    """A container image that serves its own environment at /env."""
    if not BUSYBOX.exists():
        _unavailable("busybox-static is not installed")
    try:
        found = engine.inspect_image(TAG)
    except ImageNotFound:
        for _ in engine.build(fileobj=_context(), custom_context=True, tag=TAG, rm=True):
            pass
        found = engine.inspect_image(TAG)
    return Image(reference=TAG, config_digest=Digest(found["Id"]))


@pytest.fixture(scope="session")
def sandbox_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of network sandboxes, compiled from this checkout's source."""
    program = tmp_path_factory.mktemp("sandbox") / "sandbox"
    command = ["cc", "-static", "-Os", "-o", str(program), str(SANDBOX)]
    subprocess.run(command, check=True)
    return program


def _context() -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in (("Dockerfile", DOCKERFILE), ("busybox", BUSYBOX.read_bytes())):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    buffer.seek(0)
    return buffer
