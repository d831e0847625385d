"""Runs beside each other are one run to who started it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONFTEST = """
import os
from tests import parts

def pytest_collection_modifyitems(config, items):
    name = parts.fork(config, ["first", "second", "third"])
    items[:] = [item for item in items if name in item.name]
"""
TESTS = """
import os

def test_first(): print("of the first")
def test_second(): print("of the second"); assert %(second)s
def test_third(): print("of the third"); os.write(1, b"and by its number"); assert %(third)s
"""


def run(folder: Path, **passes: bool) -> "subprocess.CompletedProcess[str]":
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_three.py").write_text(TESTS % passes)
    pytest_here = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*pytest_here, "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )


def test_each_does_its_own_and_the_output_of_the_first_comes_first(tmp_path: Path) -> None:
    done = run(tmp_path, second=True, third=False)
    passed, also_passed, failed = done.stdout.split("\ncollected 3 items")[1:]
    assert "1 passed" in passed
    assert "1 passed" in also_passed
    assert "1 failed" in failed
    assert "of the third\nand by its number" in failed
    assert "of the second" not in done.stdout, "what a test that passes writes is not shown"


@pytest.mark.parametrize(("passes", "code"), [(True, 0), (False, 1)])
def test_what_fails_in_one_fails(tmp_path: Path, passes: bool, code: int) -> None:
    assert run(tmp_path, second=passes, third=True).returncode == code
