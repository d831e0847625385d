from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from overlay.allocation import (
    ALLOCATE_PROTOCOL,
    OFFER_PROTOCOL,
    AllocateReply,
    AllocateRequest,
    AllocationRefusal,
    Offer,
    OfferRequest,
)
from overlay.calls import CallRefused, serve_calls
from overlay.identity import Identity
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.node import Node, open_node
from overlay.records import InstanceState, Role, Room
from overlay.revision import Revision, SignedRevision
from overlay.settings import NodeSettings
from overlay.spec import ServiceSpec
from proxy.choosing import tender
from proxy.choosing.starting import Started, Starter
from proxy.errors import NeverReady, NothingFeasible
from proxy.ranking.limits import RttLimits
from proxy.ranking.offers import FIRST_S
from proxy.ranking.placement import Ranking

HELLO = ServiceName("hello")
ALICE = Identity.from_seed(b"a" * 32)
REVISION = SignedRevision.sign(
    ALICE, Revision(name=HELLO, number=1, spec=ServiceSpec(process="serve"))
)
NO_LIMITS = RttLimits()
ROOM = Room(cpu_millicores=1000, memory_mib=1000, instances=10)

Answer = Callable[[AllocateRequest], Awaitable[AllocateReply]]


@dataclass
class Played:
    """An allocator whose node is real and whose answer to the call is the test's."""

    node: Node
    answer: Answer
    asked: list[AllocateRequest] = field(default_factory=list)
    offer: Offer | None = field(default_factory=lambda: Offer(room=ROOM))

    async def offered(self, _: PeerId, request: OfferRequest) -> Offer:
        assert request.service == HELLO
        if self.offer is None:
            await trio.sleep_forever()
            raise AssertionError
        return self.offer

    async def allocate(self, _: PeerId, request: AllocateRequest) -> AllocateReply:
        self.asked.append(request)
        return await self.answer(request)

    async def ready(self, _: AllocateRequest) -> AllocateReply:
        signed = self.node.set_instance(
            InstanceId(f"i{len(self.asked)}"),
            service=HELLO,
            revision=1,
            state=InstanceState.READY,
            address="127.0.0.1:1",
            concurrency=5,
        )
        return AllocateReply(instance=signed, phases={"start": 0.25})


class FarStarter(Starter):
    """Takes the allocators of this machine for those of other machines, as far away."""

    def ranking(self, revision: SignedRevision, limits: RttLimits) -> Ranking:
        ranking = super().ranking(revision, limits)
        sites = (replace(s, allocator=replace(s.allocator, local=False)) for s in ranking.sites)
        return replace(ranking, sites=tuple(sites))


@dataclass
class Field:
    """A proxy's starter and the allocators that it can ask."""

    proxy: Node
    starter: Starter
    nursery: trio.Nursery
    allocators: list[Played]


def settings(tmp_path: Path, *bootstraps: str) -> NodeSettings:
    return NodeSettings(
        bootstraps=bootstraps,
        psk="secret",
        p2p_listen_addr="127.0.0.1:0",
        ephemeral=True,
        state_dir=tmp_path,
    )


@asynccontextmanager
async def field_of(tmp_path: Path, count: int, *, far: bool = False) -> AsyncIterator[Field]:
    """A proxy and `count` allocators; in the proxy's order, as the first has the most room."""
    with trio.fail_after(30):
        async with AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(open_node(settings(tmp_path), Role.PROXY))
            address = f"{proxy.record.addresses[0]}/p2p/{proxy.peer_id}"
            played = [
                await stack.enter_async_context(played_allocator(tmp_path, address, number))
                for number in range(count)
            ]
            while len(proxy.view.peers(Role.ALLOCATOR)) < count:
                await proxy.changed()
            nursery = await stack.enter_async_context(trio.open_nursery())
            starter = (FarStarter if far else Starter)(
                proxy.view, proxy.calls, nursery, proxy.take, Random(1)
            )
            yield Field(proxy, starter, nursery, played)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def played_allocator(tmp_path: Path, bootstrap: str, number: int) -> AsyncIterator[Played]:
    made: list[Played] = []

    def prepare(node: Node) -> None:
        played = Played(node, refusing_room)
        played.answer = played.ready
        made.append(played)
        serve_calls(node.host, ALLOCATE_PROTOCOL, AllocateRequest, played.allocate)
        serve_calls(node.host, OFFER_PROTOCOL, OfferRequest, played.offered)

    room = ROOM.model_copy(update={"cpu_millicores": 1000 - number})
    record = {"room": room, "runtimes": ("process",), "host": f"host{number}"}
    fields = {k: v for k, v in record.items() if k != "host"}
    own = settings(tmp_path, bootstrap).model_copy(update={"hostname": f"host{number}"})
    async with open_node(own, Role.ALLOCATOR, name=str(number), record=fields, prepare=prepare):
        yield made[0]


async def start(ground: Field, revision: SignedRevision, limits: RttLimits, **more: Any) -> Started:
    """Begin or join a flight and wait for its end."""
    return await ground.starter.begin(revision, limits, why="a test", **more).landed()


async def refusing_room(request: AllocateRequest) -> AllocateReply:
    raise CallRefused(AllocationRefusal.NO_ROOM, "all memory is taken")


async def test_a_started_instance_is_in_the_view_at_once(tmp_path: Path) -> None:
    async with field_of(tmp_path, 1) as ground:
        started = await start(ground, REVISION, NO_LIMITS, request_id="r1")
        (allocator,) = ground.allocators
        assert started == Started(allocator.node.peer_id, InstanceId("i1"), {"start": 0.25})
        (instance,) = ground.proxy.view.instances(HELLO)
        assert instance.key == (started.owner, started.instance)
        (request,) = allocator.asked
        assert request.request_id == "r1"
        assert SignedRevision.verified(request.revision) == REVISION


async def test_a_question_is_taken_back_when_the_last_who_waits_has_gone_and_not_before(
    tmp_path: Path,
) -> None:
    async with field_of(tmp_path, 1) as ground:
        (allocator,) = ground.allocators
        asked, over = trio.Event(), trio.Event()

        async def waits(_: AllocateRequest) -> AllocateReply:
            asked.set()
            try:
                await trio.sleep_forever()
            finally:
                over.set()
            raise AssertionError

        allocator.answer = waits
        one, other = trio.CancelScope(), trio.CancelScope()

        async def wait(scope: trio.CancelScope) -> None:
            with scope:
                await start(ground, REVISION, NO_LIMITS)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, one)
            nursery.start_soon(wait, other)
            await asked.wait()
            one.cancel()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not over.is_set()
            other.cancel()
            await over.wait()
        allocator.answer = allocator.ready
        started = await start(ground, REVISION, NO_LIMITS)
        assert started.instance == InstanceId("i2")


async def test_fifty_requests_at_once_make_one_call(tmp_path: Path) -> None:
    async with field_of(tmp_path, 1) as ground:
        go = trio.Event()
        (allocator,) = ground.allocators

        async def slow(request: AllocateRequest) -> AllocateReply:
            await go.wait()
            return await allocator.ready(request)

        allocator.answer = slow
        got: list[Started] = []

        async def begin() -> None:
            got.append(await start(ground, REVISION, NO_LIMITS))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(begin)
            while not allocator.asked:
                await trio.testing.wait_all_tasks_blocked()
            go.set()
        assert len(allocator.asked) == 1
        assert got == [got[0]] * 50


async def test_a_start_after_a_start_is_a_flight_of_its_own(tmp_path: Path) -> None:
    async with field_of(tmp_path, 1) as ground:
        first = await start(ground, REVISION, NO_LIMITS)
        second = await start(
            ground, REVISION, NO_LIMITS, exclude=frozenset({(first.owner, first.instance)})
        )
        assert second.instance == "i2"
        assert ground.allocators[0].asked[1].exclude == ("i1",)


async def test_allocators_are_asked_in_turn_until_one_has_room(tmp_path: Path) -> None:
    async with field_of(tmp_path, 2) as ground:
        first, second = ground.allocators
        first.answer = refusing_room
        started = await start(ground, REVISION, NO_LIMITS)
        assert started.owner == second.node.peer_id
        assert len(first.asked) == 1


async def test_of_machines_that_are_as_good_the_one_with_the_best_offer_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tender, "FIRST_S", 30.0)  # both answer, however busy the machine is
    async with field_of(tmp_path, 2, far=True) as ground:
        first, second = ground.allocators
        first.offer = Offer(room=ROOM, ahead=5)
        second.offer = Offer(room=ROOM)
        started = await start(ground, REVISION, NO_LIMITS)
        assert started.owner == second.node.peer_id
        assert first.asked == []


async def test_a_machine_that_does_not_answer_the_question_does_not_hold_up_the_start(
    tmp_path: Path,
) -> None:
    async with field_of(tmp_path, 2, far=True) as ground:
        first, second = ground.allocators
        first.offer = None  # it is asked and says nothing
        second.offer = Offer(room=ROOM, ready=True)
        with trio.fail_after(FIRST_S * 10):
            started = await start(ground, REVISION, NO_LIMITS)
        assert started.owner == second.node.peer_id


async def test_where_nobody_would_start_it_every_reason_is_told(tmp_path: Path) -> None:
    async with field_of(tmp_path, 3) as ground:
        for allocator in ground.allocators[:2]:
            allocator.answer = refusing_room
        ground.allocators[2].node.set_peer(runtimes=("docker",))
        last = ground.allocators[2].node.peer_id
        while (record := ground.proxy.view.peer(last)) is None or "docker" not in record.runtimes:
            await ground.proxy.changed()
        with pytest.raises(NothingFeasible) as refused:
            await start(ground, REVISION, NO_LIMITS)
        assert refused.value.status == 503
        assert sorted(refused.value.reasons) == [
            "host0: all memory is taken",
            "host1: all memory is taken",
            "host2: has docker, the service needs process",
        ]


async def test_without_allocators_it_says_so(tmp_path: Path) -> None:
    async with field_of(tmp_path, 0) as ground:
        with pytest.raises(NothingFeasible, match="there is no allocator"):
            await start(ground, REVISION, NO_LIMITS)


async def test_one_that_never_gets_ready_ends_the_flight_with_its_log(tmp_path: Path) -> None:
    async def never_ready(request: AllocateRequest) -> AllocateReply:
        raise CallRefused(AllocationRefusal.NOT_READY, "30 s passed", {"log": "no such file"})

    async with field_of(tmp_path, 2) as ground:
        ground.allocators[0].answer = never_ready
        with pytest.raises(NeverReady) as refused:
            await start(ground, REVISION, NO_LIMITS)
        assert "no such file" not in str(refused.value)
        assert refused.value.in_full().endswith("the end of its log:\nno such file")
        assert refused.value.status == 504
        assert ground.allocators[1].asked == []


async def test_an_allocator_that_dies_during_the_call_is_followed_by_the_next(
    tmp_path: Path,
) -> None:
    async with field_of(tmp_path, 2) as ground:
        first, second = ground.allocators

        async def die(request: AllocateRequest) -> AllocateReply:
            await first.node.host.disconnect(ground.proxy.peer_id)
            return await first.ready(request)

        first.answer = die
        started = await start(ground, REVISION, NO_LIMITS)
        assert started.owner == second.node.peer_id


async def test_an_allocator_that_answers_nonsense_is_followed_by_the_next(tmp_path: Path) -> None:
    async with field_of(tmp_path, 2) as ground:
        first, second = ground.allocators

        async def nonsense(request: AllocateRequest) -> AllocateReply:
            return AllocateReply.model_construct(instance="nothing", phases=3)  # type: ignore[arg-type]

        first.answer = nonsense
        assert (await start(ground, REVISION, NO_LIMITS)).owner == second.node.peer_id


async def test_an_allocator_that_answers_with_anothers_instance_is_followed_by_the_next(
    tmp_path: Path,
) -> None:
    async with field_of(tmp_path, 2) as ground:
        first, second = ground.allocators
        first.answer = second.ready
        assert (await start(ground, REVISION, NO_LIMITS)).owner == second.node.peer_id
        assert len(second.asked) == 1


async def test_a_client_that_leaves_does_not_take_the_others_start_with_it(
    tmp_path: Path,
) -> None:
    async with field_of(tmp_path, 1) as ground:
        (allocator,) = ground.allocators
        go = trio.Event()

        async def slow(request: AllocateRequest) -> AllocateReply:
            await go.wait()
            return await allocator.ready(request)

        allocator.answer = slow
        got: list[Started] = []

        async def leave() -> None:
            with trio.CancelScope() as scope:
                nursery.start_soon(stay, scope)
                await start(ground, REVISION, NO_LIMITS)
            assert scope.cancelled_caught

        async def stay(other: trio.CancelScope) -> None:
            nursery.start_soon(cancel, other)
            got.append(await start(ground, REVISION, NO_LIMITS))

        async def cancel(other: trio.CancelScope) -> None:
            while not allocator.asked:
                await trio.testing.wait_all_tasks_blocked()
            other.cancel()
            await trio.testing.wait_all_tasks_blocked()
            go.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
        assert [s.instance for s in got] == ["i1"]
        assert len(allocator.asked) == 1


async def test_those_who_wait_are_answered_when_the_proxy_stops(tmp_path: Path) -> None:
    async with field_of(tmp_path, 1) as ground:

        async def forever(request: AllocateRequest) -> AllocateReply:
            await trio.sleep_forever()
            raise AssertionError

        ground.allocators[0].answer = forever

        async def stop() -> None:
            while not ground.allocators[0].asked:
                await trio.testing.wait_all_tasks_blocked()
            ground.nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            with pytest.raises(NothingFeasible, match="stopping"):
                await start(ground, REVISION, NO_LIMITS)
