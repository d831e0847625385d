import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest

from myxo.puma.current_request import request
from myxo.puma.server import MAX_BODY_BYTES, server_of
from myxo.puma.shipping import PIECE, Shipped, packed, unpacked


@contextmanager
def serving(answer: Callable[[], Any]) -> Iterator[httpx.Client]:
    with server_of(answer, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}") as client:
                client.timeout = httpx.Timeout(60)
                yield client
        finally:
            server.shutdown()
            thread.join()


def test_a_form_and_json_and_a_query_are_read_alike() -> None:
    with serving(lambda: {"said": request.form["chatText"], "by": request.method}) as client:
        text = "a & ü"
        sent = [
            client.post("/", data={"chatText": text}),
            client.post("/", json={"chatText": text}),
            client.post("/", files={"chatText": (None, text)}),
            client.get("/", params={"chatText": text}),
        ]
        assert [answer.json()["said"] for answer in sent] == [text] * 4
        assert [answer.json()["by"] for answer in sent] == ["POST"] * 3 + ["GET"]


def test_a_request_has_what_programs_ask_for() -> None:
    def answer() -> Any:
        return {
            "path": request.path,
            "q": request.args.getlist("q"),
            "agent": request.headers["user-agent"],
            "data": request.data.decode(),
            "both": dict(request.values),
            "default": request.form.get("none", "-"),
            "json": request.get_json(),
        }

    with serving(answer) as client:
        found = client.post("/a/b?q=1&q=2", json={"k": 3}, headers={"User-Agent": "me"}).json()
    assert found == {
        "path": "/a/b",
        "q": ["1", "2"],
        "agent": "me",
        "data": '{"k":3}',
        "both": {"q": "1", "k": 3},
        "default": "-",
        "json": {"k": 3},
    }


def test_files_of_a_form_are_bytes() -> None:
    with serving(lambda: request.files["f"] + request.form["x"].encode()) as client:
        sent = client.post("/", files={"f": ("a.bin", b"\x00\r\n\xff")}, data={"x": "y"})
    assert sent.content == b"\x00\r\n\xffy"


@pytest.mark.parametrize(
    ("returned", "status", "kind", "body"),
    [
        ("<p>ü", 200, "text/html; charset=utf-8", "<p>ü".encode()),
        (b"\x00", 200, "application/octet-stream", b"\x00"),
        ({"a": [1]}, 200, "application/json", b'{"a": [1]}\n'),
        (["a", 5], 200, "application/json", b'["a", 5]\n'),
        (("no", 404), 404, "text/html; charset=utf-8", b"no"),
        (("a,b", 201, {"Content-Type": "text/csv"}), 201, "text/csv", b"a,b"),
    ],
)
def test_what_is_returned_is_the_answer(returned: Any, status: int, kind: str, body: bytes) -> None:
    with serving(lambda: returned) as client:
        answer = client.get("/")
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (
        status,
        kind,
        body,
    )


def test_an_error_is_told_and_the_next_request_is_answered(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def answer() -> str:
        return str(10 / int(request.form["by"]))

    with serving(answer) as client:
        missing = client.post("/", data={"other": "1"})
        failed = client.post("/", data={"by": "0"})
        malformed = client.post("/", content="{", headers={"Content-Type": "application/json"})
        worked = client.post("/", data={"by": "5"})
    assert (missing.status_code, failed.status_code) == (400, 500)
    assert "'by'" in missing.text
    assert "other" in missing.text
    assert failed.text == "ZeroDivisionError: division by zero\n"
    assert malformed.status_code == 400
    assert worked.text == "2.0"
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("returned", [None, object()])
def test_what_is_no_answer_is_an_error(returned: Any) -> None:
    with serving(lambda: returned) as client:
        answer = client.get("/")
    assert (answer.status_code, answer.text.partition(":")[0]) == (500, "TypeError")


def test_a_body_is_bounded_and_says_its_length() -> None:
    with serving(lambda: "never") as client:
        unsaid = client.post("/", content=iter([b"x"]))
        large = HTTPConnection(client.base_url.host, client.base_url.port or 0, timeout=60)
        large.putrequest("POST", "/")
        large.putheader("Content-Length", str(MAX_BODY_BYTES + 1))
        large.endheaders()
        with closing(large), large.getresponse() as answer:
            assert (answer.status, unsaid.status_code) == (413, 411)


def test_requests_of_many_threads_do_not_mix() -> None:
    meet = threading.Barrier(8, timeout=60)

    def answer() -> str:
        meet.wait()
        return str(request.form["n"])

    found: dict[int, str] = {}
    with serving(answer) as client:

        def ask(n: int) -> None:
            found[n] = client.post("/", data={"n": n}).text

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {n: str(n) for n in range(8)}


def test_outside_of_a_request_there_is_none() -> None:
    with pytest.raises(RuntimeError, match="no request"):
        _ = request.form


MODULES = {
    "puma_test_one": "from puma_test_pack import deep\nVALUE = deep.VALUE + 1\n",
    "puma_test_pack.__init__": "NAME = __name__\n",
    "puma_test_pack.deep": "from . import NAME\nVALUE = 1\ndef fail(): raise ValueError(NAME)\n",
}


def test_modules_arrive_as_they_were_and_are_imported_as_any() -> None:
    variables = packed(MODULES)
    assert all(len(piece) <= PIECE for piece in variables.values())
    shipped = Shipped(unpacked(variables))
    shipped.install()
    try:
        one = importlib.import_module("puma_test_one")
        assert vars(one)["VALUE"] == 2
        deep = sys.modules["puma_test_pack.deep"]
        with pytest.raises(ValueError, match="puma_test_pack") as failed:
            vars(deep)["fail"]()
        assert "def fail(): raise ValueError(NAME)" in str(failed.traceback[-1].statement)
    finally:
        sys.meta_path.remove(shipped)
        for name in [name for name in sys.modules if name.startswith("puma_test_")]:
            del sys.modules[name]


@pytest.mark.parametrize("held", [{}, {"PUMA_CODE_0": "???"}, {"PUMA_CODE_0": "00000"}])
def test_an_environment_without_modules_is_refused(held: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="no modules"):
        unpacked(held)
