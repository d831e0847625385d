"""Real parts for the tests: a Docker engine, a base image that needs no registry, an etcd.

A test says by its marker what it needs. Where that is missing it is skipped with the reason, except
under continuous integration (CI is set), where it fails: nothing is left out there unnoticed.
"""

import functools
import io
import os
import queue
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import httpx
import pytest
from docker.errors import DockerException

BUSYBOX = Path("/bin/busybox")
BUSYBOX_IMAGE = "myxo-test-busybox:latest"
ETCD_READY = "serving client traffic"
START_TIMEOUT_S = 30.0


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or under CI fail, a test whose marker names what this machine does not have."""
    for mark, lacking in (("docker", _no_engine), ("etcd", _no_etcd), ("netns", _no_netns)):
        if item.get_closest_marker(mark) is not None and (reason := lacking()):
            if os.environ.get("CI"):
                pytest.fail(f"{reason}, and under CI nothing is skipped", pytrace=False)
            pytest.skip(reason)


@functools.cache
def _no_engine() -> str | None:
    try:
        client = docker.from_env(timeout=10)
    except (DockerException, OSError) as exc:
        return f"no Docker engine answers: {exc}"
    client.close()
    return None


@functools.cache
def _no_etcd() -> str | None:
    return None if shutil.which("etcd") else "etcd is not installed (Debian: etcd-server)"


@functools.cache
def _no_netns() -> str | None:
    if os.geteuid() != 0:
        return "network namespaces need root"
    return None if shutil.which("ip") else "ip is not installed (Debian: iproute2)"


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """A client of the Docker engine that the environment names."""
    client = docker.from_env(timeout=60)
    yield client
    client.close()


@pytest.fixture(scope="session")
def busybox_image(engine: docker.DockerClient) -> str:
    """The name of an image with a static busybox and its applets, `sh` and `httpd` among them."""
    applets = subprocess.run(
        [BUSYBOX, "--list"], capture_output=True, text=True, check=True
    ).stdout.split()
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.add(BUSYBOX.resolve(), "bin/busybox")
        for applet in set(applets) - {"busybox"}:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        temporary = tarfile.TarInfo("tmp")
        temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(temporary)
    repository, _, version = BUSYBOX_IMAGE.partition(":")
    engine.api.import_image_from_data(content.getvalue(), repository=repository, tag=version)
    return BUSYBOX_IMAGE


@dataclass(frozen=True)
class Etcd:
    """A running member: where clients reach it, where its data are, and its process."""

    endpoint: str
    data_dir: Path
    process: subprocess.Popen[str]


@pytest.fixture(scope="session")
def _etcd_member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    member = start_etcd(tmp_path_factory.mktemp("etcd"))
    yield member
    stop_process(member.process)


@pytest.fixture
def etcd(_etcd_member: Etcd) -> str:
    """The client URL of a real etcd of one member, with no keys in it."""
    everything = {"key": "AA==", "range_end": "AA=="}  # "\0" to "\0": all keys
    httpx.post(
        f"{_etcd_member.endpoint}/v3/kv/deleterange", json=everything, timeout=10
    ).raise_for_status()
    return _etcd_member.endpoint


def start_etcd(data_dir: Path, client_port: int = 0, peer_port: int = 0) -> Etcd:
    """Return a started etcd of one member on free ports, or the given ones; it is ready."""
    endpoint = f"http://127.0.0.1:{client_port or free_port()}"
    peers = f"http://127.0.0.1:{peer_port or free_port()}"
    process = subprocess.Popen(
        [
            *("etcd", "--name", "test", "--data-dir", str(data_dir), "--log-level", "info"),
            *("--listen-client-urls", endpoint, "--advertise-client-urls", endpoint),
            *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
            *("--initial-cluster", f"test={peers}", "--logger", "zap"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    await_line(process, ETCD_READY)
    return Etcd(endpoint, data_dir, process)


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that was free just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def await_line(process: subprocess.Popen[str], text: str) -> str:
    """Return the first line of the process's output that has `text`; read on in the background."""
    lines: queue.Queue[str | None] = queue.Queue()
    output = process.stdout
    assert output is not None

    def read() -> None:
        with output:
            for line in output:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    seen: list[str] = []
    try:
        while (line := lines.get(timeout=START_TIMEOUT_S)) is not None:
            if text in line:
                return line
            seen.append(line)
    except queue.Empty:
        seen.append(f"(and nothing more for {START_TIMEOUT_S:g} s)")
    process.kill()
    process.wait()
    pytest.fail(f"{process.args!r} never said {text!r}:\n{''.join(seen[-20:])}")


def stop_process(process: subprocess.Popen[str]) -> None:
    """End the process as an operator would, or after 10 s for good."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
