"""Custom clients over HTTP."""

import io
import zipfile
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from bench.lab.api.settings import ApiSettings
from bench.lab.api.testing import InMemoryNetwork, open_api
from bench.lab.hosts.apps import Deployed

TOKEN = "correct-horse-battery"
GENERATOR = 'def next_request():\n    return "GET", "/", {}\n'


def zipped(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("_", "."), text)
    return buffer.getvalue()


CLIENT = zipped(manifest_yml="name: classify\n", generator_py=GENERATOR)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[httpx.Client]:
    given = {"listen": "127.0.0.1:0", "state_dir": tmp_path, "token": TOKEN}
    with (
        start_blocking_portal("trio") as portal,
        portal.wrap_async_context_manager(
            open_api(ApiSettings.load(given), InMemoryNetwork())
        ) as url,
        httpx.Client(base_url=f"{url}/api", headers={"Authorization": f"Bearer {TOKEN}"}) as client,
    ):
        yield client


def test_a_client_is_uploaded_shown_taken_and_removed(api: httpx.Client, tmp_path: Path) -> None:
    kept = api.post("/apps", content=CLIENT)
    assert kept.status_code == HTTPStatus.CREATED
    assert kept.json()["name"] == "classify"
    assert api.get("/apps").json() == [kept.json()] == [api.get("/apps/classify").json()]
    package = Deployed.below(tmp_path).get("classify")
    assert package.digest == kept.json()["sha256"], "`myxo lab app ls` shows it, too"
    taken = api.get("/apps/classify/download")
    assert taken.content == package.data
    with zipfile.ZipFile(io.BytesIO(taken.content)) as archive:
        assert archive.read("generator.py").decode() == GENERATOR
    assert api.delete("/apps/classify").json() == "classify"
    assert api.get("/apps").json() == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        zipped(manifest_yml="name: classify\n"),
        zipped(generator_py=GENERATOR),
        zipped(manifest_yml="name: classify\n", generator_py="def other(): pass\n"),
        zipped(manifest_yml="name: ../up\n", generator_py=GENERATOR),
    ],
)
def test_what_is_no_client_is_refused_with_the_reason(api: httpx.Client, content: bytes) -> None:
    answer = api.post("/apps", content=content)
    assert answer.status_code == HTTPStatus.BAD_REQUEST
    assert answer.json()["detail"]
    assert api.get("/apps").json() == []


def test_what_is_not_there_is_not_found(api: httpx.Client) -> None:
    for answer in (
        api.get("/apps/none"),
        api.get("/apps/none/download"),
        api.delete("/apps/none"),
        api.get("/apps/..%2f..%2fkeys"),
    ):
        assert answer.status_code == HTTPStatus.NOT_FOUND


def test_without_a_token_no_programs_are_taken(served: httpx.Client) -> None:
    for answer in (served.post("/apps", content=CLIENT), served.delete("/apps/classify")):
        assert answer.status_code == HTTPStatus.FORBIDDEN
        assert "--token-file" in answer.json()["detail"]


def test_without_the_token_nothing_is_told(api: httpx.Client) -> None:
    answer = api.get("/experiments", headers={"Authorization": "Bearer wrong"})
    assert answer.status_code == HTTPStatus.UNAUTHORIZED
    assert answer.headers["www-authenticate"] == "Bearer"
