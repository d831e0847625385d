"""Has h1 and h2 send 4 requests a second each, and prints as JSON lines what it is told of them."""

import json
import sys
import time
from typing import Any

from bench.lab.connecting import connect
from bench.lab.load_hosts import Spawn

SERVICE, SECONDS = sys.argv[1], float(sys.argv[2])


def say(what: str, value: Any) -> None:
    sys.stdout.write(json.dumps({"at": time.time(), "what": what, "value": value}) + "\n")
    sys.stdout.flush()


with connect(tell=say, traces=sys.argv[3]) as g:
    while len(g.hosts()) < 2:
        time.sleep(0.1)
    g.call(g.fleet.spawn, ".*", Spawn(SERVICE))
    g.call(g.fleet.rps, ".*", SERVICE, 4.0)
    say("sending", g.hosts())
    end = time.monotonic() + SECONDS
    rates: dict[str, float] = {}
    while time.monotonic() < end:
        if rates != (rates := {s.host: s.rps for s in g.info()}):
            say("rates", rates)
        time.sleep(0.2)
    g.call(g.fleet.rps, ".*", SERVICE, 0)
