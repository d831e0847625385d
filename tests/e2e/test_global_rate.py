"""A service's global rate limit over several hosts, and the end of the host that counts."""

import json
import shlex
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from overlay.names import PeerId, service_name
from overlay.rendezvous import ranked

pytestmark = [pytest.mark.netns, pytest.mark.timeout(600)]

RAW = Path(__file__).with_name("raw_server.py")
PER_S, BURST = 2, 4
HOSTS = ("first", "second", "third")

LOAD = """
import collections, json, sys, time
import httpx
seen, until = collections.Counter(), time.monotonic() + float(sys.argv[2])
with httpx.Client(timeout=60) as client:
    while time.monotonic() < until:
        seen[client.get(f"http://127.0.0.1:4200/{sys.argv[1]}/").status_code] += 1
        time.sleep(0.01)
print(json.dumps(seen))
"""


def asked(hosts: list[Any], service: str, seconds: float) -> Counter[str]:
    """Ask on each of the hosts for so long; return how often there was which status."""

    def ask(host: Any) -> Counter[str]:
        return Counter(json.loads(host.run(sys.executable, "-c", LOAD, service, str(seconds))))

    with ThreadPoolExecutor(len(hosts)) as pool:
        return sum(pool.map(ask, hosts), Counter[str]())


def test_hosts_share_a_rate_and_keep_to_it_when_the_host_that_counts_is_cut_off(lan: Any) -> None:
    first, second, third = hosts = [lan.host() for _ in HOSTS]
    printed = first.start("myxo", "up", "--runtime", "process", "--hostname", "first")
    join = shlex.split(next(line for line in printed.splitlines() if "myxo join" in line))
    for host, name in zip(hosts[1:], HOSTS[1:], strict=True):
        host.start(*join, "--runtime", "process", "--hostname", name)
    counters = {}
    for host in hosts:
        daemons = json.loads(host.run("myxo", "status", "--json"))["daemons"]
        (peer,) = (PeerId(d["peer_id"]) for d in daemons if d["role"] == "allocator")
        counters[peer] = host
    names = (service_name(f"limited{n}") for n in range(1000))
    service = next(name for name in names if counters[ranked(name, counters)[0]] is third)
    conf = first.folder / "limited.json"
    limit = {"per_s": PER_S, "burst": BURST}
    conf.write_text(json.dumps({"constraints": {"host": "first"}, "global_rate_limit": limit}))
    command = f"exec {sys.executable} {RAW}"
    first.run("registry-cli", "add", "--process", command, "--conf", str(conf), service)
    asked([first], service, 1)  # starts it

    seconds = 6.0
    seen = asked([first, second], service, seconds)
    assert set(seen) == {"200", "429"}, seen
    assert PER_S * seconds / 3 < seen["200"] <= 1.5 * PER_S * seconds + BURST, seen

    third.cut()
    seconds = 10.0  # in which the others find out, and another one begins to count
    seen = asked([first, second], service, seconds)
    assert set(seen) == {"200", "429"}, seen
    assert PER_S * seconds / 3 < seen["200"] <= 1.5 * PER_S * seconds + 3 * BURST, seen
