from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from overlay.errors import PeerUnreachable
from overlay.http import gateway as gateway_module
from overlay.http.gateway import GatewayShut
from overlay.http.tls_stream import TlsStream
from overlay.identity import Identity
from overlay.leases import Hello, Release, Released
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.passphrase import network_keys
from overlay.records import InstanceRecord, InstanceState, PeerRecord, Role, Version, sign_record
from overlay.testing import bury, cut, empty_view, meet
from overlay.tls import PeerTls, open_tls
from overlay.view import InstanceView, View
from proxy.backend import gateways as gateways_module
from proxy.backend.roads import Road, Roads
from proxy.testing import PlayedAllocator, played_allocator

ME, OWNER = (Identity.from_seed(bytes([n]) * 32) for n in range(2))
NAME, I1 = ServiceName("hello"), InstanceId("i1")
TLS = open_tls(network_keys("secret"), ME.peer_id)


@dataclass
class Ground:
    view: View
    roads: Roads
    allocator: PlayedAllocator
    overlay: "PlayedOverlay"

    @property
    def instance(self) -> InstanceView:
        (found,) = self.view.instances(NAME)
        return found

    async def direct(self) -> Road:
        """The road to the instance, once there is a direct one."""
        while (road := await self.roads.to(self.instance)).kind != "direct":
            await trio.testing.wait_all_tasks_blocked()
        return road


def say_peer(view: View, counter: int = 0, **fields: object) -> None:
    values = {"version": Version(epoch=1.0, counter=counter), "role": Role.ALLOCATOR, "host": "h"}
    record = PeerRecord.model_validate({"gateway": ("127.0.0.1:1",), **values, **fields})
    view.apply(sign_record(OWNER, record), 1.0)
    meet(view, OWNER.peer_id)


def say_instance(view: View, counter: int = 1, *, withdrawn: bool = False) -> None:
    record = InstanceRecord(
        version=Version(epoch=1.0, counter=counter),
        id=I1,
        service=NAME,
        revision=1,
        state=InstanceState.READY,
        concurrency=5,
        withdrawn=withdrawn,
    )
    view.apply(sign_record(OWNER, record), 1.0)


@dataclass
class PlayedOverlay:
    """Carries connections to gateways that say `line`; to none if that is empty."""

    line: bytes = b"MYXO/1 OK\r\n"
    carried: list[trio.abc.Stream] = field(default_factory=list)

    async def carry(self, peer: PeerId) -> trio.abc.Stream:
        if not self.line:
            raise PeerUnreachable(f"{peer} is not connected")
        near, far = trio.testing.memory_stream_pair()
        await far.send_all(self.line)
        self.carried.append(far)
        return near


@asynccontextmanager
async def ground_of(tmp_path: Path, *, machine: str = "here") -> AsyncIterator[Ground]:
    with trio.fail_after(60):
        async with (
            played_allocator(tmp_path / "s") as allocator,
            trio.open_nursery() as nursery,
        ):
            allocator.addresses[I1] = "127.0.0.1:1"
            view = empty_view(ME, "here")
            say_peer(view, machine=machine, control=str(tmp_path / "s"))
            say_instance(view)
            overlay = PlayedOverlay()
            roads = Roads(
                view, TLS, nursery, Hello(proxy_port=4200), overlay.carry, lambda *_: None
            )
            await roads.follow()
            yield Ground(view, roads, allocator, overlay)
            nursery.cancel_scope.cancel()


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Ground]:
    async with ground_of(tmp_path) as made:
        yield made


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Ground]:
    async with ground_of(tmp_path, machine="there") as made:
        yield made


async def test_on_this_machine_the_road_is_direct_and_stays_the_same(here: Ground) -> None:
    road = await here.direct()
    assert road.fields == ()
    assert await here.roads.to(here.instance) is road


async def test_what_gets_no_lease_is_reached_through_the_gateway(here: Ground) -> None:
    here.allocator.addresses.clear()
    assert (await here.roads.to(here.instance)).kind == "gateway"


async def test_a_lease_that_is_wanted_back_leaves_the_direct_road(here: Ground) -> None:
    road = await here.direct()
    road.begin()
    await here.allocator.say(Release(instance=I1))
    while road.lease is not None and not road.lease.releasing:
        await trio.testing.wait_all_tasks_blocked()
    assert (await here.roads.to(here.instance)).kind == "gateway"
    await road.end(0.1)


async def test_nothing_is_connected_to_an_instance_any_more_when_its_lease_is_handed_back(
    here: Ground,
) -> None:
    """What ends later is closed towards an address that another container may have by then."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        here.allocator.addresses[I1] = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        road = await here.direct()
        async with road.pool.acquire() as upstream:
            upstream.reusable = True
        async with await listener.accept() as served:
            assert road.pool.idle == 1
            await here.allocator.say(Release(instance=I1))
            while not isinstance(await here.allocator.heard(), Released):
                pass
            assert road.pool.idle == 0
            assert await served.receive_some() == b""


async def test_a_lease_that_ended_with_its_connection_is_not_used_again(here: Ground) -> None:
    road = await here.direct()
    assert await here.allocator.heard() == Hello(proxy_port=4200)
    await here.allocator.hang_up()
    while road.lease is not None and not road.lease.releasing:
        await trio.testing.wait_all_tasks_blocked()
    again = await here.direct()
    assert again is not road
    assert again.lease is not road.lease


async def test_a_withdrawn_instance_has_no_road_kept(here: Ground) -> None:
    await here.direct()
    say_instance(here.view, 2, withdrawn=True)
    await here.roads.follow()
    assert here.roads._direct == {}


async def test_another_machines_instance_is_named_to_its_gateway(there: Ground) -> None:
    road = await there.roads.to(there.instance)
    assert road.kind == "gateway"
    assert road.fields == ((b"Myxo-Instance", b"i1"),)
    assert (await there.roads.to(there.instance)).pool is road.pool


async def test_without_a_gateway_there_is_no_road(there: Ground) -> None:
    say_peer(there.view, 5, machine="there", gateway=())
    with pytest.raises(PeerUnreachable, match="no gateway"):
        await there.roads.to(there.instance)


async def test_a_machine_that_shows_another_certificate_gets_new_connections(
    there: Ground,
) -> None:
    road = await there.roads.to(there.instance)
    say_peer(there.view, 5, machine="there", certificate="0" * 64)
    assert (await there.roads.to(there.instance)).pool is not road.pool


async def test_what_is_under_way_to_a_dead_machine_ends(there: Ground) -> None:
    road = await there.roads.to(there.instance)
    scope = trio.CancelScope()
    road.under_way.add(scope)
    cut(there.view, OWNER.peer_id)
    await there.roads.follow()
    assert not scope.cancel_called
    bury(there.view, OWNER.peer_id)
    await there.roads.follow()
    assert scope.cancel_called
    assert there.roads._gateways == {}


async def test_what_is_under_way_by_a_certificate_of_before_ends_with_the_machine_too(
    there: Ground,
) -> None:
    scope = trio.CancelScope()
    (await there.roads.to(there.instance)).under_way.add(scope)
    say_peer(there.view, 5, machine="there", certificate="0" * 64)
    await there.roads.to(there.instance)
    bury(there.view, OWNER.peer_id)
    await there.roads.follow()
    assert scope.cancel_called


@pytest.mark.parametrize("control", ["a" * 256, "/proc/1/root/run/x.sock", "/", "no such file"])
async def test_no_word_of_a_peer_on_its_socket_ends_the_proxy(here: Ground, control: str) -> None:
    await here.direct()
    say_peer(here.view, counter=2, machine="here", control=control)
    await here.roads.follow()
    assert (await here.roads.to(here.instance)) is not None
    assert not here.roads._holders


async def test_an_instance_of_the_same_id_but_another_owner_gets_a_road_of_its_own(
    here: Ground,
) -> None:
    road = await here.direct()
    theirs = replace(here.instance, owner=Identity.from_seed(bytes([2]) * 32).peer_id)
    with pytest.raises(PeerUnreachable, match="gateway"):
        await here.roads.to(theirs)
    assert await here.roads.to(here.instance) is road


# carried by the overlay

CIRCUIT = f"/ip4/192.0.2.7/tcp/4001/p2p/{ME.peer_id}/p2p-circuit"
INSIDE = "/ip4/192.168.1.2/tcp/4003"


async def test_a_hidden_machine_is_reached_over_the_overlay(there: Ground) -> None:
    say_peer(there.view, 5, machine="there", addresses=(CIRCUIT, INSIDE))
    road = await there.roads.to(there.instance)
    assert road.kind == "overlay"
    assert road.fields == ((b"Myxo-Instance", b"i1"),)
    async with road.pool.acquire():
        assert len(there.overlay.carried) == 1
    assert (await there.roads.to(there.instance)).pool is road.pool


async def test_a_hidden_allocator_of_this_machine_is_dialled_all_the_same(here: Ground) -> None:
    here.allocator.addresses.clear()
    say_peer(here.view, 5, machine="here", control="", addresses=(CIRCUIT, INSIDE))
    assert (await here.roads.to(here.instance)).kind == "gateway"


async def test_a_machine_that_hides_or_comes_out_gets_new_connections(there: Ground) -> None:
    dialled = await there.roads.to(there.instance)
    say_peer(there.view, 5, machine="there", addresses=(CIRCUIT, INSIDE))
    carried = await there.roads.to(there.instance)
    assert carried.pool is not dialled.pool
    say_peer(there.view, 6, machine="there", addresses=(INSIDE,))
    assert (await there.roads.to(there.instance)).kind == "gateway"


@pytest.mark.parametrize("line", [b"", b"MYXO/1 REFUSED why not\r\n", b"HTTP/1.1 200 OK\r\n"])
async def test_a_carried_gateway_that_does_not_accept_is_unreachable(
    there: Ground, line: bytes
) -> None:
    there.overlay.line = line
    say_peer(there.view, 5, machine="there", addresses=(CIRCUIT, INSIDE))
    road = await there.roads.to(there.instance)
    with pytest.raises(PeerUnreachable):
        await road.pool.take(fresh=True)


async def test_a_carried_gateway_that_says_nothing_is_given_up_in_time(
    there: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "CONNECT_TIMEOUT_S", 0.05)
    there.overlay.line = b"MYXO"
    say_peer(there.view, 5, machine="there", addresses=(CIRCUIT, INSIDE))
    road = await there.roads.to(there.instance)
    with pytest.raises(PeerUnreachable, match="does not answer"):
        await road.pool.take(fresh=True)


@dataclass
class PlayedPort:
    """A gateway's port, shut until it is opened; what is tried to it is counted."""

    opens: bool = False
    tried: int = 0

    async def open_gateway(self, address: str, pin: str, tls: PeerTls) -> trio.abc.Stream:
        del address, pin, tls
        self.tried += 1
        if not self.opens:
            raise GatewayShut("the gateway at nowhere cannot be reached")
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            stream = await trio.open_tcp_stream(*listener.socket.getsockname())
        return TlsStream(stream, TLS.client_context)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> PlayedPort:
    played = PlayedPort()
    monkeypatch.setattr(gateway_module, "_open_gateway", played.open_gateway)
    monkeypatch.setattr(gateways_module, "RETRY_FIRST_S", 0.01)
    return played


async def test_a_shut_port_costs_one_request_a_try_and_opens_in_the_background(
    there: Ground, port: PlayedPort
) -> None:
    road = await there.roads.to(there.instance)
    for _ in range(3):
        await (await road.pool.take(fresh=True)).abort()
    assert len(there.overlay.carried) == 3
    assert (await there.roads.to(there.instance)).kind == "overlay"
    port.opens = True
    while (await there.roads.to(there.instance)).kind == "overlay":
        await trio.lowlevel.checkpoint()
    before = port.tried
    await (await road.pool.take(fresh=True)).abort()
    assert port.tried == before + 1
    assert len(there.overlay.carried) == 3


async def test_what_the_overlay_carried_is_not_used_again_once_the_port_is_open(
    there: Ground, port: PlayedPort
) -> None:
    road = await there.roads.to(there.instance)
    carried = await road.pool.take(fresh=True)
    port.opens = True
    while (await there.roads.to(there.instance)).kind == "overlay":
        await trio.lowlevel.checkpoint()
    carried.reusable = True
    assert not road.pool.keep(carried)
    await road.pool.drop(carried)
    assert road.pool.idle == 0


async def test_where_neither_way_leads_there_it_is_known_and_the_next_request_fails_at_once(
    there: Ground, port: PlayedPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateways_module, "RETRY_FIRST_S", 60.0)
    there.overlay.line = b""
    road = await there.roads.to(there.instance)
    assert not there.roads.leads_nowhere(OWNER.peer_id)
    for _ in range(2):
        with pytest.raises(PeerUnreachable, match="at nowhere"):
            await road.pool.take(fresh=True)
    assert port.tried == 1
    assert there.roads.leads_nowhere(OWNER.peer_id)
    say_peer(there.view, 5, machine="there", gateway=("127.0.0.1:2",))
    with pytest.raises(PeerUnreachable, match="at nowhere"):
        await road.pool.take(fresh=True)
    assert port.tried == 2, "at another address it is tried at once"


async def test_a_shut_gateway_to_which_the_overlay_does_not_lead_either_says_where_it_is(
    there: Ground,
) -> None:
    there.overlay.line = b""
    road = await there.roads.to(there.instance)
    with pytest.raises(PeerUnreachable, match=r"127\.0\.0\.1:1 cannot be reached"):
        await road.pool.take(fresh=True)


async def test_who_is_refused_by_a_gateway_does_not_try_another_way_in(
    there: Ground, nursery: trio.Nursery
) -> None:
    async def refuse(stream: trio.SocketStream) -> None:
        await stream.aclose()

    (listener,) = await nursery.start(partial(trio.serve_tcp, refuse, 0, host="127.0.0.1"))
    port = listener.socket.getsockname()[1]
    say_peer(there.view, 5, machine="there", gateway=("127.0.0.1:1", f"127.0.0.1:{port}"))
    road = await there.roads.to(there.instance)
    with pytest.raises(PeerUnreachable, match="does not answer"):
        await road.pool.take(fresh=True)
    assert not there.overlay.carried
    nursery.cancel_scope.cancel()
