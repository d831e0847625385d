"""The demos' servers by themselves: as a process, and on the base image that needs no registry."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import docker
import httpx
import pytest

DEMOS = Path(__file__).resolve().parents[2] / "demos"
CALCULATOR = DEMOS / "calculator" / "calculatorserver" / "calculatorserver.py"
HELLO = b"Hello, world\n"

Serving = Callable[..., AbstractContextManager[str]]


def load(path: Path) -> ModuleType:
    """Return a demo's script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def hello_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (Debian: gcc, libc6-dev)")
    folder = tmp_path_factory.mktemp("hello") / "helloworldserver"
    shutil.copytree(DEMOS / "helloworld" / "helloworldserver", folder)
    subprocess.run(["make", "-s", "-B", "-C", str(folder)], check=True)
    return folder / "helloworldserver"


@pytest.fixture(scope="module")
def hello(hello_program: Path, serving: Serving) -> Iterator[str]:
    with serving([str(hello_program)]) as url:
        yield url


@pytest.fixture(scope="module")
def calculator(serving: Serving) -> Iterator[str]:
    with serving([sys.executable, str(CALCULATOR)]) as url:
        yield url


@pytest.mark.parametrize("path", ["", "/", "/any/path?and=query"])
def test_the_hello_world_server_says_hello(hello: str, path: str) -> None:
    assert httpx.get(f"{hello}{path}").content == HELLO


def test_the_hello_world_server_keeps_a_connection_and_its_order(hello: str) -> None:
    host, port = hello.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 3 + b"GET / HTTP/1.0\r\n\r\n")
        reply = b"".join(iter(lambda: sock.recv(65536), b""))
    assert reply.count(HELLO) == 4
    assert reply.count(b"Connection: close") == 1


def test_the_hello_world_server_answers_head_without_a_body(hello: str) -> None:
    reply = httpx.head(hello)
    assert reply.headers["content-length"] == str(len(HELLO))
    assert reply.content == b""


def test_the_hello_world_server_answers_a_request_with_a_large_body(hello: str) -> None:
    assert httpx.post(hello, content=b"x" * 1_000_000).content == HELLO


def test_the_hello_world_server_says_what_is_wrong_with_a_port(hello_program: Path) -> None:
    done = subprocess.run([hello_program, "http"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "http is not a port" in done.stderr


@pytest.mark.parametrize(
    ("target", "status", "text"),
    [
        ("/add?num1=2&num2=3", 200, "5"),
        ("/sub?num1=2&num2=3", 200, "-1"),
        ("/mul?num1=-6&num2=7", 200, "-42"),
        ("/div?num1=7&num2=2", 200, "3"),
        ("/div?num1=7&num2=0", 400, "divided"),
        ("/add?num1=2", 400, "num2 must be a whole number"),
        ("/add?num1=2&num2=1e9", 400, "num2 must be a whole number"),
        ("/add?num1=%C2%B2&num2=1", 400, "num1 must be a whole number"),
        ("/pow?num1=2&num2=3", 404, "/add /sub /mul /div"),
    ],
)
def test_the_calculator_answers(calculator: str, target: str, status: int, text: str) -> None:
    reply = httpx.get(calculator + target)
    assert reply.status_code == status
    assert text in reply.text


def test_the_calculator_still_answers_after_a_division_by_zero(calculator: str) -> None:
    with httpx.Client(base_url=calculator) as client:
        assert client.get("/div?num1=1&num2=0").status_code == 400
        assert client.get("/div?num1=1&num2=1").text == "1\n"


def test_the_calculators_client_asks_as_often_as_it_is_told(calculator: str) -> None:
    # Without a proxy in between, the service's name is one more path segment, hence 404.
    client = DEMOS / "calculator" / "calculatorclient.py"
    options = ["--proxy", calculator.removeprefix("http://"), "--every", "0", "--count", "3"]
    done = subprocess.run(
        [sys.executable, client, *options], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(re.match(r"-?\d+ [-+*/] -?\d+ = 404 ", line) for line in lines)


@pytest.mark.docker
@pytest.mark.slow
def test_both_servers_run_on_the_base_image(
    engine: docker.DockerClient, hello_program: Path
) -> None:
    tag = f"myxo-test-base:{os.getpid()}"
    load(DEMOS / "base_image.py").make_base_image(engine, tag, extra=[hello_program, CALCULATOR])
    try:
        for command in (hello_program, f"python3 {CALCULATOR}"):
            container = engine.containers.run(
                tag,
                ["/bin/sh", "-c", f"exec {command} 8080"],
                detach=True,
                cap_drop=["ALL"],
                read_only=True,
                user="65534:65534",
            )
            try:
                container.reload()
                address = container.attrs["NetworkSettings"]["IPAddress"]
                transport = httpx.HTTPTransport(retries=9)
                with httpx.Client(transport=transport, timeout=10) as client:
                    reply = client.get(f"http://{address}:8080/add?num1=20&num2=22")
                assert reply.text in {"Hello, world\n", "42\n"}
                container.stop(timeout=5)
                assert container.wait()["StatusCode"] == 0
            finally:
                container.remove(force=True)
    finally:
        engine.images.remove(tag, force=True)
