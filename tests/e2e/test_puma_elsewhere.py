"""A program on one machine joins the network of another by what its configuration says."""

import sys
from typing import Any

import pytest

from tests.e2e.steps import join_line

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(600)]

PROGRAM = """\
from myxo.puma import puma_config, puma_service, puma_start, request


def greet():
    return "good day, " + request.values["name"]


puma_config({{
    "puma_services": {{"greet": "/greet"}},
    "network": {{"bootstraps": [{bootstrap!r}], "psk": {psk!r}}},
}})
puma_service(greet)
puma_start()
"""
CURL = ("curl", "-sS", "--fail", "-m", "60", "-G", "-d", "name=Ada")


def test_its_services_are_the_networks_while_it_runs(lan: Any) -> None:
    first, second = lan.host(), lan.host()
    line = join_line(first.start("myxo", "up", "--runtime", "process", "--hostname", "first"))
    program = second.folder / "service.py"
    psk = line[line.index("--psk") + 1]
    program.write_text(PROGRAM.format(bootstrap=line[2], psk=psk))

    printed = second.start(sys.executable, str(program))
    assert "http://localhost:8080/greet  greet" in printed
    assert second.run(*CURL, "localhost:8080/greet") == "good day, Ada"
    listed = first.run("registry-cli", "list")
    name = next(word for word in listed.split() if word.startswith("service-greet-"))
    assert first.run(*CURL, f"127.0.0.1:4200/{name}/") == "good day, Ada"

    second.stop()
    assert name not in first.run("registry-cli", "list")


def test_a_network_that_does_not_answer_is_said(lan: Any) -> None:
    first, second = lan.host(), lan.host()
    peer = second.run("myxo", "key", "show").split()[0]
    program = second.folder / "service.py"
    address = f"/ip4/{first.address}/tcp/4001/p2p/{peer}"
    program.write_text(PROGRAM.format(bootstrap=address, psk="a passphrase"))
    done = second.try_run(sys.executable, str(program))
    assert done.returncode == 1
    assert first.address in done.stderr.splitlines()[-1]
