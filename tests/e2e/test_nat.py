"""Daemons behind routers that translate addresses, on the host lab.

Every host behind a router has the same inside address, as it is in homes; what was not asked for
does not get in.
"""

import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.netlab.hosts import Daemon, Host
from bench.netlab.testing import MakeLab, within

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
SEEN_TIMEOUT_S = 180.0

SECRET = {"P2P_PSK": "a passphrase for this test"}
DELAY_MS = 10
"""One way; a relay that is as far from both makes 40 ms there and back of it."""

BIG = 3_000_000
SERVER = f"exec {shlex.quote(sys.executable)} -u -c " + shlex.quote(
    "import os,http.server as h\n"
    "class H(h.BaseHTTPRequestHandler):\n"
    "  protocol_version='HTTP/1.1'\n"
    "  def do_GET(self):\n"
    "    self.answer(b'x'*int(self.path[1:] or 1))\n"
    "  def do_POST(self):\n"
    "    self.answer(self.rfile.read(int(self.headers['Content-Length'])))\n"
    "  def answer(self,body):\n"
    "    self.send_response(200); self.send_header('Content-Length',str(len(body)))\n"
    "    self.end_headers(); self.wfile.write(body)\n"
    "  def log_message(self,*a): pass\n"
    "h.ThreadingHTTPServer(('127.0.0.1',int(os.environ['SERVICE_PORT'])),H).serve_forever()\n"
)


@dataclass
class Site:
    """A bootstrap node and a registry that all can dial, an allocator and a proxy that none can."""

    cloud: Host
    home: Host
    desk: Host
    address: str = ""
    running: dict[str, Daemon] = field(default_factory=dict)

    def start(self, host: Host, *command: str) -> None:
        """Start a daemon; it is known by its command's name."""
        joined = ("--bootstrap", self.address) if self.address else ()
        self.running[command[0]] = host.start([*command, *joined], environment=SECRET)

    def curl(self, *arguments: str) -> str:
        """Return what the proxy answers."""
        command = ["curl", "-sS", "--fail", "-m", "30", *arguments]
        return self.desk.run(command, timeout_s=40).stdout

    def status(self, host: Host) -> dict[str, Any]:
        """Return what the one daemon of a host says."""
        said = host.run(["myxo", "status", "--json"], environment=SECRET).stdout
        return dict(json.loads(said))

    def relayed(self) -> bool:
        """Whether the proxy is connected with the allocator through a relay and not directly."""
        peers = self.status(self.desk)["peers"]
        (allocator,) = [peer for peer in peers if peer["role"] == "allocator"]
        return bool(allocator["relayed"])

    def addresses(self) -> list[str]:
        """Return what the allocator publishes."""
        (allocator,) = self.status(self.home)["daemons"]
        return list(allocator["addresses"])


@pytest.fixture
def site(lab: MakeLab) -> Callable[[str], Site]:
    """Start everything behind routers of one kind."""

    def make(nat: str) -> Site:
        hosts = [
            {"name": "cloud"},
            {"name": "home", "nat": nat},
            {"name": "desk", "nat": nat},
        ]
        cloud, home, desk = lab(hosts=hosts, default={"delay_ms": DELAY_MS}).hosts
        made = Site(cloud, home, desk)
        made.start(made.cloud, "bootstrap")
        printed = made.running["bootstrap"].printed().splitlines()
        made.address = next(line for line in printed if line.startswith(f"/ip4/{made.cloud.ip}/"))
        made.start(made.cloud, "registry-service")
        key = made.cloud.run(["myxo", "key", "show"]).stdout.strip()
        made.start(made.home, "allocator", "--runtime", "process", "--admin", key)
        made.start(made.desk, "proxy")
        add = ["registry-cli", "--bootstrap", made.address, "add", "--process", SERVER, "echo"]
        made.cloud.run(add, environment=SECRET)
        within(
            SEEN_TIMEOUT_S,
            lambda: any("/p2p-circuit" in one for one in made.addresses()),
            "the allocator finds out that nobody can dial it",
        )
        return made

    return make


def test_an_instance_behind_a_home_router_serves_a_proxy_behind_another_one_directly(
    site: Callable[[str], Site],
) -> None:
    there = site("cone")
    assert there.curl("127.0.0.1:4200/echo/5") == "xxxxx"
    within(SEEN_TIMEOUT_S, lambda: not there.relayed(), "the two get through to each other")
    assert len(there.curl(f"127.0.0.1:4200/echo/{BIG}")) == BIG
    for name in ("bootstrap", "registry-service"):  # which relayed
        there.running[name].process.kill()
        there.running[name].process.wait()
    time.sleep(3)  # and are found dead
    assert there.curl("127.0.0.1:4200/echo/7") == "xxxxxxx"
    no_traceback(there)


def test_where_no_hole_can_be_punched_the_relay_carries_everything(
    site: Callable[[str], Site],
) -> None:
    there = site("symmetric")
    assert there.curl("127.0.0.1:4200/echo/5") == "xxxxx"
    assert len(there.curl(f"127.0.0.1:4200/echo/{BIG}")) == BIG
    sent = "y" * 100_000
    (there.desk.folder / "sent").write_text(sent)
    posted = f"@{there.desk.folder / 'sent'}"
    assert there.curl("--data-binary", posted, "127.0.0.1:4200/echo/") == sent
    assert there.relayed()
    no_traceback(there)


def test_a_websocket_over_a_relay_carries_messages_both_ways_to_an_orderly_end(
    site: Callable[[str], Site],
) -> None:
    there = site("symmetric")
    server = f"exec {shlex.join([sys.executable, str(HERE / 'websocket_server.py')])}"
    add = ["registry-cli", "--bootstrap", there.address, "add", "--process", server, "chat"]
    there.cloud.run(add, environment=SECRET)
    within(
        SEEN_TIMEOUT_S, lambda: "404" not in asked(there, "chat"), "the proxy hears of the service"
    )
    client = [sys.executable, str(HERE / "websocket_client.py"), "ws://127.0.0.1:4200/chat/"]
    sizes = [1, 125, 70_000, 900_000, 3]
    done = there.desk.run([*client, *map(str, sizes)])
    assert json.loads(done.stdout) == {"said": ["hello", *[True] * 5], "closed": [1000, "done"]}
    assert there.relayed()
    no_traceback(there)


def asked(there: Site, service: str) -> str:
    """Return the status that a request for a service gets, which starts it."""
    command = ["curl", "-s", "-m", "30", "-o", "/dev/null", "-w", "%{http_code}"]
    return there.desk.run([*command, f"127.0.0.1:4200/{service}/"], timeout_s=40).stdout


def test_a_hidden_machine_is_within_reach_again_when_its_relays_have_restarted(
    site: Callable[[str], Site],
) -> None:
    there = site("symmetric")
    assert there.curl("127.0.0.1:4200/echo/5") == "xxxxx"
    there.running["bootstrap"].process.kill()
    there.running["bootstrap"].process.wait()
    within(SEEN_TIMEOUT_S, lambda: answers(there), "the registry relays in its place")
    first, there.address = there.address, ""
    there.start(there.cloud, "bootstrap")
    there.address = first
    there.running["registry-service"].process.kill()
    there.running["registry-service"].process.wait()
    within(SEEN_TIMEOUT_S, lambda: answers(there), "the new bootstrap node relays")
    no_traceback(there)


def answers(there: Site) -> bool:
    """Whether a request is answered now."""
    done = there.desk.run(["curl", "-sS", "-m", "10", "127.0.0.1:4200/echo/5"], check=False)
    return done.stdout == "xxxxx"


def no_traceback(there: Site) -> None:
    """Fail if a daemon has met a bug."""
    for name, daemon in there.running.items():
        text = daemon.printed()
        at = text.find("Traceback")
        assert at < 0, f"{name}:\n{text[max(0, at - 500) : at + 3000]}"
