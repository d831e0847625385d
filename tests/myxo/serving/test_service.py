"""What becomes of functions and applications: a definition, and an instance that runs it."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

import myxo
from myxo.requirements import Lacking, check_environment
from myxo.serving.errors import NotFound, NotServable, TooLarge
from myxo.serving.kinds import Kind, kind_of
from myxo.serving.program import Program, load, unpack
from myxo.serving.service import Service
from overlay.errors import InvalidName
from overlay.testing_ports import free_port

PATIENCE_S = 60.0


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A user's module, as a program imports it that lies beside it."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    yield __import__("served")
    for name in ("served", "served_words"):
        sys.modules.pop(name, None)


@contextmanager
def instance(service: Service[..., Any], folder: Path) -> Iterator[httpx.Client]:
    """An instance as an allocator starts it, where nothing of the program lies."""
    log = folder / "log"
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "myxo.serving.server"],
            env=environment | service.spec().env | {"SERVICE_PORT": str(port)},
            cwd=folder,
            stdout=output,
            stderr=output,
        )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                client.request("OPTIONS", "/")
                break
            except httpx.TransportError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        yield client
    process.terminate()
    assert process.wait(PATIENCE_S) == 0, log.read_text()


def test_a_decorated_function_is_still_one(served: ModuleType) -> None:
    assert served.greet("you") == "hello, you"
    assert served.greet.__name__ == "greet"
    assert served.greet.name == "greet"


def test_its_definition_carries_the_program_and_what_it_needs(
    served: ModuleType, tmp_path: Path
) -> None:
    spec = served.greet.spec()
    assert (spec.runtime, spec.concurrency) == ("process", 3)
    assert json.loads(spec.env["SERVICE_REQUIRES"]) == ["pydantic>=2"]
    unpack(spec.env, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"served.py", "served_words.py"}
    assert served.greet.spec() == spec


def test_a_function_answers_json_with_json(served: ModuleType, tmp_path: Path) -> None:
    with instance(served.greet, tmp_path) as client:
        answer = client.post("/", json="you")
        assert (answer.status_code, answer.json()) == (200, "hello, you")
        assert client.get("/").json() == "hello, nobody"
        assert client.post("/", content=b"you").status_code == 400
        assert client.get("/below").status_code == 404
        assert client.delete("/").status_code == 405


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises", "ValueError: 3 is not to be had"),
        ("gives_what_json_has_not", "TypeError: Object of type set is not JSON serializable"),
    ],
)
def test_what_goes_wrong_in_a_function_is_said(
    served: ModuleType, name: str, said: str, tmp_path: Path
) -> None:
    with instance(Service(getattr(served, name)), tmp_path) as client:
        answer = client.post("/", json=3)
        assert (answer.status_code, answer.json()) == (500, {"error": said})


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_an_asynchronous_function_runs_under_either(
    served: ModuleType, loop: Any, tmp_path: Path
) -> None:
    with instance(Service(served.doubled, loop=loop), tmp_path) as client:
        assert client.post("/", json=21).json() == 42


def test_a_function_without_a_place_in_a_module_travels_itself(tmp_path: Path) -> None:
    factor = 3

    def thrice(value: int) -> int:
        return value * factor

    with instance(Service(thrice), tmp_path) as client:
        assert client.post("/", json=14).json() == 42


@pytest.mark.parametrize(
    ("name", "status", "body"), [("wsgi", 200, "GET/a/b"), ("asgi", 201, "/a/b")]
)
def test_applications_are_served(
    served: ModuleType, name: str, status: int, body: str, tmp_path: Path
) -> None:
    with instance(Service(getattr(served, name)), tmp_path) as client:
        answer = client.get("/a/b")
        assert (answer.status_code, answer.text) == (status, body)


def of_c() -> Callable[..., Any]:
    return len


def takes_four(a: int, b: int, c: int, d: int) -> int:
    return a + b + c + d


class Application:
    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        del environ, start_response
        return []


def test_what_something_is_shows_in_what_it_takes(served: ModuleType) -> None:
    assert kind_of(served.doubled) is Kind.FUNCTION
    assert kind_of(of_c()) is Kind.FUNCTION
    assert kind_of(Application()) is Kind.WSGI
    assert kind_of(served.asgi) is Kind.ASGI
    with pytest.raises(NotServable, match="takes 4 arguments"):
        kind_of(takes_four)
    with pytest.raises(NotServable, match="cannot be called"):
        Service("text", name="x")  # type: ignore[arg-type]
    with pytest.raises(NotServable, match="give one with name="):
        Service(Application())


def test_what_cannot_be_meant_is_refused(served: ModuleType) -> None:
    with pytest.raises(InvalidName):
        myxo.service(served.wsgi, name="No Name")
    with pytest.raises(TypeError, match=r"concurency is no field .* did you mean concurrency"):
        myxo.service(served.wsgi, concurency=3)
    with pytest.raises(ValueError, match="is not what pip would install"):
        myxo.service(served.wsgi, requires=["numpy, please"])
    with pytest.raises(ValueError, match="loop is 'curio'"):
        myxo.service(served.wsgi, loop="curio")  # type: ignore[call-overload]


def needing(*requirements: str, **more: str) -> dict[str, str]:
    """The variables of an instance that needs these."""
    return {"SERVICE_REQUIRES": json.dumps(requirements)} | more


def test_what_a_machine_or_an_image_lacks_is_named() -> None:
    check_environment(needing("pydantic>=2", "nowhere-installed; python_version < '3'"), ["trio"])
    check_environment({})
    with pytest.raises(Lacking, match=r"lacks nowhere-installed>=1, pydantic>=99; .* -m pip"):
        check_environment(needing("pydantic>=99", "trio"), ["nowhere-installed>=1"])
    with pytest.raises(Lacking, match=r"^the image farm:1 lacks pydantic>=99; make one"):
        check_environment(needing("pydantic>=99", SERVICE_IMAGE="farm:1"))


def test_in_an_image_it_has_few_rights_unless_its_definition_says_so(served: ModuleType) -> None:
    spec = Service(served.doubled, image="farm:1").spec()
    assert (spec.process, spec.read_only, spec.cap_drop_all) == (None, True, True)
    assert spec.command == "SERVICE_HOST=0.0.0.0 exec python3 -m myxo.serving.server"
    assert spec.env["SERVICE_IMAGE"] == "farm:1"
    lax = Service(served.doubled, image="farm:1", definition={"read_only": False}).spec()
    assert (lax.read_only, lax.cap_drop_all) == (False, True)


def test_an_instance_that_lacks_something_says_so_and_ends(
    served: ModuleType, tmp_path: Path
) -> None:
    needy = Service(served.doubled, requires=["nowhere-installed>=1"])
    done = subprocess.run(
        [sys.executable, "-m", "myxo.serving.server"],
        env=os.environ | needy.spec().env | {"SERVICE_PORT": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "the service cannot run here: this machine's environment lacks nowhere-installed>=1;"
    )


def test_a_program_that_is_too_large_is_refused() -> None:
    noise = base64.b64encode(os.urandom(200_000))
    with pytest.raises(TooLarge, match=r"a definition carries 98304; it has big\.py"):
        Program("big:it", {"big.py": noise}).environment()


def test_an_entry_that_is_not_there_is_named(served: ModuleType, tmp_path: Path) -> None:
    assert load("served:greet", tmp_path) is served.greet
    with pytest.raises(NotFound, match="served has no nothing"):
        load("served:nothing", tmp_path)
    with pytest.raises(NotFound, match=r"sent by Python 2\.7 and this machine runs"):
        load(":2.7", tmp_path)
