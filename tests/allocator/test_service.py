"""The whole daemon on real parts: a caller joins over libp2p and asks it for a service."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from pydantic import BaseModel

from allocator.service import run
from allocator.settings import AllocatorSettings
from overlay.allocation import ALLOCATE_PROTOCOL, AllocateReply, AllocateRequest
from overlay.calls import CallRefused, serve_calls
from overlay.control import open_control
from overlay.deputy import appoint
from overlay.identity import Identity
from overlay.names import PeerId, ServiceName
from overlay.node import Node, open_node
from overlay.records import InstanceRecord, InstanceState, Role, verified_record
from overlay.registry_messages import REGISTRY_PROTOCOL, REQUEST, RegistryRefusal
from overlay.revision import Revision, SignedRevision
from overlay.settings import NodeSettings
from overlay.spec import ServiceSpec

OWNER = Identity.generate()
PSK = "a passphrase for tests"
SERVER = f"exec {sys.executable} -S -m http.server --bind 127.0.0.1 $SERVICE_PORT"


def revision(number: int = 1, *, owner: Identity = OWNER, **fields: Any) -> SignedRevision:
    spec = ServiceSpec.model_validate({"process": SERVER, "idle_stop_s": 1000} | fields)
    return SignedRevision.sign(owner, Revision(name=ServiceName("hello"), number=number, spec=spec))


class Network:
    def __init__(self, allocator: Node, caller: Node) -> None:
        self.allocator = allocator
        self.caller = caller

    async def allocate(self, given: SignedRevision) -> tuple[InstanceRecord, AllocateReply]:
        reply = await self.caller.calls.call(
            self.allocator.peer_id,
            ALLOCATE_PROTOCOL,
            AllocateRequest(revision=given.signed),
            AllocateReply,
            timeout_s=20,
        )
        record = verified_record(reply.instance, 1e12).record
        assert isinstance(record, InstanceRecord)
        return record, reply

    async def seen(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self.caller.changed()

    def instances(self) -> list[InstanceState]:
        return [i.record.state for i in self.caller.view.instances(ServiceName("hello"))]

    def allocators(self) -> list[Any]:
        return [p.record for p in self.caller.view.peers(Role.ALLOCATOR) if p.record.runtimes]


@asynccontextmanager
async def allocator_in(directory: Path) -> AsyncIterator[Node]:
    settings = AllocatorSettings(
        psk=PSK,
        runtime="process",
        p2p_listen_addr="127.0.0.1:0",
        gateway_listen_addr="127.0.0.1:0",
        prom_listen_addr="127.0.0.1:0",
        state_dir=directory,
    )
    up: list[Node] = []
    ready = trio.Event()

    def note(node: Node) -> None:
        up.append(node)
        ready.set()

    async def serve() -> None:
        await run(settings, ready=note)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await ready.wait()
        yield up[0]
        nursery.cancel_scope.cancel()


@pytest.fixture
async def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Network]:
    config = tmp_path / "config"
    config.mkdir()
    (config / "allowed_keys").write_text(f"# mine\n{OWNER.peer_id}\n")
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(config))
    with trio.fail_after(60):
        async with allocator_in(tmp_path / "a") as allocator:
            (address,) = allocator.record.addresses
            settings = NodeSettings(
                psk=PSK,
                bootstraps=(f"{address}/p2p/{allocator.peer_id}",),
                p2p_listen_addr="127.0.0.1:0",
                state_dir=tmp_path / "p",
            )
            async with open_node(settings, Role.PROXY) as caller:
                yield Network(allocator, caller)


async def test_a_service_is_started_for_a_peer_and_everybody_sees_it(network: Network) -> None:
    await network.seen(network.allocators)
    (peer,) = network.allocators()
    assert peer.runtimes == ("process",)
    assert peer.gateway
    assert peer.room.instances == 128

    record, reply = await network.allocate(revision(memory_mib=512))
    assert record.state is InstanceState.READY
    assert set(reply.phases) == {"queue", "create", "start", "ready"}
    host, _, port = record.address.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.0 200")
    await network.seen(lambda: network.instances() == [InstanceState.READY])
    await network.seen(lambda: network.allocators()[0].room.instances == 127)

    async with open_control(Path(network.allocator.record.control), "status") as connection:
        status = await connection.receive()
    assert status is not None
    assert b'"own_instances": [{"id": "' + record.id.encode() in status
    assert b"MemoryReq" in status


async def test_what_may_not_run_here_is_refused_with_a_code_and_a_reason(
    network: Network,
) -> None:
    stranger = Identity.generate()
    with pytest.raises(CallRefused, match="myxo allow") as caught:
        await network.allocate(revision(owner=stranger))
    assert caught.value.code == "not_allowed"


async def test_a_forged_revision_is_refused(network: Network) -> None:
    genuine = revision()
    forged = genuine.signed.model_copy(update={"signer": Identity.generate().peer_id})
    with pytest.raises(CallRefused) as caught:
        await network.allocate(SignedRevision(genuine.revision, forged))
    assert caught.value.code == "bad_revision"


async def test_a_stopped_allocator_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del monkeypatch
    state = tmp_path / "a"
    with trio.fail_after(60):
        async with allocator_in(state) as node:
            directory = state / "instances" / node.peer_id
            assert directory.exists()
    assert not list(directory.iterdir())


async def test_a_revision_of_a_service_that_a_registry_does_not_know_is_refused(
    tmp_path: Path, network: Network
) -> None:
    async def know_nothing(_: PeerId, request: BaseModel) -> BaseModel:
        raise CallRefused(RegistryRefusal.UNKNOWN, "it was deleted")

    def prepare(node: Node) -> None:
        serve_calls(node.host, REGISTRY_PROTOCOL, REQUEST, know_nothing)

    await network.allocate(revision())
    (address,) = network.allocator.record.addresses
    settings = NodeSettings(
        psk=PSK,
        bootstraps=(f"{address}/p2p/{network.allocator.peer_id}",),
        p2p_listen_addr="127.0.0.1:0",
        state_dir=tmp_path / "r",
    )
    async with open_node(settings, Role.REGISTRY, prepare=prepare) as registry:
        while not network.allocator.view.peers(Role.REGISTRY):
            await registry.changed()
        with pytest.raises(CallRefused) as caught:
            await network.allocate(revision())
    assert caught.value.code == "bad_revision"


async def test_what_a_service_printed_is_told_to_its_owner_and_to_no_other_member(
    network: Network,
) -> None:
    await network.seen(network.allocators)
    failing = revision(process="echo the password is tulip; exit 3")

    async def ask(who: Identity | None, peer: PeerId) -> CallRefused:
        request = AllocateRequest(
            revision=failing.signed, deputy=None if who is None else appoint(who, peer)
        )
        with pytest.raises(CallRefused) as refused:
            await network.caller.calls.call(
                network.allocator.peer_id, ALLOCATE_PROTOCOL, request, AllocateReply, timeout_s=20
            )
        return refused.value

    me = network.caller.peer_id
    for who, peer in ((None, me), (Identity.generate(), me), (OWNER, network.allocator.peer_id)):
        told = await ask(who, peer)
        assert "tulip" not in f"{told} {told.details}"
        assert "exit code 3" in told.text
        assert f"`myxo status` on {network.allocator.record.host}" in told.text
    assert (await ask(OWNER, me)).details == {"log": "the password is tulip"}
    (loop,) = network.allocator.status()["crash_loops"]
    assert loop["log"] == "the password is tulip"
