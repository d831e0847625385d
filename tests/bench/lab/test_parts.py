import subprocess
import sys

import pytest

from bench.lab.parts import PARTS

WITHOUT = """
import sys

class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"hdrh", "matplotlib", "numpy", "scipy", "sqlalchemy"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Lacking())
from bench.lab.cli import main
main()
"""
"""The lab where the extra `lab` is not installed."""


def without_the_extra(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_without_the_extra_the_host_lab_works_and_all_parts_are_named() -> None:
    helped = without_the_extra("--help")
    assert helped.returncode == 0, helped.stderr
    assert [name for name in PARTS if f"  {name} " not in helped.stdout] == []
    assert without_the_extra("net", "--help").returncode == 0


@pytest.mark.parametrize("words", [["load", "http://127.0.0.1:1/"], ["experiments", "list"]])
def test_a_part_whose_library_is_missing_says_how_to_get_it(words: list[str]) -> None:
    done = without_the_extra(*words)
    assert done.returncode == 1
    assert done.stderr.startswith(f"myxo lab {words[0]} needs ")
    assert "pip install 'myxo[lab]'" in done.stderr


def test_a_part_that_is_not_there_is_an_error() -> None:
    done = without_the_extra("nothing")
    assert done.returncode == 2
    assert "No such command 'nothing'" in done.stderr
