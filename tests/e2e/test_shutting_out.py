"""Bans and a change of the passphrase, on several hosts, by the commands that a person types."""

import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.netlab.testing import within
from tests.e2e.steps import join_line, status

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(600)]

SEEN_TIMEOUT_S = 180.0

SERVER = f"exec {shlex.quote(sys.executable)} -u -c " + shlex.quote(
    "import os,http.server as h\n"
    "class H(h.BaseHTTPRequestHandler):\n"
    "  protocol_version='HTTP/1.1'\n"
    "  def do_GET(self):\n"
    "    self.send_response(200); self.send_header('Content-Length','6')\n"
    "    self.end_headers(); self.wfile.write(b'hello\\n')\n"
    "  def log_message(self,*a): pass\n"
    "h.ThreadingHTTPServer(('127.0.0.1',int(os.environ['SERVICE_PORT'])),H).serve_forever()\n"
)

ASK = (
    "import collections,http.client,os,sys,time\n"
    "seen=collections.Counter()\n"
    "while not os.path.exists(sys.argv[1]):\n"
    "  try:\n"
    "    c=http.client.HTTPConnection('127.0.0.1',4200,timeout=10)\n"
    "    c.request('GET','/hello/'); r=c.getresponse(); r.read(); c.close()\n"
    "    seen[str(r.status)]+=1\n"
    "  except OSError as e: seen[type(e).__name__]+=1\n"
    "  time.sleep(0.01)\n"
    "import json; print(json.dumps(seen))\n"
)
"""Asks for the service until a file is there; then tells how often it got which answer."""


def hosts_seen(host: Any) -> set[str]:
    return {p["host"] for p in status(host)["peers"]}


def psk_of(join: list[str]) -> str:
    return join[join.index("--psk") + 1]


def network_of_three(lan: Any) -> tuple[Any, Any, Any, list[str]]:
    first, second, third = lan.host(), lan.host(), lan.host()
    join = join_line(first.start("myxo", "up", "--runtime", "process", "--hostname", "first"))
    for name, host in (("second", second), ("third", third)):
        host.start(*join, "--runtime", "process", "--hostname", name)
    first.run("registry-cli", "add", "--process", SERVER, "hello")
    within(
        SEEN_TIMEOUT_S, lambda: len(status(third)["peers"]) == 7, "the third host sees everybody"
    )
    return first, second, third, join


def get(host: Any) -> str:
    answer: str = host.run("curl", "-sS", "-m", "10", "127.0.0.1:4200/hello/")
    return answer


def test_the_passphrase_changes_under_load_and_no_request_notices(lan: Any) -> None:
    first, second, third, join = network_of_three(lan)
    get(second)
    within(
        SEEN_TIMEOUT_S,
        lambda: len(status(third)["instances"]) == 1,
        "the third host sees the instance",
    )
    owner = status(third)["instances"][0]["host"]
    asker = third if owner != "third" else second
    over = lan.folder / "over"
    with asker.running_command(sys.executable, "-c", ASK, str(over)) as asking:
        time.sleep(1)
        printed = first.run("myxo", "psk", "rotate")
        time.sleep(2)
        over.touch()
        answers = json.loads(asking.communicate(timeout=30)[0])
    assert answers.keys() == {"200"}, answers
    assert answers["200"] > 50
    assert "prepared: 8 of 8 peers\nchanged: 8 of 8 peers\n" in printed

    new_join = join_line(printed)
    assert psk_of(new_join) != psk_of(join)
    assert (new_join[2], new_join[-1]) == (join[2], join[-1])
    for host in lan.hosts:
        kept = "".join(p.read_text() for p in (host.folder / "state").glob("*.toml"))
        assert psk_of(new_join) in kept
        assert psk_of(join) not in kept
    assert "hello" in first.run("registry-cli", "list")

    second.stop()
    second.start(*join, "--runtime", "process", "--hostname", "second")
    within(
        SEEN_TIMEOUT_S, lambda: "second" in hosts_seen(first), "a reboot with the old line joins"
    )
    assert get(second) == "hello\n"

    newcomer = lan.host()
    refused = newcomer.try_run(*join, "--runtime", "process")
    assert refused.returncode == 1
    assert "passphrase" in refused.stderr
    assert "Traceback" not in refused.stderr
    newcomer.start(*new_join, "--runtime", "process", "--hostname", "newcomer")
    assert get(newcomer) == "hello\n"


def test_a_host_without_cable_during_the_change_is_told_when_it_is_back(lan: Any) -> None:
    first, _, third, join = network_of_three(lan)
    thirds = {d["peer_id"] for d in status(third)["daemons"]}
    notes = first.folder / "state" / "roster"
    within(
        SEEN_TIMEOUT_S,
        lambda: all(t in p.read_text() for t in thirds for p in notes.glob("*.json")),
        "every daemon of the first host has noted whom it saw",
    )
    third.cut()
    within(SEEN_TIMEOUT_S, lambda: "third" not in hosts_seen(first), "the third host is missed")
    printed = first.run("myxo", "psk", "rotate")
    assert "prepared: 6 of 8 peers" in printed
    assert printed.count("  away     ") == 4, "two daemons, at both steps"
    third.mend()
    new = psk_of(join_line(printed))
    kept = third.folder / "state" / "network.toml"
    within(SEEN_TIMEOUT_S, lambda: new in kept.read_text(), "it has been told")
    within(SEEN_TIMEOUT_S, lambda: "third" in hosts_seen(first), "it is a member again")
    assert get(third) == "hello\n"
    assert psk_of(join) not in Path(kept).read_text()


def test_a_host_that_is_killed_in_the_middle_finishes_with_the_rest(lan: Any) -> None:
    first, second, third = lan.host(), lan.host(), lan.host()
    join = join_line(first.start("myxo", "up", "--runtime", "process", "--hostname", "first"))
    without_admin = join[: join.index("--admin")]
    second.start(*join, "--runtime", "process", "--hostname", "second")
    third.start(*without_admin, "--runtime", "process", "--hostname", "third")
    within(
        SEEN_TIMEOUT_S, lambda: len(status(first)["peers"]) == 7, "the first host sees everybody"
    )
    stopped = first.try_run("myxo", "psk", "rotate")
    assert stopped.returncode == 1
    assert stopped.stdout.count("  refuses  ") == 2
    assert "nothing is changed yet" in stopped.stderr
    assert "being changed" in second.run("myxo", "status")

    daemons = [d["pid"] for d in status(second)["daemons"]]
    for pid in (second.running[0].pid, *daemons):
        os.kill(pid, signal.SIGKILL)
    second.running[0].wait()
    third.stop()
    for name, host in (("second", second), ("third", third)):
        host.start(*join, "--runtime", "process", "--hostname", name)
    within(
        SEEN_TIMEOUT_S,
        lambda: len(status(first)["peers"]) == 7,
        "all are back, under the old passphrase",
    )
    printed = first.run("myxo", "psk", "rotate")
    assert "prepared: 8 of 8 peers\nchanged: 8 of 8 peers\n" in printed
    for host in lan.hosts:
        assert psk_of(join_line(printed)) in (host.folder / "state/network.toml").read_text()


def test_a_banned_host_is_cut_off_at_once_until_it_is_let_in_again(lan: Any) -> None:
    first, second, third, _ = network_of_three(lan)
    first.run("curl", "-sS", "--fail", "-m", "10", "127.0.0.1:4200/hello/")
    within(
        SEEN_TIMEOUT_S,
        lambda: len(status(third)["instances"]) == 1,
        "the third host sees the instance",
    )
    assert get(third) == "hello\n"

    printed = first.run("myxo", "ban", "third")
    assert printed.count("banned: ") == 2
    assert hosts_seen(first) == hosts_seen(second) == {"first", "second"}
    within(SEEN_TIMEOUT_S, lambda: hosts_seen(third) == {"third"}, "it is alone")
    assert get(second) == "hello\n"
    assert "third" in second.run("myxo", "bans")
    within(SEEN_TIMEOUT_S, lambda: "Banned from" in third.run("myxo", "status"), "it knows")

    refused = second.try_run("myxo", "unban", "third")
    assert refused.returncode == 1
    assert "only the network's admin" in refused.stderr

    first.run("myxo", "psk", "rotate")
    first.run("myxo", "unban", "third")
    time.sleep(3)
    assert "third" not in hosts_seen(first), "it has the old passphrase only"
    third.stop()
    third.start(*join_line(first.run("myxo", "psk", "rotate", "--resume")), "--runtime", "process")
    within(SEEN_TIMEOUT_S, lambda: get(third) == "hello\n", "it joined anew")
