"""kill -9 of a real allocator: what runs or rests goes on so, is adopted, and ends with a stop."""

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
from overlay.records import InstanceRecord, InstanceState, Role, verified_record
from overlay.revision import Revision, SignedRevision
from overlay.settings import NodeSettings
from overlay.spec import Image, ServiceSpec

OWNER = Identity.generate()
HELLO, RESTS = ServiceName("hello"), ServiceName("rests")
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


def there(node: Node) -> dict[ServiceName, tuple[InstanceId, str, InstanceState]]:
    found = [i.record for name in (HELLO, RESTS) for i in node.view.instances(name)]
    return {r.service: (r.id, r.address, r.state) for r in found}


def settled(node: Node) -> bool:
    """Whether one instance is ready and the other one paused."""
    states = {service: state for service, (_, _, state) in there(node).items()}
    return states == {HELLO: InstanceState.READY, RESTS: InstanceState.PAUSED}


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


async def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with trio.move_on_after(2):
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
            return bool(await stream.receive_some())
    return False


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["process", pytest.param("docker", marks=pytest.mark.docker)])
async def test_instances_survive_kill_9_are_adopted_as_they_were_and_removed_by_a_clean_stop(
    runtime: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    spec = ServiceSpec(process=SERVER, idle_pause_s=0)
    if runtime == "docker":
        image: Image = request.getfixturevalue("image")
        spec = ServiceSpec(image=image, idle_pause_s=0)
    resting = spec.model_copy(update={"idle_pause_s": 0.5})
    given = {
        name: SignedRevision.sign(OWNER, Revision(name=name, number=1, spec=spec))
        for name, spec in ((HELLO, spec), (RESTS, resting))
    }
    (tmp_path / "allowed_keys").write_text(OWNER.peer_id)
    settings = NodeSettings(psk=PSK, p2p_listen_addr="127.0.0.1:0", state_dir=tmp_path / "boot")
    with trio.fail_after(150):
        async with open_node(settings, Role.BOOTSTRAP) as boot:

            async def allocate(peer: PeerId, name: ServiceName) -> InstanceId:
                request = AllocateRequest(revision=given[name].signed)
                while True:  # on a busy machine it may rest again before it is asked
                    reply = await boot.calls.call(
                        peer, ALLOCATE_PROTOCOL, request, AllocateReply, timeout_s=20
                    )
                    record = verified_record(reply.instance, 1e12).record
                    assert isinstance(record, InstanceRecord)
                    if await answers(record.address):
                        return record.id

            address = f"{boot.record.addresses[0]}/p2p/{boot.peer_id}"
            async with allocator(tmp_path, address, runtime):
                await seen(boot, lambda: usable(boot))
                first_peer = usable(boot)
                assert first_peer is not None
                await allocate(first_peer, HELLO)
                rests = await allocate(first_peer, RESTS)
                await seen(boot, lambda: settled(boot))
                before = there(boot)
                life = epoch(boot, first_peer)
            await seen(boot, lambda: not there(boot))
            assert await answers(before[HELLO][1])
            assert await accepts(before[RESTS][1])

            async with allocator(tmp_path, address, runtime) as process:
                await seen(boot, lambda: epoch(boot, first_peer) > life and settled(boot))
                assert there(boot) == before
                await seen(boot, lambda: usable(boot) == first_peer)
                assert await allocate(first_peer, RESTS) == rests
                await seen(boot, lambda: settled(boot))
                process.send_signal(signal.SIGTERM)
                with trio.fail_after(20):
                    assert await process.wait() == 0, (tmp_path / "log").read_text()
            for _, gone, _ in before.values():
                assert not await accepts(gone)
            await seen(boot, lambda: not there(boot))
