"""Each in a process of its own: an import is not undone."""

import subprocess
import sys
from pathlib import Path

import overlay

TWO_PEERS_MEET = """
import sys
from pathlib import Path

import overlay

import trio

import allocator.service, bootstrap.service, proxy.service, registry.service
from overlay.node import open_node
from overlay.records import Role
from overlay.settings import NodeSettings

common = {"psk": "secret", "p2p_listen_addr": "127.0.0.1:0", "state_dir": Path(sys.argv[1])}

async def main():
    with trio.fail_after(60):
        async with open_node(NodeSettings(**common), Role.BOOTSTRAP) as first:
            to_it = {"bootstraps": [f"{first.record.addresses[0]}/p2p/{first.peer_id}"]}
            async with open_node(NodeSettings(**common, **to_it), Role.PROXY) as second:
                while not second.view.is_member(first.peer_id):
                    await second.changed()

trio.run(main)
unused = ["dns.resolver", "libp2p.kad_dht", "libp2p.pubsub.pubsub", "trio_websocket"]
print([name for name in unused if name in sys.modules])
"""

ALL_OF_IT = """
import overlay.host
import libp2p
from libp2p import new_host
from libp2p.relay import CircuitV2Transport
from libp2p.transport import TCP
print(new_host.__name__, CircuitV2Transport.__name__, TCP.__name__, hasattr(libp2p, "nothing"))
"""


def _output(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_peers_meet_without_what_they_do_not_use_and_hence_without_a_name_server(
    tmp_path: Path,
) -> None:
    assert _output(TWO_PEERS_MEET, str(tmp_path)).splitlines()[-1] == "[]"


def test_what_a_package_of_libp2p_defines_is_there_when_it_is_asked_for() -> None:
    assert _output(ALL_OF_IT) == "new_host CircuitV2Transport TCP False\n"


def test_where_libp2p_is_not_installed_what_needs_none_of_it_is_imported() -> None:
    checkout = Path(overlay.__file__).parents[1]
    program = f"import sys; sys.path.append({str(checkout)!r}); import overlay.errors"
    bare = [sys.executable, "-I", "-S", "-c", program]  # without site-packages
    done = subprocess.run(bare, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
