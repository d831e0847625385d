"""The routing table as its user works it: commands, the shell, and a proxy that restarts."""

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import httpx
import pytest

pytestmark = pytest.mark.slow


class Target(BaseHTTPRequestHandler):
    """Answers with the port that it listens at, and the Host that it was called by."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = cast("ThreadingHTTPServer", self.server)
        body = f"{server.server_port} {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def targets() -> Iterator[list[str]]:
    """Two servers that have nothing to do with Myxo, as `host:port`."""
    with ExitStack() as stack:
        found: list[str] = []
        for _ in range(2):
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Target))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            found.append(f"127.0.0.1:{server.server_port}")
        yield found


def rtable(network: Any, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "myxo", "rtable", *arguments],
        env=network.daemons.environment,
        input=typed,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def asked(url: str) -> str:
    with httpx.Client(timeout=30) as client:
        return client.get(url).text


def test_requests_go_where_the_machines_user_says_until_told_otherwise(
    daemons: Any, make_network: Any, targets: list[str]
) -> None:
    network = make_network(daemons)
    network.found("process")
    name = network.add_echo_process()
    url = network.url(name)
    discovered = asked(url)
    assert not any(discovered.startswith(t.split(":")[1]) for t in targets)

    done = rtable(network, "set", name, ",".join(targets), "1,2.5")
    assert done.stdout == f"ok {name}: {', '.join(targets)} at 1, 2.5\n", done.stderr
    answers = Counter(asked(url) for _ in range(35))
    assert answers == {f"{t.split(':')[1]} {t}": n for t, n in zip(targets, (10, 25), strict=True)}
    why = json.loads(rtable(network, "list", "--json").stdout)
    assert why[0]["records"][0]["weights"] == [1.0, 2.5]

    network.kill("proxy")
    network.restart("proxy")
    assert asked(url) in answers

    done = rtable(network, typed=f"unset {name}\nset elsewhere {targets[0]}\nlist\n")
    assert done.returncode == 0, done.stderr
    assert f"elsewhere  {targets[0]}  1" in done.stdout
    assert asked(network.url("elsewhere")).endswith(targets[0])
    assert asked(url) not in answers

    own = f"127.0.0.1:{network.port()}"
    done = rtable(network, typed=f"set elsewhere {own}\nclear\n")
    assert done.returncode == 1
    assert "standard input, line 1" in done.stderr
    assert "this proxy itself" in done.stderr
    assert asked(network.url("elsewhere")).endswith(targets[0])
    network.no_traceback()
