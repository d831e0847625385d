import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RUNS = 40_000
"""Some seconds."""


@pytest.mark.skipif(
    find_spec("atheris") is None,
    reason="Atheris is for Linux on x86-64 alone; make setup brings it",
)
def test_a_short_coverage_guided_run_finds_nothing(tmp_path: Path) -> None:
    command = [
        *(sys.executable, str(HERE / "fuzzing.py"), str(tmp_path), str(HERE / "corpus")),
        *(f"-dict={HERE / 'http.dict'}", f"-runs={RUNS}", "-seed=1", "-max_len=1024"),
        f"-artifact_prefix={tmp_path}/",
    ]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[2])}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    assert f"Done {RUNS} runs" in run.stderr
