"""What Python programs have becomes services of a whole network."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow

TIMEOUT_S = 120.0
MODULES = Path(__file__).parents[1] / "myxo" / "serving"


def serve(network: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "myxo", "serve", *arguments],
        cwd=MODULES,
        env=network.program_environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_what_a_module_marks_is_served_on_demand(process_network: Any) -> None:
    done = serve(process_network, "served", "--name", "greeting")
    assert (done.stdout, done.stderr) == ("serving greeting, needs pydantic>=2\n", "")
    answer = httpx.post(process_network.url("greeting"), json="you", timeout=TIMEOUT_S)
    assert (answer.status_code, answer.json()) == (200, "hello, you")


def test_an_application_is_served_on_demand(process_network: Any) -> None:
    done = serve(process_network, "served:wsgi", "--name", "plain")
    assert (done.stdout, done.stderr) == ("serving plain\n", "")
    answer = httpx.get(process_network.url("plain", "/a/b"), timeout=TIMEOUT_S)
    assert (answer.status_code, answer.text) == (200, "GET/a/b")


def test_what_its_machine_lacks_is_told_to_who_asks(process_network: Any) -> None:
    done = serve(process_network, "served:wsgi", "--name", "needy", "--requires", "nowhere>=1")
    assert done.stdout == "serving needy, needs nowhere>=1\n"
    answer = httpx.get(process_network.url("needy"), timeout=TIMEOUT_S)
    assert answer.status_code in {503, 504}
    assert "this machine's environment lacks nowhere>=1" in answer.text


def test_what_is_not_there_is_said(process_network: Any) -> None:
    done = serve(process_network, "served:nothing")
    assert done.returncode == 1
    assert "the module served has no nothing" in done.stderr
