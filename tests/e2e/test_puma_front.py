"""What a program's configuration says of connections and requests, its front does."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.netlab.testing import within
from bench.puma_program import PumaProgram, puma_program
from tests.e2e.collector import collecting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PROGRAM = """\
import time
from pathlib import Path

from myxo.puma import puma_config, puma_service, puma_start, request


def waits():
    seconds = float(request.values.get("seconds", 0))
    if "began" in request.values:
        Path(request.values["began"]).touch()
    time.sleep(seconds)
    return f"waited {{seconds:g}}"


puma_config({{
    "puma_services": {{"waits": "/waits"}},
    "http_connection_manager": {manager!r},
}})
puma_service(waits)
puma_start()
"""
PATIENCE_S = 60.0
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def front(network: Any, folder: Path, **manager: Any) -> Iterator[PumaProgram]:
    """A program in a network that is there, with these keys of `http_connection_manager`."""
    program = folder / "front.py"
    program.write_text(PROGRAM.format(manager=manager))
    with puma_program(program, network.program_environment) as running:
        yield running


def answer_of(client: socket.socket) -> str:
    """Read one answer, as far as it came."""
    said = b""
    while b"waited " not in said and (more := client.recv(4096)):
        said += more
    return said.decode()


def test_spans_of_requests_are_sent_where_tracing_says(
    process_network: Any, tmp_path: Path
) -> None:
    with collecting() as collector:
        with front(process_network, tmp_path, tracing=collector.url) as program:
            sent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            answer = httpx.get(program.url("/waits"), headers=sent, timeout=PATIENCE_S)
            assert answer.text == "waited 0"
            assert program.started.interrupt() == 0, program.started.printed()
        ours = [span for span in collector.spans if span.trace_id.hex() == TRACE]
    assert any(span.parent_span_id.hex() == PARENT for span in ours)
    assert {"start", "forward"} <= {span.name for span in ours}


def test_a_connection_without_requests_is_ended_after_idle_timeout(
    process_network: Any, tmp_path: Path
) -> None:
    with front(process_network, tmp_path, idle_timeout="1s") as program:
        httpx.get(program.url("/waits"), timeout=PATIENCE_S)  # it runs
        with socket.create_connection(("127.0.0.1", program.port), PATIENCE_S) as client:
            for seconds in (0, 1.5):  # a connection that waits for its answer is in use
                path = f"/waits?seconds={seconds}"
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                assert answer_of(client).endswith(f"waited {seconds:g}")
            answered = time.monotonic()
            assert client.recv(1) == b"", "the front ends it"
            assert 0.9 < time.monotonic() - answered < PATIENCE_S / 2


@pytest.mark.parametrize(("drain", "takes_s", "ends"), [("50s", 3, True), (0, 45, False)])
def test_requests_under_way_have_drain_timeout_when_the_program_ends(
    process_network: Any, tmp_path: Path, drain: Any, takes_s: int, ends: bool
) -> None:
    began, answers = tmp_path / "began", list[httpx.Response | httpx.TransportError]()
    with front(process_network, tmp_path, drain_timeout=drain) as program:

        def ask() -> None:
            said = {"seconds": str(takes_s), "began": str(began)}
            try:
                answers.append(httpx.get(program.url("/waits"), params=said, timeout=PATIENCE_S))
            except httpx.TransportError as exc:
                answers.append(exc)

        asking = threading.Thread(target=ask)
        asking.start()
        within(PATIENCE_S, began.exists, "the request is under way")
        assert program.started.interrupt() == 0, program.started.printed()
        asking.join(PATIENCE_S)
    (answer,) = answers
    if ends:
        assert isinstance(answer, httpx.Response), answer
        assert (answer.status_code, answer.text) == (200, f"waited {takes_s}")
    else:
        assert isinstance(answer, httpx.TransportError) or answer.status_code >= 500
