"""A load host's cable is pulled, on the host lab: its load moves, and comes back with it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.netlab.testing import MakeLab, within

pytestmark = [pytest.mark.netns, pytest.mark.slow]

COMMANDER = Path(__file__).with_name("commander.py")
BUSY_S = 60
"""A lost host's load moves within seconds; the rest is for a busy machine's tests."""

SERVER = "import http.server; http.server.test(port=80)"
PSK = ("--psk", "words")


def told(path: Path, what: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["what"] == what]


def rates(path: Path) -> Any:
    """Return the rates that were told last."""
    return next((line["value"] for line in reversed(told(path, "rates"))), None)


def test_the_load_of_a_host_whose_cable_is_pulled_moves_and_comes_back(
    lab: MakeLab, tmp_path: Path
) -> None:
    net = lab(hosts=2)
    h1, h2 = net.hosts
    boot = h1.start(["myxo", "bootstrap", *PSK])
    address = next(line for line in boot.printed().splitlines() if line.startswith("/ip4"))
    network = ["--bootstrap", address, *PSK]
    # The same person's key on both, as on machines of one's own.
    key = (h1.folder / "config" / "owner.key", h2.folder / "config" / "owner.key")
    h1.start(["myxo", "lab", "host", *network])
    h1.run([sys.executable, "-c", "from myxo.mapping.owner import owner; owner()"])
    key[1].parent.mkdir(parents=True, exist_ok=True)
    key[1].write_text(key[0].read_text())
    key[1].chmod(0o600)
    h2.start(["myxo", "lab", "host", *network])
    h1.popen([sys.executable, "-c", SERVER], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    said, traces = tmp_path / "said", tmp_path / "traces.csv"
    with said.open("wb") as output:
        environment = {"P2P_BOOTSTRAPS": address, "P2P_PSK": "words"}
        command = [sys.executable, str(COMMANDER), f"http://{h1.address}", str(traces)]
        commander = h1.popen(
            command, environment=environment, stdin=subprocess.PIPE, stdout=output, stderr=output
        )
        within(BUSY_S, lambda: bool(told(said, "sending")), said.read_text)
        net.cut_host(h2)
        within(BUSY_S, lambda: bool(told(said, "load_host.lost")), said.read_text)
        within(BUSY_S, lambda: rates(said) == {"h1": 8.0}, said.read_text)
        net.heal(h2)
        within(BUSY_S, lambda: bool(told(said, "load_host.back")), said.read_text)
        within(BUSY_S, lambda: rates(said) == {"h1": 4.0, "h2": 4.0}, said.read_text)
        commander.communicate(timeout=BUSY_S)
        assert commander.returncode == 0, said.read_text()
    [lost] = told(said, "load_host.lost")
    assert "its 4 requests/s" in lost["value"]
    assert lost["value"].endswith("now sent by h1")
    by = {line.split(",")[3] for line in traces.read_text().splitlines()[1:]}
    assert by == {"h1", "h2"}
