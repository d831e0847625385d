"""Each in a process of its own: an import is not undone."""

import subprocess
import sys
from pathlib import Path

import pytest

IMPORT = """
import sys
from pathlib import Path
from dns.resolver import BaseResolver, NoNameservers, Resolver

read = BaseResolver.read_resolv_conf
BaseResolver.read_resolv_conf = lambda self, _: read(self, sys.argv[1])  # a machine of this test's

from overlay.name_servers import bear_their_absence
bear_their_absence(Path(sys.argv[1]))
import overlay.host
print(Resolver().nameservers)
"""


def _import_on(resolv_conf: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", IMPORT, str(resolv_conf)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("text", ["", "# nameserver 10.0.0.1\nnameserver\nsearch example\n", None])
def test_a_machine_without_a_name_server_can_be_a_peer(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "resolv.conf"
    if text is not None:
        file.write_text(text)
    done = _import_on(file)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_name_servers_are_left_as_they_are_where_there_are_some(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 10.0.0.1\n")
    assert "10.0.0.1" in _import_on(file).stdout
