"""The Dockerfile and compose.yaml, with the real engine and a base image made on this machine."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import docker
import httpx
import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
IMAGE = "myxo-test-daemons"
COMPILED = ("fastecdsa", "pydantic_core", "cryptography", "grpc", "coincurve", "psutil")
"""What they load is in every Debian; the image here holds only what was asked for."""

PSK = "a passphrase for this test only"
BOOTSTRAP = "/ip4/127.0.0.1/tcp/4001"

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]  # wheels and images take their time


@pytest.fixture(scope="module")
def base_image(
    engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """An image like python:slim, out of this machine's Python, its pip and what wheels load."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(_folder_of("pip"), site / "pip", ignore=shutil.ignore_patterns("__pycache__"))
    spec = importlib.util.spec_from_file_location("base_image", ROOT / "demos" / "base_image.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    compiled = [path for name in COMPILED for path in _folder_of(name).rglob("*.so")]
    compiled += _system_libraries(script, "numpy", "pyarrow")
    name = f"myxo-test-python-{os.getpid()}"  # runs beside each other have one each
    script.make_base_image(
        engine, name, extra=[site, *compiled], changes=[f"ENV PYTHONPATH={site}"]
    )
    yield name
    engine.images.remove(name, force=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what of the checkout an image is built from."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in _in_image():
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, copy / name)
    shutil.copy(ROOT / ".dockerignore", copy)
    return copy


@pytest.fixture
def compose(
    engine: docker.DockerClient, checkout: Path, base_image: str
) -> Iterator[tuple[list[str], dict[str, str]]]:
    """The compose command with its environment; whatever it started is removed afterwards."""
    _make_wheels(checkout, "requirements.lock")
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


# the same with the lab in it

LAB_IMAGE = "myxo-test-lab"
TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def lab_image(engine: docker.DockerClient, checkout: Path, base_image: str) -> Iterator[str]:
    """The image with `myxo lab` and what it needs."""
    _make_wheels(checkout, "requirements-lab.lock")
    arguments = {"BASE": base_image, "EXTRA": "lab"}
    engine.images.build(path=str(checkout), tag=LAB_IMAGE, buildargs=arguments, rm=True)
    yield LAB_IMAGE
    engine.images.remove(LAB_IMAGE, force=True)


def test_the_lab_in_a_container_serves_its_page_and_takes_experiments(
    engine: docker.DockerClient, lab_image: str
) -> None:
    container = engine.containers.run(
        lab_image,
        ["myxo", "lab", "api", "--listen", ":5001"],
        environment={"MYXO_LAB_API_TOKEN": TOKEN},
        ports={"5001/tcp": ("127.0.0.1", None)},
        detach=True,
    )
    try:
        container.reload()
        port = container.ports["5001/tcp"][0]["HostPort"]
        url, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {TOKEN}"}
        assert "<title>Myxo lab" in _await_page(f"{url}/"), container.logs().decode()
        assert httpx.get(f"{url}/main.js").status_code == 200
        assert httpx.get(f"{url}/api/experiments").status_code == 401
        body = {"instructions": "spawn h1 squeezenet 1"}
        posted = httpx.post(f"{url}/api/experiments", json=body, headers=headers, timeout=60)
        assert posted.status_code == 201, posted.text
        code, listed = container.exec_run(["myxo", "lab", "experiments", "list"])
        assert (code, posted.json() in listed.decode()) == (0, True), listed
    finally:
        container.remove(force=True, v=True)


def _await_page(url: str) -> str:
    """Return what is there once something is; Docker's own proxy takes connections before."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return httpx.get(url, timeout=60).text
        except httpx.TransportError:
            if time.monotonic() > deadline:
                return ""
            time.sleep(0.2)


def _make_wheels(checkout: Path, lock: str) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "-qq", "--require-hashes", "--use-pep517"]
    subprocess.run([*pip, "-r", lock, "-w", "wheels"], cwd=checkout, check=True)


def _in_image() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    named = [line.removeprefix("!") for line in lines if line.startswith("!")]
    return [name for name in named if name != "wheels"] + ["Dockerfile", "compose.yaml"]


def _system_libraries(script: ModuleType, *packages: str) -> list[Path]:
    """Return what large packages load beside what is in their wheels."""
    found = [
        library
        for package in packages
        for binary in _folder_of(package).rglob("*.so")
        for library in script.shared_libraries(binary)
    ]
    return sorted({path for path in found if not path.is_relative_to(sys.prefix)})


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
