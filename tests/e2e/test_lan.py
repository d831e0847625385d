"""A network over several hosts, made by the commands that a person types on each."""

import shlex
import sys
import time
from functools import partial
from typing import Any

import pytest

from bench.netlab.testing import within
from tests.e2e.steps import join_line, status

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(600)]

SEEN_TIMEOUT_S = 180.0

SERVER = f"exec {shlex.quote(sys.executable)} -u -c " + shlex.quote(
    "import os,time,http.server as h\n"
    "class H(h.BaseHTTPRequestHandler):\n"
    "  protocol_version='HTTP/1.1'\n"
    "  def do_GET(self):\n"
    "    path,_,file=self.path.partition('?')\n"
    "    while path=='/wait' and not os.path.exists(file): time.sleep(0.05)\n"
    "    body=('hello '+self.path+'\\n').encode()\n"
    "    self.send_response(200); self.send_header('Content-Length',str(len(body)))\n"
    "    self.end_headers(); self.wfile.write(body)\n"
    "  def log_message(self,*a): pass\n"
    "h.ThreadingHTTPServer(('127.0.0.1',int(os.environ['SERVICE_PORT'])),H).serve_forever()\n"
)


def test_three_hosts_join_by_the_printed_line_and_each_reaches_a_service_by_name(lan: Any) -> None:
    first, second, third = lan.host(), lan.host(), lan.host()
    up = first.start("myxo", "up", "--runtime", "process", "--hostname", "first")
    join = join_line(up)
    assert f"/ip4/{first.address}/tcp/4001/p2p/" in join[2]
    for name, host in (("second", second), ("third", third)):
        host.start(*join, "--runtime", "process", "--hostname", name)
    first.run("registry-cli", "add", "--process", SERVER, "hello")

    answers = [first.run("curl", "-sS", "127.0.0.1:4200/hello/x?q=1")]
    for host in (second, third):
        within(SEEN_TIMEOUT_S, partial(_sees_one, host), "it sees the first host's instance")
        answers.append(host.run("curl", "-sS", "127.0.0.1:4200/hello/x?q=1"))
    assert {a.split()[1] for a in answers} == {"/x?q=1"}
    within(SEEN_TIMEOUT_S, lambda: len(status(third)["peers"]) == 7, "the third sees every daemon")
    seen = status(third)
    assert [i["service"] for i in seen["instances"]] == ["hello"], "three hosts share one start"
    assert all(p["rtt_s"] is not None for p in seen["peers"])


def test_a_host_whose_cable_is_pulled_gets_no_new_request_after_three_seconds(lan: Any) -> None:
    first, second, third = lan.host(), lan.host(), lan.host()
    join = join_line(first.start("myxo", "up", "--runtime", "process", "--hostname", "first"))
    for name, host in (("second", second), ("third", third)):
        host.start(*join, "--runtime", "process", "--hostname", name)
    first.run("registry-cli", "add", "--process", SERVER, "hello")
    second.run("curl", "-sS", "--fail", "127.0.0.1:4200/hello/")
    within(SEEN_TIMEOUT_S, partial(_sees_one, third), "the third host sees the instance")
    third.run("curl", "-sS", "--fail", "127.0.0.1:4200/hello/")
    owner = status(third)["instances"][0]["host"]
    victim, witness = (second, third) if owner == "second" else (first, third)
    assert owner != "third"

    victim.cut()
    began = time.monotonic()
    answered = witness.run("curl", "-sS", "--fail", "-m", "20", "127.0.0.1:4200/hello/")
    took = time.monotonic() - began
    assert answered
    assert took < 15, "the request waited for the dead machine"
    within(SEEN_TIMEOUT_S, lambda: owner not in _hosts(witness), "it is out of the view")


def test_a_request_under_way_when_the_cable_is_pulled_is_answered_elsewhere(lan: Any) -> None:
    first, second, third = lan.host(), lan.host(), lan.host()
    join = join_line(first.start("myxo", "up", "--runtime", "process", "--hostname", "first"))
    second.start(*join, "--runtime", "process", "--hostname", "second")
    third.start(*join, "--runtime", "process", "--hostname", "third")
    first.run("registry-cli", "add", "--process", SERVER, "hello")
    second.run("curl", "-sS", "--fail", "127.0.0.1:4200/hello/")
    within(SEEN_TIMEOUT_S, lambda: _hosts(third) == {"second"}, "the third host sees the instance")
    go = lan.folder / "go"
    url = f"127.0.0.1:4200/hello/wait?{go}"
    with third.running_command("curl", "-sS", "--fail", "-m", "90", url) as slow:
        within(SEEN_TIMEOUT_S, lambda: _in_flight(second) == 1, "the request is under way")
        second.cut()
        go.touch()
        answered, _ = slow.communicate(timeout=90)
    assert answered.decode() == f"hello /wait?{go}\n"
    assert _hosts(third) != {"second"}


def _in_flight(host: Any) -> int:
    return sum(i["in_flight"] for d in status(host)["daemons"] for i in d.get("own_instances", []))


def _sees_one(host: Any) -> bool:
    return len(status(host)["instances"]) == 1


def _hosts(host: Any) -> set[str]:
    return {i["host"] for i in status(host)["instances"]}


def test_a_host_with_a_wrong_passphrase_is_told_so_in_one_line(lan: Any) -> None:
    first, second = lan.host(), lan.host()
    join = join_line(first.start("myxo", "up", "--runtime", "process"))
    join[join.index("--psk") + 1] = "wrong"
    refused = second.try_run(*join, "--runtime", "process")
    assert refused.returncode == 1
    assert "passphrase" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_installed_units_run_what_they_say(lan: Any) -> None:
    first, second = lan.host(), lan.host()
    join = join_line(first.start("myxo", "up", "--runtime", "process", "--hostname", "first"))
    root = second.folder / "root"
    second.run(
        "myxo",
        "install",
        *join[1:],
        "--runtime",
        "process",
        "--root",
        str(root),
        "--state-dir",
        str(second.folder / "state"),
        "--hostname",
        "second",
    )
    units = sorted(p.name for p in (root / "etc/systemd/system").iterdir())
    assert units == ["myxo-allocator.service", "myxo-proxy.service"]
    environment = second.folder / "state" / "myxo.env"
    assert environment.stat().st_mode & 0o777 == 0o600
    psk = environment.read_text().strip()
    for unit in units:
        text = (root / "etc/systemd/system" / unit).read_text()
        assert join[join.index("--psk") + 1] not in text, "the passphrase is not in the unit"
        started = next(line for line in text.splitlines() if line.startswith("ExecStart="))
        second.start("env", psk, *shlex.split(started.removeprefix("ExecStart=")))
    within(SEEN_TIMEOUT_S, lambda: len(status(first)["peers"]) == 5, "both daemons are members")
