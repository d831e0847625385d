from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from overlay.errors import PassphraseRefused
from overlay.membership import MemberState
from overlay.mesh import Mesh
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.node import Node, open_node
from overlay.records import InstanceState, Role
from overlay.settings import NodeSettings


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
    with trio.fail_after(10):
        while not condition():
            await node.changed()


async def test_a_joining_node_knows_the_bootstrap_at_once_and_is_known_by_all(
    tmp_path: Path,
) -> None:
    async with network(tmp_path, Role.ALLOCATOR, Role.PROXY) as (first, allocator, proxy):
        assert first.peer_id in {p.peer_id for p in proxy.view.peers()}
        for node in (first, allocator, proxy):
            await until(node, partial(sees_peers, node, 2))


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
        with trio.fail_after(15), pytest.RaisesGroup(PassphraseRefused, flatten_subgroups=True):
            async with open_node(stranger, Role.PROXY):
                pytest.fail("it joined")
        assert first.view.peers() == []


async def test_peers_whose_gossip_ended_before_their_connection_find_each_other_again(
    tmp_path: Path,
) -> None:
    async with network(tmp_path, Role.ALLOCATOR, Role.PROXY) as (_, one, other):
        for node, peer in ((one, other.peer_id), (other, one.peer_id)):
            await until(node, partial(speaks, node, peer))
            await no_longer_dialling(node)
        mesh_of(one)._close_outbox(other.peer_id)
        mesh_of(other)._close_outbox(one.peer_id)
        await one.host.disconnect(other.peer_id)
        for node, peer in ((one, other.peer_id), (other, one.peer_id)):
            await until(node, partial(speaks, node, peer))


async def no_longer_dialling(node: Node) -> None:
    with trio.fail_after(10):
        while mesh_of(node)._dialling:  # noqa: ASYNC110  (nothing tells when that ends)
            await trio.sleep(0.05)


def mesh_of(node: Node) -> Mesh:
    assert node._mesh is not None
    return node._mesh


def speaks(node: Node, peer: PeerId) -> bool:
    alive = node.view.membership.state(peer) is MemberState.ALIVE
    return alive and peer in mesh_of(node)._outboxes
