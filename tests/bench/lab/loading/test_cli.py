import json
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio
from typer.testing import CliRunner, Result

from bench.lab.cli import app
from bench.lab.loading.client import open_client
from bench.lab.loading.csv_sink import read_csv
from bench.lab.loading.target import target_of
from overlay.testing_ports import free_port


def lab(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["load", *map(str, arguments)])


def found(*arguments: object) -> dict[str, Any]:
    result = lab(*arguments, "--json")
    assert result.exit_code == 0, result.output
    figures: dict[str, Any] = json.loads(result.stdout)
    return figures


def test_a_url_is_loaded_as_the_flags_say(fast_url: str, tmp_path: Path) -> None:
    file = tmp_path / "traces.csv"
    figures = found(
        fast_url, "--profile", "constant:200", "--duration", "0.5s", "--traces", file, "--seed", 1
    )
    assert (figures["asked"], figures["sent"], figures["failed"]) == (100, 100, 0)
    assert 0 < figures["rate"] < 220
    assert figures["intended_ms"]["p50"] >= figures["service_ms"]["p50"] > 0
    assert len(list(read_csv(file))) == 100


def test_people_get_a_table(fast_url: str) -> None:
    result = lab("run", fast_url, "--arrival", "0.001", "--count", 5)
    assert result.exit_code == 0, result.output
    assert "asked 5 · sent 5 · failed 0 · not sent 0" in result.stdout
    assert "from when it was due" in result.stdout


def test_a_script_of_k6_becomes_a_file_that_runs(fast_url: str, tmp_path: Path) -> None:
    script, file = tmp_path / "script.js", tmp_path / "load.json"
    script.write_text(
        "export const options = { scenarios: { a: { executor: 'constant-arrival-rate', rate: 100,"
        f" duration: '200ms' }} }} }};\nexport default () => http.get('{fast_url}x');\nmore();\n"
    )
    assert lab("import", "k6", script, "-o", file).exit_code == 0
    assert found(file)["statuses"] == {"200": 20}


def test_a_har_becomes_a_file_that_runs(fast_url: str, tmp_path: Path) -> None:
    har, file = tmp_path / "a.har", tmp_path / "load.json"
    entries = [
        {"startedDateTime": f"2026-01-01T00:00:00.{at}Z", "request": {"method": "GET", "url": url}}
        for at, url in (("100", f"{fast_url}a"), ("250", f"{fast_url}b"), ("300", "http://x.org/"))
    ]
    har.write_text(json.dumps({"log": {"entries": entries}}))
    result = lab("import", "har", har, "-o", file)
    assert result.exit_code == 0
    assert "left out: 1 requests for http://x.org" in result.stderr
    figures = found(file)
    assert figures["answered"] == 2
    assert figures["length_s"] >= 0.15


def test_where_nobody_answers_it_fails_and_says_why() -> None:
    url = f"http://127.0.0.1:{free_port()}/"
    result = lab(url, "--arrival", "0.001", "--count", 5)
    assert result.exit_code == 1
    assert "not sent 5" in result.stdout
    assert "5 × Connection refused" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["http://h/"], "no end"),
        (["http://h/", "--profile", "sin:1", "--duration", "1s"], "there is no profile 'sin'"),
        (["No Service", "--at-once", "1", "--count", "1"], "neither a URL nor a service"),
        (["missing.json"], "cannot be read"),
        (["http://h/", "--at-once", "1", "--count", "1", "--header", "a"], "NAME: VALUE"),
        (["import", "k6", "missing.js"], "cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: list[str], says: str) -> None:
    result = lab(*arguments)
    assert result.exit_code == 1
    assert says in result.stderr
    assert "Traceback" not in result.output


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate that nobody signed, in one file."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    request += ["-subj", "/CN=localhost", "-keyout", str(file), "-out", str(file) + ".crt"]
    subprocess.run(request, check=True, capture_output=True)
    with file.open("a") as both:
        both.write(Path(f"{file}.crt").read_text())
    return file


async def test_tls_is_spoken_where_the_url_says_so(certificate: Path) -> None:
    body = b"x" * 300_000  # more than one read of the socket, and many TLS records
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            while await stream.receive_some():
                await stream.send_all(answer)
        except (trio.BrokenResourceError, ssl.SSLError):
            pass  # the client went first, or does not like the certificate

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
        port = listeners[0].transport_listener.socket.getsockname()[1]  # type: ignore[attr-defined]
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        target = target_of(f"https://127.0.0.1:{port}/")
        async with open_client(target, verify=False) as client:
            await client.request(20, None, 4)
        assert client.tally.answered == 20
        async with open_client(target) as careful:
            await careful.request(2)
        assert careful.tally.unsent == 2
        assert "certificate verify failed" in next(iter(careful.tally.reasons))
        nursery.cancel_scope.cancel()
