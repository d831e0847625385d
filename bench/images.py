"""How long an image takes from a machine that has it, beside `docker save | docker load`.

Two hosts of the lab with an engine each. The yardstick is one engine's archive streamed into the
other by the SDK alone: once within this process, so that no byte goes over the hosts' link, and
once over it by plain TCP, as `docker save | nc` and `nc | docker load` would. Myxo's time is the
phase `image` of the first request on the second host; its bytes go over the link, by TLS.
"""

import http.client
import io
import json
import os
import re
import shlex
import socket
import statistics
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker

from bench.command import Report, run
from bench.errors import NetworkFailed
from bench.netlab.hosts import Host
from bench.netlab.lab import open_lab
from bench.netlab.plan import make_plan

IMAGE = "myxo-bench-travels"
MIB = 1024 * 1024
SIZE_MIB, QUICK_SIZE_MIB = 96, 64
RUNS, QUICK_RUNS = 5, 3
PIECE_BYTES = 1024 * 1024
ANSWER_TIMEOUT_S = 120.0


def measure(quick: bool) -> Report:
    """Fetch an image of the same size again and again, each with bytes of its own."""
    size_mib, runs = (QUICK_SIZE_MIB, QUICK_RUNS) if quick else (SIZE_MIB, RUNS)
    plan = make_plan(hosts=[{"name": name, "engine": True} for name in ("h1", "h2")])
    piped, linked, fetched = [], [], []
    with open_lab(plan) as lab:
        h1, h2 = lab.hosts
        line = next(x for x in _up(h1).splitlines() if "myxo join" in x)
        h2.start([*shlex.split(line), "--runtime", "docker"])
        for number in range(runs):
            _build(h1, number, size_mib)
            name = f"{IMAGE}:{number}"
            piped.append(_timed(h1, h2, name, lambda pieces: pieces))
            linked.append(_timed(h1, h2, name, lambda pieces: _over_link(h1, h2, pieces)))
            fetched.append(_fetch(h1, h2, number))
    pipe_s, link_s, fetch_s = map(statistics.median, (piped, linked, fetched))
    figures = {
        "size_mib": size_mib,
        "save_load_s": round(pipe_s, 3),
        "save_link_load_s": round(link_s, 3),
        "fetch_s": round(fetch_s, 3),
        "image_ratio": round(fetch_s / pipe_s, 2),
        "image_ratio_link": round(fetch_s / link_s, 2),
        "bytes_per_s": round(size_mib * MIB / fetch_s),
    }
    text = "\n".join(f"{name:16} {value}" for name, value in figures.items())
    return Report(figures, text)


def _up(host: Host) -> str:
    return host.start(["myxo", "up", "--runtime", "docker"]).printed()


def _client(host: Host) -> docker.DockerClient:
    return docker.DockerClient(base_url=host.environment["DOCKER_HOST"], timeout=ANSWER_TIMEOUT_S)


def _build(host: Host, number: int, size_mib: int) -> None:
    content = io.BytesIO()
    busybox = Path("/bin/busybox").resolve().read_bytes()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in (("bin/sh", busybox), ("payload", os.urandom(size_mib * MIB))):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    command = ["/bin/sh", "-c", "httpd -f -p $SERVICE_PORT"]
    client = _client(host)
    changes = [f"CMD {json.dumps(command)}"]
    client.api.import_image_from_data(
        content.getvalue(), repository=IMAGE, tag=str(number), changes=changes
    )
    client.close()


def _timed(
    one: Host, other: Host, name: str, road: Callable[[Iterable[bytes]], Iterable[bytes]]
) -> float:
    """Return the seconds of `docker save | docker load`; the other host forgets the image again."""
    source, target = _client(one), _client(other)
    image = source.images.get(name)
    began = time.perf_counter()
    for _ in target.api.load_image(road(source.api.get_image(image.id))):
        pass
    took = time.perf_counter() - began
    target.images.remove(image.id)
    source.close()
    target.close()
    return took


def _over_link(one: Host, other: Host, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield pieces as they come over the hosts' link, sent by a thread as fast as it takes them."""
    with other.inside(lambda: socket.create_server((other.ip, 0))) as listener:
        port = listener.getsockname()[1]
        sender = one.inside(lambda: socket.create_connection((other.ip, port), ANSWER_TIMEOUT_S))
        receiver, _ = listener.accept()

    def send() -> None:
        with sender:
            for piece in pieces:
                sender.sendall(piece)

    with ThreadPoolExecutor(1) as threads, receiver:
        sent = threads.submit(send)
        while piece := receiver.recv(PIECE_BYTES):
            yield piece
        sent.result()


def _fetch(one: Host, other: Host, number: int) -> float:
    """Return the seconds that the image took within the first request on the other host."""
    conf = one.folder / f"{number}.json"
    conf.write_text(json.dumps({"constraints": {"host": other.name}}))
    name = f"travels-{number}"
    add = ["registry-cli", "add", "--conf", str(conf), "--image", f"{IMAGE}:{number}", name]
    one.run(add)
    connection = http.client.HTTPConnection("127.0.0.1", 4200)
    connection.sock = other.inside(
        lambda: socket.create_connection(("127.0.0.1", 4200), ANSWER_TIMEOUT_S)
    )
    try:
        connection.request("GET", f"/{name}/")
        answer = connection.getresponse()
        body = answer.read()
        timing = answer.headers.get("Server-Timing") or ""
    finally:
        connection.close()
    found = re.search(r"image;dur=([\d.]+)", timing)
    if found is None:
        raise NetworkFailed(f"the image did not travel: {answer.status} {timing} {body[:300]!r}")
    return float(found[1]) / 1000


if __name__ == "__main__":
    run("images", "An image from a machine that has it, beside docker save | docker load.", measure)
