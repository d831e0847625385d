"""kill -9 of a real allocator: what runs goes on, is adopted, and is removed by a clean stop."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from overlay.allocation import ALLOCATE_PROTOCOL, AllocateReply, AllocateRequest
from overlay.identity import Identity
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.node import Node, open_node
from overlay.records import InstanceState, Role
from overlay.revision import Revision, SignedRevision
from overlay.settings import NodeSettings
from overlay.spec import Image, ServiceSpec

OWNER = Identity.generate()
HELLO = ServiceName("hello")
PSK = "a passphrase for tests"
MAIN = "from allocator.cli import main; main()"
SERVER = f"exec {sys.executable} -S -m http.server --bind 127.0.0.1 $SERVICE_PORT"


@asynccontextmanager
async def allocator(directory: Path, bootstrap: str, runtime: str) -> AsyncIterator[trio.Process]:
    """Run the command; the block must end it."""
    environment = dict(os.environ) | {"MYXO_CONFIG_DIR": str(directory), "P2P_PSK": PSK}
    with (directory / "log").open("ab") as log:
        process = await trio.lowlevel.open_process(
            [
                *(sys.executable, "-c", MAIN, "-bootstrap", bootstrap, "--runtime", runtime),
                *("--state-dir", str(directory), "--p2p-listen-addr", "127.0.0.1:0"),
                *("--gateway-listen-addr", "127.0.0.1:0", "--prom-listen-addr", "127.0.0.1:0"),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def seen(node: Node, condition: Callable[[], object]) -> None:
    while not condition():
        await node.changed()


def usable(node: Node) -> PeerId | None:
    """Return the living allocator that can start something."""
    found = [p for p in node.view.peers(Role.ALLOCATOR) if p.record.runtimes]
    return found[0].peer_id if found else None


def epoch(node: Node, peer: PeerId) -> float:
    record = node.view.peer(peer)
    return 0.0 if record is None else record.version.epoch


def ready(node: Node) -> list[tuple[InstanceId, str]]:
    return [
        (i.record.id, i.record.address)
        for i in node.view.instances(HELLO)
        if i.record.state is InstanceState.READY
    ]


async def accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with trio.move_on_after(1):  # a bridge without containers answers nothing at all
        try:
            stream = await trio.open_tcp_stream(host, int(port))
        except OSError:
            return False
        await stream.aclose()
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["process", pytest.param("docker", marks=pytest.mark.docker)])
async def test_instances_survive_kill_9_are_adopted_and_removed_by_a_clean_stop(
    runtime: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    spec = ServiceSpec(process=SERVER)
    if runtime == "docker":
        image: Image = request.getfixturevalue("image")
        spec = ServiceSpec(image=image)
    given = SignedRevision.sign(OWNER, Revision(name=HELLO, number=1, spec=spec))
    (tmp_path / "allowed_keys").write_text(OWNER.peer_id)
    settings = NodeSettings(psk=PSK, p2p_listen_addr="127.0.0.1:0", state_dir=tmp_path / "boot")
    with trio.fail_after(60):
        async with open_node(settings, Role.BOOTSTRAP) as boot:
            address = f"{boot.record.addresses[0]}/p2p/{boot.peer_id}"
            async with allocator(tmp_path, address, runtime):
                await seen(boot, lambda: usable(boot))
                first_peer = usable(boot)
                assert first_peer is not None
                await boot.calls.call(
                    first_peer,
                    ALLOCATE_PROTOCOL,
                    AllocateRequest(revision=given.signed),
                    AllocateReply,
                    timeout_s=20,
                )
                await seen(boot, lambda: ready(boot))
                (before,) = ready(boot)
                life = epoch(boot, first_peer)
            await seen(boot, lambda: not ready(boot))
            assert await accepts(before[1])

            async with allocator(tmp_path, address, runtime) as process:
                await seen(boot, lambda: epoch(boot, first_peer) > life and ready(boot))
                assert ready(boot) == [before]
                await seen(boot, lambda: usable(boot) == first_peer)
                process.send_signal(signal.SIGTERM)
                with trio.fail_after(5):
                    assert await process.wait() == 0, (tmp_path / "log").read_text()
            assert not await accepts(before[1])
            await seen(boot, lambda: not ready(boot))
