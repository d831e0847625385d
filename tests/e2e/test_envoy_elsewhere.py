"""An Envoy on one host, instances on others: it goes to their gateways by itself."""

import json
import re
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.netlab.testing import within
from tests.e2e.steps import join_line, status

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE_S = 60.0
RAW = Path(__file__).with_name("raw_server.py")
SHOWS = f"exec {shlex.quote(sys.executable)} {shlex.quote(str(RAW))}"
WAITS = f"exec {shlex.quote(sys.executable)} -u -c " + shlex.quote(
    "import os,time,http.server as h\n"
    "class H(h.BaseHTTPRequestHandler):\n"
    "  protocol_version='HTTP/1.1'\n"
    "  def do_GET(self):\n"
    "    path,_,file=self.path.partition('?')\n"
    "    while path.startswith('/wait') and not os.path.exists(file): time.sleep(0.05)\n"
    "    self.send_response(200); self.send_header('Content-Length','3')\n"
    "    self.end_headers(); self.wfile.write(b'ok\\n')\n"
    "  def log_message(self,*a): pass\n"
    "h.ThreadingHTTPServer(('127.0.0.1',int(os.environ['SERVICE_PORT'])),H).serve_forever()\n"
)


def envoy_of(host: Any) -> dict[str, Any]:
    """Return what the host's proxy says of its Envoy."""
    found: dict[str, Any] = next(d["envoy"] for d in status(host)["daemons"] if "envoy" in d)
    return found


def carried(host: Any, service: str) -> float:
    """Return how many requests Envoy took to a service's instances by itself."""
    text = host.run("curl", "-sS", "127.0.0.1:9103/metrics")
    labels = f'service="{service}"'
    found = re.search(rf"^myxo_proxy_envoy_requests_total{{{labels}}} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def ask(host: Any, path: str, *more: str) -> str:
    return str(host.run("curl", "-sS", "--fail", "-m", "60", *more, f"127.0.0.1:4200/{path}"))


def serves(edge: Any, service: str) -> bool:
    """Ask once; return whether Envoy went to an instance by itself."""
    ask(edge, f"{service}/")
    return service in envoy_of(edge)["serves"] and carried(edge, service) > 0


def hosts_of(host: Any, service: str) -> set[str]:
    return {i["host"] for i in status(host)["instances"] if i["service"] == service}


def in_flight(host: Any) -> int:
    return sum(i["in_flight"] for d in status(host)["daemons"] for i in d.get("own_instances", []))


@pytest.fixture
def network(lan: Any) -> tuple[Any, Any, Any]:
    """Two hosts with allocators, and an edge that has none and serves by Envoy."""
    first, second, edge = lan.host(), lan.host(), lan.host()
    printed = first.start("myxo", "up", "--runtime", "process", "--hostname", "first")
    join = join_line(printed)
    second.start(*join, "--runtime", "process", "--hostname", "second")
    edge.start("proxy", "--engine", "envoy", "--bootstrap", *join[2:], "4200")
    return first, second, edge


def test_envoy_goes_to_another_machine_by_itself(network: tuple[Any, Any, Any]) -> None:
    first, _, edge = network
    first.run("registry-cli", "add", "--process", SHOWS, "shows")
    within(PATIENCE_S, partial(serves, edge, "shows"), "Envoy serves it")
    before = carried(edge, "shows")
    heads = [ask(edge, "shows/x?y", "-H", "Myxo-Any-Of: forged/1") for _ in range(5)]
    within(PATIENCE_S, lambda: carried(edge, "shows") >= before + 5, "Envoy carried them")
    for head in heads:
        first_line, *lines = head.lower().splitlines()
        assert first_line == "get /x?y http/1.1"
        via = [line.partition(": ")[2] for line in lines if line.startswith("via: ")]
        assert ", ".join(via) == "1.1 myxo, 1.1 myxo-gateway"
        assert "x-forwarded-for: 127.0.0.1" in lines
        assert not [line for line in lines if line.startswith("myxo-")]
    answer = ask(edge, "shows/", "-o", "/dev/null", "-D", "-").lower()
    assert "myxo-in-flight" not in answer
    assert "1.1 myxo-gateway" in answer
    assert hosts_of(edge, "shows") <= {"first", "second"}
    assert len(status(first)["instances"]) == 1, "one start"


def test_what_is_under_way_is_counted_there_and_fails_over_when_the_cable_is_pulled(
    network: tuple[Any, Any, Any], lan: Any
) -> None:
    first, second, edge = network
    first.run("registry-cli", "add", "--process", WAITS, "waits")
    ask(second, "waits/")
    within(PATIENCE_S, lambda: hosts_of(edge, "waits") == {"second"}, "the edge sees the instance")
    within(PATIENCE_S, partial(serves, edge, "waits"), "Envoy serves it")
    before, go = carried(edge, "waits"), lan.folder / "go"
    url = f"127.0.0.1:4200/waits/wait?{go}"
    with edge.running_command("curl", "-sS", "--fail", "-m", "400", url) as slow:
        within(PATIENCE_S, lambda: in_flight(second) == 1, "the gateway counts it")
        within(PATIENCE_S, lambda: carried(edge, "waits") == before + 1, "it is Envoy's")
        second.cut()
        go.touch()
        answered, error = slow.communicate(timeout=400)
    assert answered == b"ok\n", error
    within(PATIENCE_S, lambda: "second" not in hosts_of(edge, "waits"), "it is out of the view")
    assert ask(edge, "waits/") == "ok\n"


def test_another_machine_is_used_when_all_instances_are_full(
    network: tuple[Any, Any, Any], lan: Any
) -> None:
    first, second, edge = network
    conf = first.folder / "conf.json"
    conf.write_text(json.dumps({"concurrency": 16, "max_instances": 2}))
    first.run("registry-cli", "add", "--conf", str(conf), "--process", WAITS, "narrow")
    ask(second, "narrow/")
    within(PATIENCE_S, lambda: hosts_of(edge, "narrow") == {"second"}, "the edge sees the instance")
    within(PATIENCE_S, partial(serves, edge, "narrow"), "Envoy serves it")
    go = lan.folder / "go"
    url = f"127.0.0.1:4200/narrow/wait/[1-18]?{go}"
    command = ("curl", "-sS", "--fail", "-Z", "--parallel-immediate", "--parallel-max", "18")
    with edge.running_command(*command, "-m", "400", url) as all_of_them:
        within(
            PATIENCE_S,
            lambda: sum(map(in_flight, (first, second))) == 18,
            "those that found no room are elsewhere",
        )
        assert len([i for i in status(edge)["instances"] if i["service"] == "narrow"]) == 2
        go.touch()
        answered, error = all_of_them.communicate(timeout=400)
    assert answered == b"ok\n" * 18, error


def test_an_instance_beyond_the_hard_limit_gets_nothing(network: tuple[Any, Any, Any]) -> None:
    first, second, edge = network
    conf = first.folder / "conf.json"
    conf.write_text(json.dumps({"NetworkHardReq": {"RTT": 0.001}}))  # no other machine is so near
    first.run("registry-cli", "add", "--conf", str(conf), "--process", SHOWS, "near")
    first.run("registry-cli", "add", "--process", SHOWS, "shows")
    ask(second, "near/")
    within(PATIENCE_S, lambda: hosts_of(edge, "near") == {"second"}, "the edge sees the instance")
    within(PATIENCE_S, partial(serves, edge, "shows"), "Envoy serves what has no limit")
    assert "near" not in envoy_of(edge)["serves"]
    code = ("-o", "/dev/null", "-w", "%{http_code}")
    assert edge.run("curl", "-sS", "-m", "60", *code, "127.0.0.1:4200/near/") == "503"
    assert carried(edge, "near") == 0
