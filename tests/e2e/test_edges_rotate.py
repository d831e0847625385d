"""The passphrase changes, and an edge of several processes goes on to reach other machines."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.netlab.testing import within
from tests.e2e.steps import join_line
from tests.e2e.test_envoy_elsewhere import PATIENCE_S, RAW, hosts_of

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(900)]

SHOWS = f"exec {shlex.quote(sys.executable)} {shlex.quote(str(RAW))}"
ASK = (
    "import collections,http.client,json,os,sys,time\n"
    "seen=collections.Counter()\n"
    "while not os.path.exists(sys.argv[1]):\n"
    "  try:\n"
    "    c=http.client.HTTPConnection('127.0.0.1',4200,timeout=60)\n"
    "    c.request('GET','/shows/'); r=c.getresponse(); r.read(); c.close()\n"
    "    seen[str(r.status)]+=1\n"
    "  except OSError as e: seen[repr(e)]+=1\n"
    "  with open(sys.argv[2],'w') as f: f.write(json.dumps(seen))\n"
    "  time.sleep(0.01)\n"
)
"""Asks on a connection each, until a file is there; says what came in another."""


def answered(file: Path) -> dict[str, int]:
    """Return how often which answer came."""
    try:
        found: dict[str, int] = json.loads(file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found


@pytest.mark.parametrize("flags", [("--workers", "3"), ("--engine", "envoy")])
def test_no_request_fails_while_the_passphrase_changes_nor_after_it(
    lan: Any, flags: tuple[str, str]
) -> None:
    first, second, edge = lan.host(), lan.host(), lan.host()
    join = join_line(first.start("myxo", "up", "--runtime", "process", "--hostname", "first"))
    second.start(*join, "--runtime", "process", "--hostname", "second")
    edge.start("proxy", *flags, "--bootstrap", *join[2:], "4200")
    first.run("registry-cli", "add", "--process", SHOWS, "shows")
    second.run("curl", "-sS", "--fail", "-m", "60", "127.0.0.1:4200/shows/")
    within(PATIENCE_S, lambda: hosts_of(edge, "shows") == {"second"}, "the edge sees the instance")
    over, seen = lan.folder / "over", lan.folder / "seen"

    def more(count: int) -> None:
        before = answered(seen).get("200", 0)
        within(PATIENCE_S, lambda: answered(seen).get("200", 0) >= before + count, "it goes on")

    with edge.running_command(sys.executable, "-c", ASK, str(over), str(seen)) as asking:
        more(50)
        printed = first.run("myxo", "psk", "rotate")
        more(50)
        assert answered(seen).keys() == {"200"}, answered(seen)
        # What is new knows nothing of the passphrase before, and gets connections anew.
        second.stop()
        second.start(*join_line(printed), "--runtime", "process", "--hostname", "second")
        more(50)
        within(PATIENCE_S, lambda: hosts_of(edge, "shows") != set(), "there is an instance")
        assert answered(seen).keys() <= {"200"}, answered(seen)
        over.touch()
        asking.wait(60)
