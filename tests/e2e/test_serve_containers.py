"""What Python programs have becomes services in containers, of an image made here."""

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

TIMEOUT_S = 120.0
NOBODY = 65534

MODULE = """\
import os
from pathlib import Path

import myxo


@myxo.service(name={name!r}, image={image!r})
def look(value=None):
    try:
        Path("/written").write_text("x")
        writes = 0
    except OSError as error:
        writes = error.errno
    return {{"given": value, "user": os.getuid(), "writes": writes}}


async def doubled(value):
    return 2 * value


def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode()]
"""


@pytest.fixture
def serve(docker_network: Any, worker_image: str, tmp_path: Path) -> Any:
    """`serve("look", "", …)` serves what the module has under a name; returns what it is called."""

    def serving(label: str, attribute: str, *flags: str) -> str:
        name: str = docker_network.name(label)
        module = MODULE.format(name=name, image=worker_image)
        (tmp_path / "inside.py").write_text(module)
        place = f"inside:{attribute}" if attribute else "inside"
        named = ["--name", name] if attribute else []
        done = subprocess.run(
            [sys.executable, "-m", "myxo", "serve", place, *named, *flags],
            cwd=tmp_path,
            env=docker_network.program_environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return name

    return serving


def test_a_function_marked_with_an_image_runs_in_it_with_few_rights(
    docker_network: Any, serve: Any
) -> None:
    name = serve("look", "")
    answer = httpx.post(docker_network.url(name), json=[1], timeout=TIMEOUT_S)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"given": [1], "user": NOBODY, "writes": errno.EROFS}
    docker_network.no_traceback()


def test_the_command_line_may_name_the_image(
    docker_network: Any, serve: Any, worker_image: str
) -> None:
    plain = serve("plain", "wsgi", "--image", worker_image)
    answer = httpx.get(docker_network.url(plain, "/a/b"), timeout=TIMEOUT_S)
    assert (answer.status_code, answer.text) == (200, "/a/b")
    double = serve("double", "doubled", "--image", worker_image, "--loop", "trio")
    assert httpx.post(docker_network.url(double), json=21, timeout=TIMEOUT_S).json() == 42


def test_what_the_image_lacks_is_told_to_who_asks(
    docker_network: Any, serve: Any, worker_image: str
) -> None:
    needs = ["--image", worker_image, "--requires", "nowhere-to-be-had>=1"]
    needy = serve("needy", "wsgi", *needs)
    answer = httpx.get(docker_network.url(needy), timeout=TIMEOUT_S)
    assert answer.status_code in {503, 504}
    assert f"the image {worker_image} lacks nowhere-to-be-had>=1" in answer.text


def test_an_image_that_nobody_has_is_said(docker_network: Any, tmp_path: Path) -> None:
    (tmp_path / "inside.py").write_text(MODULE.format(name="nobody-has-it", image="x"))
    done = subprocess.run(
        [sys.executable, "-m", "myxo", "serve", "inside", "--image", "127.0.0.1:1/no/such:1"],
        cwd=tmp_path,
        env=docker_network.program_environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1
    assert "nobody-has-it could not be registered: " in done.stderr
    assert "127.0.0.1:1/no/such:1" in done.stderr
