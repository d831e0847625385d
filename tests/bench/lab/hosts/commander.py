"""Has h1 and h2 send 4 requests a second each, and prints as JSON lines what it is told of them.

It ends when its standard input does.
"""

import json
import sys
import threading
import time
from typing import Any

from bench.lab.connecting import connect
from bench.lab.load_hosts import Spawn

SERVICE, TRACES = sys.argv[1:]


def say(what: str, value: Any) -> None:
    sys.stdout.write(json.dumps({"at": time.time(), "what": what, "value": value}) + "\n")
    sys.stdout.flush()


enough = threading.Event()


def wait_for_end() -> None:
    sys.stdin.read()
    enough.set()


with connect(tell=say, traces=TRACES) as g:
    while len(g.hosts()) < 2:
        time.sleep(0.1)
    g.call(g.fleet.spawn, ".*", Spawn(SERVICE))
    g.call(g.fleet.rps, ".*", SERVICE, 4.0)
    say("sending", g.hosts())
    threading.Thread(target=wait_for_end, daemon=True).start()
    rates: dict[str, float] = {}
    while not enough.wait(0.2):
        if rates != (rates := {s.host: s.rps for s in g.info()}):
            say("rates", rates)
    g.call(g.fleet.rps, ".*", SERVICE, 0)
