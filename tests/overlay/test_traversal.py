"""Whole nodes, each as if on a machine of its own, one of them hidden behind a bootstrap node."""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing
from pydantic import BaseModel

from overlay import connected as connected_module
from overlay import node as node_module
from overlay import punching as punching_module
from overlay import reach as reach_module
from overlay.addresses import is_circuit, is_hidden
from overlay.calls import serve_calls
from overlay.identity import Identity
from overlay.membership import MemberState
from overlay.names import PeerId
from overlay.node import Node, open_node
from overlay.records import PeerRecord, Role, Version, sign_record
from overlay.settings import NodeSettings
from overlay.testing import empty_view, meet
from overlay.traversal import Traversal

WHO = "/test/who/1.0.0"
ME, *OTHERS = (Identity.from_seed(bytes([n]) * 32) for n in range(1, 7))


class Nothing(BaseModel):
    pass


class Me(BaseModel):
    name: str


@dataclass
class Site:
    """A bootstrap node, a peer that is hidden behind it, and one that wants something of it."""

    bootstrap: Node
    hidden: Node
    proxy: Node

    async def ask_hidden(self) -> str:
        """Return the hidden peer's answer to a call of the other."""
        reply = await self.proxy.calls.call(self.hidden.peer_id, WHO, Nothing(), Me, timeout_s=5)
        return reply.name


@asynccontextmanager
async def site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy_reachable: str = "no"
) -> AsyncIterator[Site]:
    machines = itertools.count()
    monkeypatch.setattr(node_module, "machine_id", lambda: f"machine {next(machines)}")

    def settings(*bootstraps: str, **fields: object) -> NodeSettings:
        values = {
            "psk": "secret",
            "p2p_listen_addr": "127.0.0.1:0",
            "state_dir": tmp_path / str(next(machines)),
            "bootstraps": bootstraps,
            **fields,
        }
        return NodeSettings.model_validate(values)

    with trio.fail_after(40):
        async with open_node(settings(), Role.BOOTSTRAP) as bootstrap:
            address = f"{bootstrap.record.addresses[0]}/p2p/{bootstrap.peer_id}"
            async with open_node(settings(address, reachable="no"), Role.ALLOCATOR) as hidden:
                serve_calls(hidden.host, WHO, Nothing, who_is_hidden)
                await until(hidden, lambda: is_hidden(hidden.record.addresses))
                values = settings(address, reachable=proxy_reachable)
                async with open_node(values, Role.PROXY) as proxy:
                    yield Site(bootstrap, hidden, proxy)


async def who_is_hidden(*_: object) -> Me:
    return Me(name="the hidden one")


async def until(node: Node, holds: Callable[[], bool]) -> None:
    while not holds():
        await node.changed()


async def connection_is(node: Node, other: Node, *, direct: bool) -> None:
    while node.host.is_direct(other.peer_id) is not direct:
        await node.host.next_change.wait()


async def test_a_hidden_peer_is_a_member_and_answers_calls_through_its_relay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(punching_module, "TRIES", 0)
    monkeypatch.setattr(reach_module, "STAGGER_S", 20.0)  # the circuit, which comes first, or none
    async with site(tmp_path, monkeypatch) as there:
        assert await there.ask_hidden() == "the hidden one"
        assert not there.proxy.host.is_direct(there.hidden.peer_id)
        await until_measured(there.proxy, there.hidden)
        await until_measured(there.hidden, there.proxy)


async def until_measured(node: Node, other: Node) -> None:
    membership = node.view.membership
    await until(node, lambda: membership.rtt(other.peer_id) is not None)
    assert membership.state(other.peer_id) is MemberState.ALIVE


async def test_gossip_and_calls_move_to_the_direct_connection_and_the_relayed_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connected_module, "RETIRE_QUIET_S", 0.2)
    monkeypatch.setattr(connected_module, "RETIRE_IDLE_S", 0.6)
    async with site(tmp_path, monkeypatch) as there:
        hidden, proxy = there.hidden, there.proxy
        changes: list[MemberState] = []

        async def watch() -> None:
            while True:
                await proxy.changed()
                changes.append(proxy.view.membership.state(hidden.peer_id))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            assert await there.ask_hidden() == "the hidden one"
            await connection_is(proxy, hidden, direct=True)
            await connection_is(hidden, proxy, direct=True)
            while any(c.relayed for c in proxy.host._connections.of(hidden.peer_id)):
                assert await there.ask_hidden() == "the hidden one"
                await trio.testing.wait_all_tasks_blocked(0.01)
            hidden.set_peer(gateway=("192.0.2.1:1",))
            await until(proxy, lambda: news_of(hidden, proxy) == ("192.0.2.1:1",))
            nursery.cancel_scope.cancel()
        assert set(changes) == {MemberState.ALIVE}
        for one, other in ((proxy, hidden), (hidden, proxy)):
            assert one._mesh is not None
            assert other.peer_id in one._mesh.neighbours()


def news_of(owner: Node, at: Node) -> tuple[str, ...]:
    record = at.view.peer(owner.peer_id)
    return () if record is None else record.gateway


async def test_a_peer_that_finds_out_that_it_can_be_dialled_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(tmp_path, monkeypatch, "auto") as there:
        (address,) = there.proxy.record.addresses
        await trio.sleep(0.5)
        assert there.proxy.record.addresses == (address,)
        assert not is_circuit(address)


async def connect_to_nobody(_: PeerId) -> None:
    pass


def test_helpers_are_of_other_machines_can_be_dialled_and_bootstraps_come_first() -> None:
    view = empty_view(ME, "here")
    records = [
        (Role.REGISTRY, "there", "/ip4/192.0.2.1/tcp/4002"),
        (Role.BOOTSTRAP, "elsewhere", "/ip4/192.0.2.2/tcp/4001"),
        (Role.BOOTSTRAP, "here", "/ip4/192.0.2.3/tcp/4001"),
        (Role.BOOTSTRAP, "hidden", f"/ip4/192.0.2.2/tcp/4001/p2p/{OTHERS[1].peer_id}/p2p-circuit"),
        (Role.PROXY, "there", "/ip4/192.0.2.1/tcp/4004"),
    ]
    for owner, (role, machine, address) in zip(OTHERS, records, strict=True):
        record = PeerRecord(
            version=Version(epoch=1.0, counter=1),
            role=role,
            host="h",
            machine=machine,
            addresses=(address,),
        )
        view.apply(sign_record(owner, record), 1.0)
        meet(view, owner.peer_id)

    class Deaf:
        def handle_bytes(self, *_: object) -> None:
            pass

    traversal = Traversal(
        Deaf(),  # type: ignore[arg-type]  # nothing is asked of it
        view,
        Role.PROXY,
        "auto",
        connect=connect_to_nobody,
        publish=lambda _: None,
        random=Random(1),
    )
    assert traversal._helpers() == [OTHERS[1].peer_id, OTHERS[0].peer_id]
