"""An image that one machine has and no registry does starts on machines that never saw it.

Three hosts of the lab with an engine each; h1 made the images. h1 is near, h2 is far from h3.
"""

import http.client
import io
import json
import os
import shlex
import socket
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import trio

from bench.netlab.hosts import Host
from bench.netlab.lab import Lab
from bench.netlab.testing import labs, within
from myxo.status import read_status
from tests.template import start_inside

pytestmark = [pytest.mark.netns, pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

DELAYS_MS = {("h1", "h2"): 5, ("h1", "h3"): 5, ("h2", "h3"): 40}
SEEN_TIMEOUT_S = 180.0
COMMAND = "httpd -f -p $SERVICE_PORT -h /www"
NAME = "myxo-test-travels"
PAYLOAD_BYTES = 4 * 1024 * 1024


SIGN_ANOTHERS_IMAGE = """
import sys
import trio
from overlay.identity import load_or_create
from overlay.settings import owner_key_path
from overlay.spec import Image, ServiceSpec
from registry.client import next_revision, open_client
from registry.settings import CliSettings

async def main():
    image = Image(reference="mine", config_digest=sys.argv[1])
    spec = ServiceSpec(image=image, constraints={"host": ("h3",)})
    async with open_client(CliSettings.load({})) as registry:
        await registry.add(next_revision(load_or_create(owner_key_path()), "stolen", None, spec))

trio.run(main)
"""
"""Registers a service of h2's user for an image that only h1 has."""


@dataclass
class Three:
    """The network."""

    lab: Lab

    def host(self, name: str) -> Host:
        return self.lab.host(name)

    def engine(self, name: str) -> docker.DockerClient:
        url = self.host(name).environment["DOCKER_HOST"]
        return docker.DockerClient(base_url=url, timeout=60)

    def add(self, service: str, image: str, **fields: Any) -> str:
        """Register a service with these fields; return what was said."""
        h1 = self.host("h1")
        conf = h1.folder / f"{service}.json"
        conf.write_text(json.dumps(fields))
        return h1.run(
            ["registry-cli", "add", "--conf", str(conf), "--image", image, service]
        ).stderr

    def ask(self, name: str, service: str) -> tuple[int, str]:
        """Return status and text of what a host's proxy answers."""
        connection = http.client.HTTPConnection("127.0.0.1", 4200)
        connection.sock = self.host(name).inside(
            lambda: socket.create_connection(("127.0.0.1", 4200), 2 * SEEN_TIMEOUT_S)
        )
        try:
            connection.request("GET", f"/{service}/")
            answer = connection.getresponse()
            return answer.status, answer.read().decode().strip()
        finally:
            connection.close()

    def images(self, name: str) -> dict[str, Any]:
        """Return what a host's allocator says of its images."""
        daemons = trio.run(read_status, self.host(name).folder / "state")
        found: dict[str, Any] = next(d for d in daemons if d["role"] == "allocator")["images"]
        return found

    def log(self, name: str) -> str:
        """Return what a host's daemons said."""
        return "\n".join(p.read_text() for p in self.host(name).folder.glob("*-myxo.log"))

    def holds(self, name: str, digest: str) -> bool:
        engine = self.engine(name)
        try:
            return any(digest == each.id for each in engine.images.list())
        finally:
            engine.close()


@pytest.fixture(scope="module")
def founded(busybox_tar: bytes) -> Iterator[Three]:
    with labs(start_inside) as make:
        lab = make(
            hosts=[{"name": name, "engine": True} for name in ("h1", "h2", "h3")],
            links=[{"between": pair, "delay_ms": ms} for pair, ms in DELAYS_MS.items()],
        )
        h1, *others = lab.hosts
        printed = h1.start(["myxo", "up", "--runtime", "docker"]).printed()
        line = next(line for line in printed.splitlines() if "myxo join" in line)
        join = [*shlex.split(line), "--runtime", "docker"]
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda host: host.start(join), others))
        yield Three(lab)


@pytest.fixture
def three(founded: Three) -> Iterator[Three]:
    """The network, its links whole."""
    yield founded
    founded.lab.heal()
    for (one, other), ms in DELAYS_MS.items():
        founded.lab.link(one, other).set(delay_s=ms / 1000, bandwidth_bps=1e9)


@pytest.fixture(scope="module")
def busybox_tar() -> bytes:
    """A layer with a shell and a web server."""
    return Path("/bin/busybox").resolve().read_bytes()


def built(three: Three, tag: str, busybox: bytes) -> str:
    """Have h1's engine have an image with a page that nobody else has; return its digest."""
    engine = three.engine("h1")
    content = make_layer(busybox, tag)
    changes = [f'CMD ["/bin/busybox", "sh", "-c", {json.dumps("exec busybox " + COMMAND)}]']
    changes.append("ENV PATH=/bin")
    engine.api.import_image_from_data(content, repository=NAME, tag=tag, changes=changes)
    digest = str(engine.images.get(f"{NAME}:{tag}").id)
    engine.close()
    return digest


def make_layer(busybox: bytes, page: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content, mode in (
            ("bin/busybox", busybox, 0o755),
            ("bin/sh", busybox, 0o755),
            ("www/index.html", page.encode(), 0o644),
            ("payload", os.urandom(PAYLOAD_BYTES), 0o644),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def test_an_image_that_was_pushed_nowhere_starts_where_it_never_was(
    three: Three, busybox_tar: bytes
) -> None:
    digest = built(three, "first", busybox_tar)
    assert not three.holds("h2", digest)
    said = three.add("first", f"{NAME}:first", constraints={"host": "h2"})
    assert "fetch it from" in said
    assert three.ask("h3", "first") == (200, "first")
    assert three.holds("h2", digest)
    assert three.images("h2")["fetched_bytes"] > PAYLOAD_BYTES
    assert three.images("h1")["kept_for_others_bytes"] > PAYLOAD_BYTES


def test_an_image_of_another_machine_is_not_had_by_naming_its_digest(
    three: Three, busybox_tar: bytes
) -> None:
    digest = built(three, "secret", busybox_tar)
    three.host("h2").run([sys.executable, "-c", SIGN_ANOTHERS_IMAGE, digest])
    status, text = three.ask("h2", "stolen")
    assert (status, "no machine near has it" in text) == (503, True), text
    assert not three.holds("h3", digest)


def test_a_fetch_goes_on_where_a_cut_link_stopped_it(three: Three, busybox_tar: bytes) -> None:
    digest = built(three, "cut", busybox_tar)
    three.add("cut", f"{NAME}:cut", constraints={"host": "h2"})
    three.lab.link("h1", "h2").set(bandwidth_bps=8e6)  # some six seconds
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(three.ask, "h2", "cut")

        def coming() -> bool:
            return any(f["bytes"] > PAYLOAD_BYTES / 4 for f in three.images("h2")["fetching"])

        within(SEEN_TIMEOUT_S, coming, lambda: three.log("h2")[-4000:])
        three.lab.link("h1", "h2").cut()
        within(SEEN_TIMEOUT_S, lambda: "image.cut" in three.log("h2"), lambda: three.log("h2"))
        three.lab.link("h1", "h2").heal()
        assert answer.result(2 * SEEN_TIMEOUT_S) == (200, "cut"), three.log("h2")[-4000:]
    assert three.holds("h2", digest)


def test_a_source_with_wrong_bytes_is_left_for_another(three: Three, busybox_tar: bytes) -> None:
    digest = built(three, "lies", busybox_tar)
    three.add("lies", f"{NAME}:lies", constraints={"host": ["h2", "h3"]})
    assert three.ask("h2", "lies")[0] == 200
    where = "h3" if three.holds("h2", digest) else "h2"
    (saved,) = three.host("h1").folder.glob(f"state/images/*/saved/{digest[7:]}.tar")
    data = bytearray(saved.read_bytes())
    data[len(data) // 2] ^= 1
    saved.write_bytes(data)
    three.add("lies", f"{NAME}:lies", constraints={"host": where})
    assert three.ask(where, "lies") == (200, "lies")
    assert three.holds(where, digest)
    assert "gave wrong bytes" in three.log(where)
