import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from myxo.puma.access_log import Lines, following
from myxo.puma.configuration import Logging
from myxo.puma.log_filter import Filter
from myxo.puma.log_format import DEFAULT, rendered

LINE = {
    "time": "2026-01-01T00:00:00.000+00:00",
    "id": "abc",
    "client": "127.0.0.1",
    "method": "GET",
    "target": "/policy?x",
    "status": 404,
    "duration_ms": 12.5,
    "sent_bytes": 7,
}


def at_least(kind: str, value: Any) -> dict[str, Any]:
    return {kind: {"comparison": {"op": "GE", "value": value}}}


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ({}, True),
        (at_least("status_code_filter", 400), True),
        (at_least("status_code_filter", {"default_value": 500, "runtime_key": "k"}), False),
        (at_least("duration_filter", 12), True),
        ({"status_code_filter": {"comparison": {"op": "EQ", "value": 404}}}, True),
        ({"status_code_filter": {"comparison": {"op": "LE", "value": 403}}}, False),
        ({**at_least("status_code_filter", 400), **at_least("duration_filter", 13)}, False),
        (
            {
                "or_filter": {
                    "filters": [at_least("duration_filter", 99), at_least("status_code_filter", 1)]
                }
            },
            True,
        ),
        ({"and_filter": {"filters": [{}, at_least("duration_filter", 99)]}}, False),
    ],
)
def test_filters_say_which_requests_are_logged(written: Any, taken: bool) -> None:
    assert Filter.model_validate(written).takes(LINE) is taken


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (DEFAULT, '[2026-01-01T00:00:00.000+00:00] "GET /policy?x" 404 12.5 -'),
        ("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %%", "/policy?x %"),
        (
            {"code": "%RESPONSE_CODE%", "agent": "%REQ(User-Agent)%"},
            '{"code": "404", "agent": "-"}',
        ),
    ],
)
def test_formats_are_envoys(text: Any, line: str) -> None:
    assert rendered(text, LINE) == line


def test_a_client_makes_no_lines_of_its_own() -> None:
    assert rendered("%REQ(:PATH)%", {"target": "/a\r\nb\x7f"}) == r"/a\x0d\x0ab\x7f"


def test_lines_are_told_in_whatever_pieces_they_come(caplog: pytest.LogCaptureFixture) -> None:
    config = Logging.model_validate({"name": "pieces", "format": "%RESPONSE_CODE%"})
    lines = Lines(config, logging.getLogger("pieces"))
    data = b"".join(json.dumps(LINE | {"status": n}).encode() + b"\n" for n in (200, 201, 202))
    with caplog.at_level(logging.INFO, "pieces"):
        for at in range(len(data)):
            lines.feed(data[at : at + 1])
        lines.feed(b'{"cut": \n' + data)
    assert [record.message for record in caplog.records] == ["200", "201", "202"] * 2


async def test_what_comes_out_of_the_pipe_is_in_the_file_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    config = Logging.model_validate(
        {"name": "piped", "config": {"path": str(file), "format": "%RESPONSE_CODE%"}}
    )
    with trio.fail_after(30):
        async with following(tmp_path / "pipe", config):
            for status in range(100, 600):
                line = json.dumps(LINE | {"status": status}).encode()
                writer = os.open(tmp_path / "pipe", os.O_WRONLY)
                await trio.to_thread.run_sync(os.write, writer, line + b"\n")
                os.close(writer)
    assert file.read_text().split() == [str(status) for status in range(100, 600)]
    assert not (tmp_path / "pipe").exists()
    assert not logging.getLogger("piped").handlers
