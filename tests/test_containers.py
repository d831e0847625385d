"""The Dockerfile and compose.yaml, with the real engine and a base image made on this machine."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import docker
import httpx
import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
IMAGE = "myxo-test-daemons"
BASE = "myxo-test-python"
COMPILED = ("fastecdsa", "pydantic_core", "cryptography", "grpc", "coincurve")
"""What they load is in every Debian; the image here holds only what was asked for."""

PSK = "a passphrase for this test only"
BOOTSTRAP = "/ip4/127.0.0.1/tcp/4001"

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def base_image(
    engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """An image like python:slim, out of this machine's Python, its pip and what wheels load."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(_folder_of("pip"), site / "pip", ignore=shutil.ignore_patterns("__pycache__"))
    compiled = [path for name in COMPILED for path in _folder_of(name).rglob("*.so")]
    spec = importlib.util.spec_from_file_location("base_image", ROOT / "demos" / "base_image.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.make_base_image(
        engine, BASE, extra=[site, *compiled], changes=[f"ENV PYTHONPATH={site}"]
    )
    yield BASE
    engine.images.remove(BASE, force=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with the wheels that its image is built from."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in _in_image():
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, copy / name)
    shutil.copy(ROOT / ".dockerignore", copy)
    pip = [sys.executable, "-m", "pip", "wheel", "-qq", "--require-hashes", "--use-pep517"]
    subprocess.run([*pip, "-r", "requirements.lock", "-w", "wheels"], cwd=copy, check=True)
    return copy


@pytest.fixture
def compose(
    engine: docker.DockerClient, checkout: Path, base_image: str
) -> Iterator[tuple[list[str], dict[str, str]]]:
    """The compose command with its environment; whatever it started is removed afterwards."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    program = ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]
    command = [*program, "--project-name", "myxo-test"]
    environment = os.environ | {
        "P2P_PSK": PSK,
        "MYXO_BASE": base_image,
        "MYXO_IMAGE": IMAGE,
        "DOCKER_SOCKET": os.environ.get("DOCKER_HOST", "/var/run/docker.sock").removeprefix(
            "unix://"
        ),
        "DOCKER_BUILDKIT": "0",
        "COMPOSE_DOCKER_CLI_BUILD": "0",
    }
    yield command, environment
    down = [*command, "down", "--volumes", "--timeout", "10"]
    subprocess.run(down, cwd=checkout, env=environment, check=True)
    engine.images.remove(IMAGE, force=True)


def test_after_compose_up_a_service_that_runs_nowhere_answers(
    compose: tuple[list[str], dict[str, str]],
    engine: docker.DockerClient,
    checkout: Path,
    busybox_image: str,
    tmp_path: Path,
) -> None:
    command, environment = compose
    subprocess.run([*command, "up", "--build", "-d"], cwd=checkout, env=environment, check=True)
    for script in SCRIPTS:
        assert b"Usage" in engine.containers.run(IMAGE, [script, "--help"], remove=True), script

    registry_cli = [str(Path(sys.executable).parent / "registry-cli"), "--bootstrap", BOOTSTRAP]
    config = tmp_path / "service-conf.json"
    config.write_text(
        '{"NetworkSoftReq": {"RTT": 500}, "NetworkHardReq": {"RTT": 1000}, "CpuReq": 0,'
        f' "MemoryReq": 0, "DockerConf": {{"From": "{busybox_image}", "Copy": [],'
        ' "Run": ["echo hello > index.html"],'
        ' "Cmd": "exec httpd -f -p $SERVICE_PORT"}}'
    )
    add = [*registry_cli, "add", "--no-push", "--dir", str(tmp_path), str(config)]
    own = {"MYXO_STATE_DIR": str(tmp_path / "state"), "MYXO_CONFIG_DIR": str(tmp_path / "config")}
    done = subprocess.run(
        [*add, "myxo-test/composed:1.0", "composed"],
        env=environment | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    logs = subprocess.run(
        [*command, "logs"], cwd=checkout, env=environment, capture_output=True, check=False
    ).stdout.decode(errors="replace")
    assert done.returncode == 0, f"{done.stdout}\n{logs}"
    reply = httpx.get("http://127.0.0.1:4200/composed/index.html", timeout=60)
    assert (reply.status_code, reply.text) == (200, "hello\n"), f"{reply.text}\n{logs}"


def _in_image() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    named = [line.removeprefix("!") for line in lines if line.startswith("!")]
    return [name for name in named if name != "wheels"] + ["Dockerfile", "compose.yaml"]


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
