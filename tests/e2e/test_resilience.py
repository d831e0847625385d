"""Services in trouble, or in too much demand, through real proxies and real instances."""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow

SERVER = Path(__file__).with_name("moody_server.py")
TIMEOUT_S = 60.0

Add = Callable[..., str]


@pytest.fixture
def add(process_network: Any, tmp_path: Path) -> Add:
    """`add(timeout_s=1)` registers a service and returns where a proxy answers for it.

    Its instances begin to listen when there is the file `after`.
    """

    def added(*, after: Path | None = None, **fields: Any) -> str:
        name = process_network.name("moody")
        conf = tmp_path / f"{name}.json"
        conf.write_text(json.dumps({"env": {"FOLDER": str(tmp_path)}, **fields}))
        waits = "" if after is None else f"until [ -e {after} ]; do sleep 0.02; done; "
        command = f"{waits}exec {sys.executable} {SERVER}"
        process_network.registry_cli("add", "--conf", str(conf), "--process", command, name)
        return str(process_network.url(name, ""))

    return added


def get(url: str, **headers: str) -> httpx.Response:
    return httpx.get(url, timeout=TIMEOUT_S, headers=headers)


def at_once(url: str, number: int) -> list[httpx.Response]:
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(get, [url] * number))


def two_instances(url: str) -> dict[int, int]:
    """Have two instances answer, and return their process ids by number."""
    found: dict[int, int] = {}
    deadline = time.monotonic() + TIMEOUT_S
    while len(found) < 2:
        assert time.monotonic() < deadline, found
        for answer in at_once(f"{url}/wait?0.3", 4):
            assert answer.status_code == 200, answer.text
            found[answer.json()["number"]] = answer.json()["pid"]
    return found


def test_an_instance_that_fails_is_left_alone(add: Add) -> None:
    url = add(concurrency=2, eject_after=3, idle_pause_s=0)
    two_instances(url)
    with httpx.Client(timeout=TIMEOUT_S) as client:  # quick: it is tried again in some seconds
        statuses = Counter(client.get(f"{url}/flaky").status_code for _ in range(60))
    assert statuses == {500: 3, 200: 57}


def test_an_instance_that_hangs_is_overtaken(add: Add) -> None:
    url = add(concurrency=2, hedge_ms=50, idle_pause_s=0)
    two_instances(url)
    with httpx.Client(timeout=20) as client:
        answers = [client.get(f"{url}/hang") for _ in range(4)]
    assert {a.status_code for a in answers} == {200}
    assert 0 not in {a.json()["number"] for a in answers}


def test_a_killed_instance_costs_no_request(add: Add, stream: Any) -> None:
    url = add(concurrency=2, idle_pause_s=0)
    pids = two_instances(url)
    with stream(f"{url}/") as seen:
        seen.await_more(20)
        os.kill(pids[0], signal.SIGKILL)
        seen.await_more(50)
    assert seen.failed == []
    assert seen.statuses() == {200}


def test_an_instance_that_fails_its_health_checks_is_replaced(add: Add, tmp_path: Path) -> None:
    url = add(health="/health", health_interval_s=0.2, health_failures=2, idle_pause_s=0)
    first = get(url).json()["number"]
    (tmp_path / f"sick-{first}").touch()
    deadline = time.monotonic() + TIMEOUT_S
    while (answer := get(url)).json()["number"] == first:
        assert answer.status_code == 200, "it serves as long as there is no other"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert answer.status_code == 200


def test_more_than_may_be_under_way_are_refused_with_the_reason(add: Add) -> None:
    bounded = add(max_in_flight=2)
    assert get(bounded).status_code == 200
    answers = at_once(f"{bounded}/wait?2", 6)
    assert Counter(a.status_code for a in answers) == {200: 2, 503: 4}
    refused = next(a for a in answers if a.status_code == 503)
    assert "max_in_flight" in refused.text
    assert refused.headers["Retry-After"] == "1"


def test_more_than_may_wait_for_a_start_are_refused_with_the_reason(
    add: Add, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    cold = add(max_pending=3, after=go)
    with ThreadPoolExecutor(12) as pool:
        answers = as_completed([pool.submit(get, cold) for _ in range(12)])
        refused = [next(answers).result() for _ in range(9)]
        go.touch()
        served = [answer.result() for answer in answers]
    assert {a.status_code for a in refused} == {503}
    assert all("max_pending" in a.text for a in refused)
    assert [a.status_code for a in served] == [200] * 3


@pytest.mark.parametrize("limit", ["rate_limit", "client_rate_limit"])
def test_over_a_rate_a_client_is_told_when_to_come_again(add: Add, limit: str) -> None:
    url = add(**{limit: {"per_s": 0.01, "burst": 3}})
    answers = [get(url) for _ in range(5)]
    assert [a.status_code for a in answers] == [200] * 3 + [429] * 2
    assert 90 <= int(answers[-1].headers["Retry-After"]) <= 100
    assert limit in answers[-1].text


def test_two_proxies_share_one_global_rate(add: Add, process_network: Any) -> None:
    other = process_network.join("other", "proxy", str(process_network.daemons.free_port()))
    assert other
    url = add(global_rate_limit={"per_s": 0.01, "burst": 6})
    name = url.rpartition("/")[2]
    urls = [url, process_network.url(name, "", "other")]
    statuses = [[get(one).status_code for one in urls] for _ in range(6)]
    assert statuses == [[200, 200]] * 3 + [[429, 429]] * 3


def test_deadlines_hold_and_are_passed_on(add: Add) -> None:
    url = add(timeout_s=20)
    told = get(url).json()["headers"]
    assert 0 < float(told["X-Request-Timeout"]) < 20
    begun = time.monotonic()
    answer = get(f"{url}/wait?30", **{"X-Request-Timeout": "0.5"})
    assert time.monotonic() - begun < 20
    assert answer.status_code == 504
    assert "within 0.5 s" in answer.text


def test_no_daemon_met_a_bug(process_network: Any) -> None:
    process_network.no_traceback()
