import json
from random import Random
from typing import Any

import pytest

from bench.lab.errors import BadInput
from bench.lab.loading.har import read_har
from bench.lab.loading.plan import make_plan
from bench.lab.loading.target import target_of


def entry(at: str, url: str, **more: Any) -> dict[str, Any]:
    return {"startedDateTime": f"2026-01-01T00:00:{at}Z", "request": {"url": url} | more}


ENTRIES = [
    entry("01.500", "https://a.org/late", method="GET", headers=[]),
    entry(
        "00.250",
        "https://a.org/first?q=1",
        method="POST",
        headers=[
            {"name": ":authority", "value": "a.org"},
            {"name": "Content-Length", "value": "3"},
            {"name": "Accept", "value": "text/html"},
            {"name": "Accept", "value": "text/plain"},
        ],
        postData={"mimeType": "text/plain", "text": "abc"},
    ),
    entry("00.300", "https://cdn.org/x.js", method="GET"),
]


def har(entries: list[dict[str, Any]]) -> str:
    return json.dumps({"log": {"version": "1.2", "entries": entries}})


def test_requests_are_due_when_the_browser_sent_them() -> None:
    found = read_har(har(ENTRIES))
    assert found.notes == ["left out: 1 requests for https://cdn.org"]
    plan = make_plan(found.plan)
    assert list(plan.times(Random(0))) == [0.0, 1.25]
    messages = plan.messages(target_of(plan.target), explained=False)
    first, second = next(messages), next(messages)
    assert first.data.startswith(b"POST /first?q=1 HTTP/1.1\r\nHost: a.org\r\n")
    assert first.data.count(b"Accept: text/") == 2
    assert first.data.endswith(b"Content-Length: 3\r\n\r\nabc")
    assert second.data.startswith(b"GET /late ")


def test_another_origin_is_chosen() -> None:
    found = read_har(har(ENTRIES), "https://cdn.org/")
    assert found.plan["target"] == "https://cdn.org/"
    assert [one["path"] for one in found.plan["requests"]] == ["/x.js"]
    with pytest.raises(BadInput, match=r"it has https://a\.org, https://cdn\.org"):
        read_har(har(ENTRIES), "https://b.org")


@pytest.mark.parametrize("text", ["", "{}", '{"log": {"entries": []}}', har([{"request": {}}])])
def test_what_is_no_har_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no HAR"):
        read_har(text)
