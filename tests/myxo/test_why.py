from typing import Any

from myxo.why import as_text

ROW = {
    "instance": "i1",
    "host": "edge-1",
    "state": "ready",
    "rtt_s": 0.002,
    "in_flight": 1,
    "concurrency": 1,
    "service_time_s": 0.0,
    "expected_s": 0.002,
    "objection": "is full",
}
RANKING = {
    "sites": [
        {"host": "edge-2", "peer_id": "p", "cost_s": 0.14, "parts_s": {"rtt": 0.04, "start": 0.1}}
    ],
    "excluded": ["edge-3: takes no more instances"],
}
DECISION: dict[str, Any] = {
    "request_id": "abc-1",
    "at": 1_700_000_000.0,
    "service": "hello",
    "revision": 2,
    "caller": "web",
    "limits": {"soft_rtt_s": 0.005, "hard_rtt_s": None},
    "status": 200,
    "refusal": "",
    "chosen": {"instance": "i2", "host": "edge-2"},
    "road": "gateway",
    "candidates": [ROW],
    "events": [
        {
            "what": "start",
            "why": "all instances are full",
            "refused": ["edge-4: all memory is taken"],
            "chosen": "edge-2",
            "offers": {"edge-2": "1 start before it"},
            "ranking": RANKING,
        },
        {"what": "failure", "instance": "i1", "host": "edge-1", "reason": "it closed"},
        {"what": "wait", "seconds": 0.02},
    ],
    "phases": [{"phase": "select", "seconds": 0.001}],
}


def answer(about: str, *decisions: dict[str, Any], now: Any = None) -> list[dict[str, Any]]:
    return [{"about": about, "decisions": list(decisions), "now": now}]


def test_the_last_requests_are_a_line_each() -> None:
    (line,) = as_text(answer("", DECISION), "").splitlines()
    assert "abc-1  hello  200  1.0 ms  i2 on edge-2  (1 started)" in line
    assert as_text(answer(""), "") == "no requests yet"


def test_one_request_is_told_whole() -> None:
    text = as_text(answer("abc-1", DECISION), "abc-1")
    for part in (
        "asked for by web, soft limit 5 ms",
        "answered 200 by i2 on edge-2, gateway",
        "i1 on edge-1: RTT 2.00 ms, 1 of 1 in flight, expected 2.00 ms; is full",
        "start: all instances are full; started on edge-2",
        "edge-2: costs 140.0 ms (rtt 40.0, start 100.0)",
        "not edge-3: takes no more instances",
        "edge-2 offered 1 start before it",
        "refused by edge-4: all memory is taken",
        "failed: i1 on edge-1: it closed",
        "waited 20.0 ms for room",
        "time: select 1.0 ms",
    ):
        assert part in text


def test_a_refusal_says_why() -> None:
    refused = DECISION | {"refusal": "hello runs nowhere\n  edge-1: full", "status": 503}
    assert "answered 503: hello runs nowhere" in as_text(answer("abc-1", refused), "abc-1")
    assert "hello runs nowhere" in as_text(answer("", refused), "")


def test_a_service_is_told_with_what_would_happen_now() -> None:
    now = {
        "service": "hello",
        "revision": 2,
        "limits": {"soft_rtt_s": None, "hard_rtt_s": None},
        "usable": 0,
        "candidates": [],
        "ranking": RANKING,
    }
    text = as_text(answer("hello", now=now), "hello")
    assert "instances: none" in text
    assert "asked in this order:\n    edge-2: costs" in text
    nowhere = now | {"ranking": {"sites": [], "excluded": ["edge-3: takes no more instances"]}}
    assert "answered 503" in as_text(answer("hello", now=nowhere), "hello")
    gone = {"service": "hello", "deleted": True}
    assert "404" in as_text(answer("hello", now=gone), "hello")
