"""The example notebooks show what is kept in them."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.network import Network, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RUNNER = Path(__file__).with_name("notebook.py")
DEMOS = Path(__file__).resolve().parents[2] / "demos"
NOTEBOOKS = sorted(DEMOS.rglob("*.ipynb"))
TIMEOUT_S = 240.0


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_cell_shows_what_is_kept(running: Network, notebook: Path) -> None:
    place = {"MYXO_PROXY": f"127.0.0.1:{running.proxy_port}"}
    done = subprocess.run(
        [sys.executable, RUNNER, notebook],
        env=environment(running.folder) | place,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
