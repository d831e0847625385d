from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
import trio.testing

from overlay.errors import PeerUnreachable
from overlay.identity import Identity
from overlay.leases import Hello, Release
from overlay.names import InstanceId, ServiceName
from overlay.passphrase import network_keys
from overlay.records import InstanceRecord, InstanceState, PeerRecord, Role, Version, sign_record
from overlay.testing import bury, cut, empty_view, meet
from overlay.tls import open_tls
from overlay.view import InstanceView, View
from proxy.roads import Road, Roads
from proxy.testing import PlayedAllocator, played_allocator

ME, OWNER = (Identity.from_seed(bytes([n]) * 32) for n in range(2))
NAME, I1 = ServiceName("hello"), InstanceId("i1")
TLS = open_tls(network_keys("secret"), ME.peer_id)


@dataclass
class Ground:
    view: View
    roads: Roads
    allocator: PlayedAllocator

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


@asynccontextmanager
async def ground_of(tmp_path: Path, *, machine: str = "here") -> AsyncIterator[Ground]:
    with trio.fail_after(15):
        async with (
            played_allocator(tmp_path / "s") as allocator,
            trio.open_nursery() as nursery,
        ):
            allocator.addresses[I1] = "127.0.0.1:1"
            view = empty_view(ME, "here")
            say_peer(view, machine=machine, control=str(tmp_path / "s"))
            say_instance(view)
            roads = Roads(view, TLS, nursery, 4200, lambda _: None)
            await roads.follow()
            yield Ground(view, roads, allocator)
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
