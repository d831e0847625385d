"""Services of a ported program that run in containers, of an image that its configuration names."""

import errno
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest

from bench.puma_program import puma_program

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

TIMEOUT_S = 120.0
NOBODY = 65534

PROGRAM = """\
import os
from pathlib import Path

from words import GREETING
from myxo.puma import puma_config, puma_service, puma_start, request


def look():
    try:
        Path("/written").write_text("x")
        writes = 0
    except OSError as error:
        writes = error.errno
    said = GREETING + request.values["name"]
    return {{"said": said, "user": os.getuid(), "writes": writes}}


puma_config({{"puma_services": {{"look": "/look"}}, "image": {image!r}, "requires": {requires!r}}})
puma_service(look)
puma_start()
"""


def program(folder: Path, image: str, *requires: str) -> Path:
    (folder / "words.py").write_text('GREETING = "good day, "\n')
    file = folder / "inside.py"
    file.write_text(PROGRAM.format(image=image, requires=requires))
    return file


def test_they_have_few_rights_and_end_with_the_program(
    docker_network: Any, worker_image: str, engine: docker.DockerClient, tmp_path: Path
) -> None:
    file = program(tmp_path, worker_image, "pydantic>=2")
    with puma_program(file, docker_network.program_environment) as running:
        answer = httpx.post(running.url("/look"), data={"name": "Ada"}, timeout=TIMEOUT_S)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"said": "good day, Ada", "user": NOBODY, "writes": errno.EROFS}
        listed = docker_network.registry_cli("list").stdout
        name = next(word for word in listed.split() if word.startswith("inside-look-"))
        assert engine.containers.list(filters={"label": f"myxo.service={name}"})
        docker_network.services.append(name)
        assert running.started.interrupt() == 0, running.started.printed()
    assert name not in docker_network.registry_cli("list").stdout
    docker_network.no_traceback()


def test_what_the_image_lacks_is_told_to_who_asks(
    docker_network: Any, worker_image: str, tmp_path: Path
) -> None:
    file = program(tmp_path, worker_image, "nowhere-to-be-had")
    with puma_program(file, docker_network.program_environment) as running:
        answer = httpx.get(running.url("/look?name=Ada"), timeout=TIMEOUT_S)
    assert answer.status_code in {503, 504}
    assert f"the image {worker_image} lacks nowhere-to-be-had" in answer.text
