import os

import pytest

from bench import backend, proxy_kill, proxy_rates
from bench.client import AnswerFailed
from bench.open_load import Sent
from bench.proxy_rates import PARTS, RATES


def test_what_a_hop_adds_is_compared_round_by_round() -> None:
    found = proxy_rates.Found()
    for rate in RATES:
        for part in PARTS:
            for hop, seconds in {"direct": 1.0, "myxo": 1.3, "envoy": 1.2}.items():
                found.latency_s[rate, part][hop] += [seconds, seconds + 1]
    found.peak |= {"direct": [100.0], "myxo": [20.0], "envoy": [40.0]}
    figures, text = proxy_rates.report_of(found)
    assert figures["rps_ratio_envoy"] == pytest.approx(0.5)
    assert figures["added_p50_ratio_envoy"] == pytest.approx(1.5)
    assert figures["added_p99_ratio_envoy_5000"] == pytest.approx(1.5)
    assert figures["added_p50_ms"] == pytest.approx(300)
    assert "rps_ratio_direct" not in figures
    assert "| envoy" in text


def test_failures_count_always_and_latencies_in_the_seconds_around_the_kill() -> None:
    found = proxy_kill.Found()
    found.take(
        [Sent(0.1, 1.0, 200), Sent(1.5, 2.0, 200), Sent(2.5, 3.0, 0), Sent(3.5, 4.0, 503)], 2.0
    )
    assert (found.kills, found.requests) == (1, 4)
    assert [one.status for one in found.failed] == [0, 503]
    assert (found.before_s, found.after_s) == ([2.0], [3.0])


def test_the_process_behind_an_address_is_found() -> None:
    with backend.serving() as port:
        assert proxy_kill.process_at(f"127.0.0.1:{port}") != os.getpid()
    with pytest.raises(AnswerFailed, match="no process"):
        proxy_kill.process_at("127.0.0.1:1")
