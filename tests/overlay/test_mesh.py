import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from overlay.announcements import SALT_BYTES, Announcements
from overlay.digest import Digest
from overlay.errors import PassphraseRefused
from overlay.framing import FramedStream
from overlay.gossip import GOSSIP_PROTOCOL, RECORDS_PER_MESSAGE, Hello, Synced, frame, parse
from overlay.host import open_host
from overlay.identity import Identity
from overlay.links import Links
from overlay.membership import MemberState
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.node import Node, open_node
from overlay.passphrase import network_keys
from overlay.records import (
    InstanceRecord,
    InstanceState,
    PeerRecord,
    Role,
    Version,
    sign_record,
)
from overlay.settings import NodeSettings
from overlay.signed import Signed
from overlay.trust import open_trust


def settings(tmp_path: Path, *bootstraps: str, psk: str | None = "secret") -> NodeSettings:
    return NodeSettings(
        bootstraps=bootstraps,
        psk=psk,
        p2p_listen_addr="127.0.0.1:0",
        ephemeral=True,
        state_dir=tmp_path,
    )


def address_of(node: Node) -> str:
    return f"{node.record.addresses[0]}/p2p/{node.peer_id}"


@asynccontextmanager
async def network(tmp_path: Path, *roles: Role) -> AsyncIterator[list[Node]]:
    """A bootstrap and one node a role, all on loopback."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_node(settings(tmp_path), Role.BOOTSTRAP))
        nodes = [first]
        for number, role in enumerate(roles):
            joining = open_node(settings(tmp_path, address_of(first)), role, name=str(number))
            nodes.append(await stack.enter_async_context(joining))
        yield nodes


def sees_peers(node: Node, count: int) -> bool:
    return len(node.view.peers()) == count


def sees_instances(node: Node, service: ServiceName, count: int) -> bool:
    return len(node.view.instances(service)) == count


def measured_peers(node: Node, count: int) -> bool:
    return sum(p.rtt_s is not None for p in node.view.peers()) == count


async def until(node: Node, condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():
            await node.changed()


async def test_a_joining_node_knows_the_bootstrap_at_once_and_is_known_by_all(
    tmp_path: Path,
) -> None:
    async with network(tmp_path, Role.ALLOCATOR, Role.PROXY) as (first, allocator, proxy):
        assert first.peer_id in {p.peer_id for p in proxy.view.peers()}
        for node in (first, allocator, proxy):
            await until(node, partial(sees_peers, node, 2))


def announce(
    owner: Identity,
    to: Node,
    tmp_path: Path,
    *,
    passphrase: str = "secret",  # noqa: S107
    signer: Identity | None = None,
) -> None:
    """Have a peer that is connected to nobody send its record to a node, as a datagram."""
    trust = open_trust(owner.peer_id, None, passphrase, tmp_path, durable=False)
    record = PeerRecord(
        version=Version(epoch=time.time(), counter=2),
        role=Role.PROXY,
        host="newcomer",
        machine="another",
        addresses=("/ip4/127.0.0.1/tcp/9",),
        proof=trust.proof(),
    )
    signed = sign_record(signer or owner, record).model_copy(update={"signer": owner.peer_id})
    sealing = Announcements(owner.peer_id, trust.announcement_keys())
    datagram = sealing.seal(to.peer_id, signed, time.time(), os.urandom(SALT_BYTES))
    assert datagram is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(datagram, ("127.0.0.1", to.record.datagram_port))


async def test_who_announces_itself_is_known_to_all_before_it_is_connected_to_anybody(
    tmp_path: Path,
) -> None:
    newcomer = Identity.generate()
    async with network(tmp_path, Role.ALLOCATOR, Role.PROXY) as nodes:
        for node in nodes:
            await until(node, partial(sees_peers, node, 2))
        announce(newcomer, nodes[0], tmp_path)
        for node in nodes:
            await until(node, partial(node.view.is_member, newcomer.peer_id))


@pytest.mark.parametrize("wrong", ["passphrase", "signer"])
async def test_nobody_is_believed_who_does_not_prove_who_it_is_and_that_it_may(
    tmp_path: Path, wrong: str
) -> None:
    liar, newcomer = Identity.generate(), Identity.generate()
    async with network(tmp_path) as (first,):
        if wrong == "signer":
            announce(liar, first, tmp_path, signer=newcomer)
        else:
            announce(liar, first, tmp_path, passphrase="guessed")
        announce(newcomer, first, tmp_path)  # what is sent later is heard later on loopback
        await until(first, lambda: first.view.is_member(newcomer.peer_id))
        assert not first.view.is_member(liar.peer_id)
        assert first.view.peer(liar.peer_id) is None


async def test_a_newcomer_knows_those_who_were_told_of_it_before_it_has_streams_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> PeerId:
        await trio.sleep_forever()
        raise AssertionError

    prepared: list[Node] = []
    opening = trio.Event()

    def prepare(node: Node) -> None:
        monkeypatch.setattr(node.host, "connect", never)
        prepared.append(node)
        opening.set()

    async def join() -> None:
        joining = settings(tmp_path, address_of(first))
        async with open_node(joining, Role.PROXY, name="new", prepare=prepare):
            raise AssertionError("it cannot hear all that its bootstrap knows")

    async with network(tmp_path, Role.PROXY) as (first, proxy), trio.open_nursery() as nursery:
        await until(first, partial(sees_peers, first, 1))
        for node in (first, proxy):
            monkeypatch.setattr(node.host, "connect", never)
        nursery.start_soon(join)
        await opening.wait()
        await until(prepared[0], partial(measured_peers, prepared[0], 2))
        assert not prepared[0].host.connected()
        nursery.cancel_scope.cancel()


async def test_an_instance_is_in_every_view_when_published_and_gone_when_withdrawn(
    tmp_path: Path,
) -> None:
    name = ServiceName("hello")
    async with network(tmp_path, Role.ALLOCATOR, Role.PROXY) as (first, allocator, proxy):
        await until(proxy, lambda: len(proxy.view.peers()) == 2)
        allocator.set_instance(
            InstanceId("i1"),
            service=name,
            revision=1,
            state=InstanceState.READY,
            address="127.0.0.1:1",
            concurrency=5,
        )
        for node in (first, proxy):
            await until(node, partial(sees_instances, node, name, 1))
        allocator.withdraw_instance(InstanceId("i1"))
        for node in (first, proxy):
            await until(node, partial(sees_instances, node, name, 0))


async def test_a_leaving_node_takes_its_instances_out_of_every_view(tmp_path: Path) -> None:
    name = ServiceName("hello")
    async with network(tmp_path, Role.PROXY) as (first, proxy):
        async with open_node(settings(tmp_path, address_of(first)), Role.ALLOCATOR) as allocator:
            allocator.set_instance(
                InstanceId("i1"),
                service=name,
                revision=1,
                state=InstanceState.READY,
                address="127.0.0.1:1",
                concurrency=5,
            )
            await until(proxy, lambda: len(proxy.view.instances(name)) == 1)
        await until(proxy, lambda: not proxy.view.instances(name))
        assert proxy.view.membership.state(allocator.peer_id) is MemberState.LEFT


async def test_every_pair_of_peers_measures_its_rtt(tmp_path: Path) -> None:
    async with network(tmp_path, Role.ALLOCATOR, Role.PROXY) as nodes:
        for node in nodes:
            await until(
                node,
                partial(measured_peers, node, 2),
            )


async def test_traffic_between_members_goes_on_when_every_bootstrap_is_gone(
    tmp_path: Path,
) -> None:
    name = ServiceName("hello")
    async with open_node(settings(tmp_path), Role.BOOTSTRAP) as first:
        address = address_of(first)
        async with (
            open_node(settings(tmp_path, address), Role.ALLOCATOR) as allocator,
            open_node(settings(tmp_path, address), Role.PROXY) as proxy,
        ):
            await until(proxy, lambda: len(proxy.view.peers()) == 2)
            await first.host.disconnect(proxy.peer_id)
            await first.host.disconnect(allocator.peer_id)
            allocator.set_instance(
                InstanceId("i1"),
                service=name,
                revision=1,
                state=InstanceState.READY,
                address="127.0.0.1:1",
                concurrency=5,
            )
            await until(proxy, lambda: len(proxy.view.instances(name)) == 1)


@pytest.mark.parametrize("psk", ["another", None])
async def test_a_node_without_the_passphrase_is_told_so_and_gets_no_record(
    tmp_path: Path, psk: str | None
) -> None:
    async with open_node(settings(tmp_path), Role.BOOTSTRAP) as first:
        stranger = settings(tmp_path, address_of(first), psk=psk)
        with trio.fail_after(60), pytest.RaisesGroup(PassphraseRefused, flatten_subgroups=True):
            async with open_node(stranger, Role.PROXY):
                pytest.fail("it joined")
        assert first.view.peers() == []


async def test_peers_whose_gossip_ended_before_their_connection_find_each_other_again(
    tmp_path: Path,
) -> None:
    async with network(tmp_path, Role.ALLOCATOR, Role.PROXY) as (_, one, other):
        for node, peer in ((one, other.peer_id), (other, one.peer_id)):
            await until_linked(node, peer)
            await no_longer_dialling(node)
        links_of(one)._close(other.peer_id)
        links_of(other)._close(one.peer_id)
        await one.host.disconnect(other.peer_id)
        for node, peer in ((one, other.peer_id), (other, one.peer_id)):
            await until_linked(node, peer)


async def until_linked(node: Node, peer: PeerId) -> None:
    with trio.fail_after(60):
        while not speaks(node, peer):  # noqa: ASYNC110  (nothing tells when that is so)
            await trio.sleep(0.02)


async def no_longer_dialling(node: Node) -> None:
    with trio.fail_after(60):
        while links_of(node)._dialling:  # noqa: ASYNC110  (nothing tells when that ends)
            await trio.sleep(0.05)


def links_of(node: Node) -> Links:
    assert node._mesh is not None
    return node._mesh._links


def speaks(node: Node, peer: PeerId) -> bool:
    alive = node.view.membership.state(peer) is MemberState.ALIVE
    return alive and peer in links_of(node).neighbours()


def test_lists_that_no_peer_sends_and_digests_of_another_length_are_no_message() -> None:
    record = '{"signer":"x","payload":"","signature":""}'
    many = ",".join([record] * (RECORDS_PER_MESSAGE + 1))
    assert parse(f'{{"kind":"records","records":[{record}]}}'.encode()) is not None
    assert parse(f'{{"kind":"records","records":[{many}]}}'.encode()) is None
    hello = frame(Hello(chosen=True, digest=Digest().summary()))
    assert parse(hello) is not None
    assert parse(hello.replace(b"AAAA", b"", 1)) is None


async def speak(node: Node, identity: Identity, *records: Signed) -> None:
    """Push records to `node` as a guest, and leave."""
    taken_in = trio.Event()

    async def hear(_: PeerId, stream: FramedStream) -> None:
        while (data := await stream.receive()) is not None:
            if isinstance(parse(data), Synced):
                taken_in.set()

    async with open_host(identity, [], psk=network_keys("secret").psk) as host:
        host.handle(GOSSIP_PROTOCOL, hear)
        await host.connect(node.peer_id, node.record.addresses[0], timeout_s=5)
        message = {"kind": "records", "records": [r.model_dump(mode="json") for r in records]}
        stream = await host.open_stream(node.peer_id, GOSSIP_PROTOCOL)
        await stream.send(json.dumps(message).encode())
        await stream.send(frame(Hello(chosen=True, digest=Digest().summary())))
        await taken_in.wait()
    while identity.peer_id in node.host.connected():  # noqa: ASYNC110  (nobody is told of it)
        await trio.sleep(0.01)


def instance_of(owner: Identity) -> Signed:
    record = InstanceRecord(
        version=Version(epoch=1.0, counter=1),
        id=InstanceId("i1"),
        service=ServiceName("hello"),
        revision=1,
        state=InstanceState.READY,
        concurrency=1,
    )
    return sign_record(owner, record)


async def test_nothing_is_kept_of_peers_that_nobody_could_ever_meet(tmp_path: Path) -> None:
    speaker = Identity.generate()
    with trio.fail_after(60):
        async with network(tmp_path) as (first,):
            strangers = [instance_of(Identity.generate()) for _ in range(3)]
            await speak(first, speaker, *strangers, instance_of(speaker))
            assert first.view.known() == [first.peer_id]


async def test_forged_records_are_a_warning_once_for_each_peer(tmp_path: Path) -> None:
    forged = instance_of(Identity.generate()).model_copy(update={"signature": b"0" * 64})
    with trio.fail_after(60), capture_logs() as logs:
        async with network(tmp_path) as (first,):
            for _ in range(2):
                await speak(first, Identity.from_seed(b"s" * 32), *[forged] * 10)
    refused = [e["log_level"] for e in logs if e["event"] == "record.refused"]
    assert refused == ["warning"] + ["debug"] * 19
