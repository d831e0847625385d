import json
import os
import select
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from overlay.http.head import parse_request_head
from proxy.telemetry import access_log
from proxy.telemetry.access_log import AccessLog, Entry, open_access_log, render

HEAD = parse_request_head(
    b"GET /hello/x?q=1 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8\r\n"
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"
)


def entry(**changed: Any) -> Entry:
    given: dict[str, Any] = {
        "head": HEAD,
        "decision": None,
        "request_id": "",
        "client": "127.0.0.1",
        "duration_s": 0.0123456,
        "status": 404,
        "received_bytes": 0,
        "sent_bytes": 0,
        "cut": False,
        "at": 1_700_000_000.25,
        **changed,
    }
    return Entry(**given)


def dropped(registry: CollectorRegistry) -> float | None:
    return registry.get_sample_value("myxo_proxy_access_log_dropped_total")


def test_a_line_says_what_applies_and_leaves_out_the_rest() -> None:
    assert json.loads(render(entry())) == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "client": "127.0.0.1",
        "method": "GET",
        "target": "/hello/x?q=1",
        "status": 404,
        "duration_ms": 12.346,
        "received_bytes": 0,
        "sent_bytes": 0,
        "user_agent": "curl/8",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }


def test_what_a_client_chose_cannot_make_a_second_line_or_an_endless_one() -> None:
    agent = b"a" * 5000 + "\u2028".encode()
    head = parse_request_head(
        b"GET /" + b"x" * 4000 + b" HTTP/1.1\r\nHost: h\r\nUser-Agent: " + agent + b"\r\n\r\n"
    )
    line = render(entry(head=head))
    assert line.count("\n") == 1
    assert len(line.splitlines()) == 1
    assert len(line) < 2 * access_log.MAX_TEXT + 500


async def test_what_is_queued_is_written_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    async with open_access_log(str(path), CollectorRegistry()) as written:
        assert written is not None
        for status in range(200, 205):
            written.write(entry(status=status))
    assert [json.loads(line)["status"] for line in path.read_text().splitlines()] == [
        200, 201, 202, 203, 204,
    ]  # fmt: skip
    assert path.stat().st_mode & 0o007 == 0, "what was asked for is not everybody's business"


async def test_without_a_path_there_is_none() -> None:
    async with open_access_log("", CollectorRegistry()) as written:
        assert written is None


def test_a_rotated_file_is_left_alone_and_a_new_one_begun(tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    written = AccessLog(str(path), CollectorRegistry())
    written.write(entry(status=200))
    written._flush()
    path.rename(old)
    written.write(entry(status=201))
    written.close()
    assert json.loads(old.read_text())["status"] == 200
    assert json.loads(path.read_text())["status"] == 201


def test_a_full_queue_drops_the_newest_and_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "MAX_QUEUED", 2)
    registry = CollectorRegistry()
    written = AccessLog("/nowhere/access.log", registry)
    for _ in range(3):
        written.write(entry())
    assert dropped(registry) == 1


def test_a_file_that_cannot_be_written_takes_nothing_down_and_is_tried_again(
    tmp_path: Path,
) -> None:
    registry = CollectorRegistry()
    written = AccessLog(str(tmp_path / "later" / "access.log"), registry)
    written.write(entry())
    written.close()
    assert dropped(registry) == 1
    (tmp_path / "later").mkdir()
    written.write(entry(status=200))
    written.close()
    assert json.loads((tmp_path / "later" / "access.log").read_text())["status"] == 200


async def test_a_dash_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    async with open_access_log("-", CollectorRegistry()) as written:
        assert written is not None
        written.write(entry(status=200))
    assert json.loads(capsys.readouterr().out)["status"] == 200


def test_processes_that_share_a_log_write_whole_lines() -> None:
    """What is written at once is never torn by another's, and a line is written at once."""
    read, write = os.pipe()
    log = AccessLog(f"/proc/self/fd/{write}", CollectorRegistry())
    for number in range(200):
        log.write(entry(status=number))
    log.close()
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        got = pipe.read()
    assert [json.loads(line)["status"] for line in got.splitlines()] == list(range(200))
    lines = [render(entry(status=number)) for number in range(200)]
    together = list(access_log._at_once(lines))
    assert "".join(together) == "".join(lines)
    assert len(together) > 1
    assert all(len(text) <= select.PIPE_BUF and text.endswith("\n") for text in together)
