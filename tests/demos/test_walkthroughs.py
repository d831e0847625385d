"""The demos' scripts, as a new user starts them; the first is what `make demo` runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from overlay.testing_ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
RUNTIMES = ["process", pytest.param("docker", marks=pytest.mark.docker)]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_demo_shows_a_cold_and_a_warm_answer_and_stops(runtime: str) -> None:
    printed = run_demo("helloworld", runtime)
    assert printed.count("Hello, world") == 2, printed
    assert re.search(r"Server-Timing: .*start", printed, re.IGNORECASE), printed


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_web_demo_shows_one_page_of_three_services(runtime: str) -> None:
    printed = run_demo("web", runtime)
    pages = re.findall(r"<footer>from (\S+) ← (\S+) ← (\S+)</footer>", printed)
    assert len(pages) == 2, printed
    assert len(set(pages[0])) == 3, "each is an instance of its own"
    assert pages[0] == pages[1], "and the second page is from the same"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_sensors_demo_shows_many_readings_and_one_start_each(runtime: str) -> None:
    printed = run_demo("sensors", runtime, "--sensors", "12")
    assert "60 readings of 12 sensors were answered" in printed, printed


def run_demo(name: str, runtime: str, *flags: str) -> str:
    """Run a demo's script to its end; return what it printed."""
    proxy, p2p = free_ports(2)
    script = str(ROOT / "demos" / name / "demo.py")
    done = subprocess.run(
        [
            *(sys.executable, script, "--runtime", runtime, *flags),
            *("--proxy-port", str(proxy), "--p2p-listen-addr", f"127.0.0.1:{p2p}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"Runtime: {runtime}" in done.stdout
    assert "everything stopped in" in done.stdout
    return done.stdout
