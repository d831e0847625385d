import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import backend
from bench.client import (
    Answer,
    AnswerFailed,
    ask,
    latencies,
    request,
    requests_per_second,
    server_timing,
)
from bench.machine import memory_mib
from overlay.testing_ports import free_port

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with backend.serving() as port:
        yield f"http://127.0.0.1:{port}/"


def test_a_server_that_is_starting_is_asked_until_it_answers(url: str) -> None:
    answer = ask(url)
    assert answer.status == 200
    assert answer.headers["content-length"] == "1024"
    assert answer.first_byte_s > 0


def test_every_request_of_a_paced_loop_is_timed(url: str) -> None:
    found = latencies(url, rate=1000, duration_s=0.05)
    assert 1 <= len(found) <= 51
    assert all(s > 0 for s in found)


@needs_wrk
def test_wrk_says_how_many_requests_were_answered(url: str) -> None:
    assert requests_per_second(url, connections=2, duration_s=1) > 0


def test_a_server_that_is_not_there_is_an_error_and_no_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.client.TIMEOUT_S", 0.05)
    with pytest.raises(AnswerFailed, match="refused"):
        ask(f"http://127.0.0.1:{free_port()}/")


def test_a_path_is_asked_for_under_its_own_host() -> None:
    assert request("http://h:1/a/b").startswith(b"GET /a/b HTTP/1.1\r\nHost: h:1\r\n")


def test_server_timing_is_read_in_seconds() -> None:
    timing = "lookup;dur=0.5, start;dur=120, cache"
    assert server_timing(timing) == {"lookup": 0.0005, "start": 0.12}
    assert Answer(200, 0.1, {"server-timing": timing}).server_timing["start"] == 0.12
    assert server_timing("") == {}


def test_a_process_holds_no_more_in_proportion_than_in_full() -> None:
    held = memory_mib(os.getpid())
    assert 0 < held["pss"] <= held["rss"]


def test_the_program_is_compiled_once() -> None:
    first: Path = backend.program()
    made = first.stat().st_mtime_ns
    assert backend.program().stat().st_mtime_ns == made
