"""Images built by a real engine, pushed to a real registry."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker
import docker.errors
import pytest
from docker.utils import kwargs_from_env

from overlay.testing_ports import free_ports
from registry.conf.docker import DockerConf
from registry.docker import Engine
from registry.errors import (
    BuildFailed,
    ConfInvalid,
    EngineUnavailable,
    ImageNotFound,
    PushFailed,
)
from registry.image import build_image, registry_of, repository_of, service_port, stock_image

SERVER = "#!/bin/sh\nexec httpd -f -p $1 -h /app\n"


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    client = docker.APIClient(version="auto", **kwargs_from_env())
    yield client
    client.close()


@pytest.fixture(scope="module")
def base(client: Any) -> Iterator[str]:
    """A base image of one static busybox, which needs no registry."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        for applet in ("sh", "httpd", "cat", "echo", "touch", "mkdir"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    name = f"myxo-test-base-{uuid4().hex[:8]}"
    client.import_image_from_data(archive.getvalue(), repository=name, tag="1")
    yield f"{name}:1"
    client.remove_image(f"{name}:1", force=True)


@pytest.fixture
def tag(client: Any) -> Iterator[str]:
    name = f"myxo-test-{uuid4().hex[:8]}:1.0"
    yield name
    _remove(client, name)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    directory = tmp_path / "sources"
    (directory / "web").mkdir(parents=True)
    (directory / "web" / "index.html").write_text("hi")
    server = directory / "server"
    server.write_text(SERVER)
    server.chmod(0o755)
    return directory


def _remove(client: Any, name: str) -> None:
    try:
        client.remove_image(name, force=True)
    except docker.errors.ImageNotFound:
        return


def _silent(_: str) -> None:
    return


def _conf(base: str) -> DockerConf:
    return DockerConf(
        base=base,
        copies=(("server", "."), ("web", "/app/files")),
        run=("echo $SERVICE_PORT > built && touch 'a b'",),
        cmd="./server $SERVICE_PORT",
    )


def _output(client: Any, image: str, command: list[str]) -> str:
    container = client.create_container(image, command)
    try:
        client.start(container)
        client.wait(container)
        return str(client.logs(container).decode())
    finally:
        client.remove_container(container, force=True)


@pytest.mark.docker
async def test_an_image_is_built_from_its_configuration(
    client: Any, base: str, tag: str, sources: Path
) -> None:
    lines: list[str] = []
    image = await build_image(
        Engine(), _conf(base), sources, tag, port=8081, push=False, progress=lines.append
    )
    config = client.inspect_image(tag)
    assert image.config_digest == config["Id"]
    assert image.repo_digest is None
    assert image.platforms == (f"{config['Os']}/{config['Architecture']}",)
    assert config["Config"]["Cmd"] == ["/bin/sh", "-c", "./server $SERVICE_PORT"]
    assert config["Config"]["WorkingDir"] == "/app"
    assert "8081/tcp" in config["Config"]["ExposedPorts"]
    seen = _output(client, tag, ["/bin/sh", "-c", "cat built files/index.html; echo; echo *"])
    assert seen.split() == ["8081", "hi", "a", "b", "built", "files", "server"]
    assert any(line.startswith("Step 1/") for line in lines)


@pytest.mark.docker
async def test_a_command_that_fails_says_which_step(base: str, tag: str, sources: Path) -> None:
    conf = DockerConf(base=base, run=("exit 3",), cmd="true")
    with pytest.raises(BuildFailed, match=r"returned a non-zero code: 3 \(at: Step \d"):
        await build_image(Engine(), conf, sources, tag, push=False, progress=_silent)


@pytest.mark.docker
async def test_a_base_that_is_nowhere_to_be_had_says_what_to_do(tag: str, sources: Path) -> None:
    nowhere = "localhost:1/no-such-base"
    with pytest.raises(
        BuildFailed, match=f"{nowhere}, which DockerConf.From names, .*docker images"
    ):
        await build_image(Engine(), _conf(nowhere), sources, tag, push=False, progress=_silent)


@pytest.mark.docker
async def test_a_pushed_image_has_its_repo_digest_and_can_be_pulled_back(
    client: Any, base: str, docker_registry: str, sources: Path
) -> None:
    reference = f"{docker_registry}/alice/hello:1.0"
    engine = Engine()
    try:
        built = await build_image(engine, _conf(base), sources, reference, progress=_silent)
        assert built.repo_digest is not None
        assert built.repo_digest.startswith(f"{docker_registry}/alice/hello@sha256:")
        _remove(client, reference)
        _remove(client, built.config_digest)
        pulled, exposed = await stock_image(engine, built.repo_digest, _silent)
        assert pulled.config_digest == built.config_digest
        assert pulled.repo_digest == built.repo_digest
        assert service_port(None, exposed) == 8080
    finally:
        _remove(client, reference)
        _remove(client, built.config_digest)


@pytest.mark.docker
async def test_an_image_that_may_not_be_pushed_stays_here(
    client: Any, base: str, tag: str, sources: Path
) -> None:
    reference = f"alice/{tag}"
    try:
        image = await build_image(
            Engine(), _conf(base), sources, reference, push=False, progress=_silent
        )
        assert image.repo_digest is None
    finally:
        _remove(client, reference)


@pytest.mark.docker
async def test_a_failed_push_says_how_to_log_in_and_how_to_do_without(
    client: Any, base: str, sources: Path
) -> None:
    where = f"127.0.0.1:{free_ports(1)[0]}"
    reference = f"{where}/alice/hello:1.0"
    try:
        with pytest.raises(PushFailed, match=f"docker login {where}.*--no-push"):
            await build_image(Engine(), _conf(base), sources, reference, progress=_silent)
    finally:
        _remove(client, reference)


@pytest.mark.docker
async def test_an_image_that_is_nowhere_is_named() -> None:
    where = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(ImageNotFound, match=f"{where}/none"):
        await stock_image(Engine(), f"{where}/none:1", _silent)


@pytest.mark.docker
@pytest.mark.parametrize("reference", ["Bad Name", "a//b", "UPPER/case"])
async def test_what_is_no_image_name_is_refused(reference: str) -> None:
    with pytest.raises(ImageNotFound):
        await stock_image(Engine(), reference, _silent)


async def test_without_an_engine_the_error_says_where_it_was_sought(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineUnavailable, match="DOCKER_HOST"):
        await Engine().image("hello")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("../secret", "outside"),
        ("/etc/passwd", "outside"),
        ("link", "outside"),
        ("none", "does not exist"),
        ("a*", "in its name"),
        ("pipe", "neither a file"),
    ],
)
async def test_a_source_that_may_not_be_copied_is_refused_before_anything_is_built(
    tmp_path: Path, sources: Path, source: str, reason: str
) -> None:
    (tmp_path / "secret").write_text("x")
    (sources / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(sources / "pipe")
    conf = DockerConf(copies=((source, "."),), cmd="true")
    with pytest.raises(ConfInvalid, match=reason):
        await build_image(Engine(), conf, sources, "x", push=False, progress=_silent)


@pytest.mark.parametrize(
    ("reference", "registry"),
    [
        ("hello:1.0", None),
        ("alice/hello:1.0", "Docker Hub"),
        ("localhost/hello", "localhost"),
        ("localhost:5000/hello:1.0", "localhost:5000"),
        ("ghcr.io/alice/hello", "ghcr.io"),
    ],
)
def test_the_registry_is_in_the_name(reference: str, registry: str | None) -> None:
    assert registry_of(reference) == registry


@pytest.mark.parametrize(
    ("reference", "repository"),
    [
        ("hello:1.0", "hello"),
        ("localhost:5000/a/hello:1.0", "localhost:5000/a/hello"),
        ("localhost:5000/hello@sha256:00", "localhost:5000/hello"),
    ],
)
def test_a_repository_is_the_name_without_tag_and_digest(reference: str, repository: str) -> None:
    assert repository_of(reference) == repository


def test_the_port_is_as_asked_or_the_single_exposed_one_or_8080() -> None:
    assert service_port(9000, (80,)) == 9000
    assert service_port(None, (80,)) == 80
    assert service_port(None, (80, 443)) == 8080
    assert service_port(None, ()) == 8080
