"""The routing table as its user works it: commands, the shell, and a proxy that restarts."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.targets import Target, two_targets

pytestmark = pytest.mark.slow


class NamedTarget(Target):
    """Answers with the Host that it was called by, too."""

    protocol_version = "HTTP/1.1"

    def text(self) -> str:
        return f"{self.port} {self.headers['Host']}"


@pytest.fixture
def targets() -> Iterator[list[str]]:
    """Two servers that have nothing to do with Myxo, as `host:port`."""
    with two_targets(NamedTarget) as found:
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
