"""What a worker's process sets up for all that it computes."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from myxo.mapping.worker import hold_freed_memory

{first}
for chunk in range(20):
    if chunk == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    lists = [[None] * 100_000 for _ in range(10)]
    del lists
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _page_faults(first: str) -> int:
    command = [sys.executable, "-c", FAULTS.format(first=first)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_what_one_chunk_frees_the_next_one_uses() -> None:
    assert _page_faults("hold_freed_memory()") < 100
    assert _page_faults("") > 1000
