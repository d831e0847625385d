from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from overlay.leases import (
    Acquire,
    Bridge,
    Granted,
    Hello,
    Occupant,
    Release,
    Released,
    Report,
    Welcome,
)
from overlay.names import InstanceId, SandboxId, ServiceName
from proxy.backend import leases
from proxy.backend.leases import Lease, LeaseHolder
from proxy.route.caller import Caller
from proxy.testing import PlayedAllocator, played_allocator

HELLO = Hello(proxy_port=4200, control="/p")
I1, I2 = InstanceId("i1"), InstanceId("i2")
S1 = SandboxId("s1")
AT = "127.0.0.1:1"


@asynccontextmanager
async def held(path: Path) -> AsyncIterator[tuple[PlayedAllocator, LeaseHolder]]:
    """A holder that is connected to a played allocator which grants I1."""
    welcomed = trio.Event()
    with trio.fail_after(60):
        async with played_allocator(path / "s") as allocator, trio.open_nursery() as nursery:
            holder = LeaseHolder(path / "s", HELLO, lambda *_: welcomed.set())
            allocator.addresses[I1] = AT
            nursery.start_soon(holder.run)
            assert await allocator.heard() == HELLO
            await welcomed.wait()
            yield allocator, holder
            nursery.cancel_scope.cancel()


async def leased(allocator: PlayedAllocator, holder: LeaseHolder) -> Lease:
    lease = await holder.acquire(I1)
    assert lease is not None
    assert await allocator.heard() == Acquire(instance=I1)
    return lease


async def until_voided(lease: Lease) -> None:
    while not lease.releasing:
        await trio.testing.wait_all_tasks_blocked()
        await trio.lowlevel.checkpoint()


async def test_a_granted_lease_is_kept_and_not_asked_for_again(tmp_path: Path) -> None:
    async with held(tmp_path) as (allocator, holder):
        lease = await leased(allocator, holder)
        assert lease.address == AT
        assert await holder.acquire(I1) is lease
        assert holder.get(I1) is lease


async def test_many_that_want_a_lease_at_once_ask_once_and_share_it(tmp_path: Path) -> None:
    async with held(tmp_path) as (allocator, holder):
        got: list[Lease | None] = []

        async def acquire() -> None:
            got.append(await holder.acquire(I1))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(acquire)
        assert len({id(lease) for lease in got}) == 1
        assert got[0] is not None
        assert await allocator.heard() == Acquire(instance=I1)
        await allocator.say(Release(instance=I1))
        assert isinstance(await allocator.heard(), Report)  # no second Acquire came before


async def test_what_is_refused_is_no_lease(tmp_path: Path) -> None:
    async with held(tmp_path) as (_, holder):
        assert await holder.acquire(I2) is None


async def test_an_occupant_is_told_on_whether_it_was_asked_for_or_not(tmp_path: Path) -> None:
    async with held(tmp_path) as (allocator, holder):
        send, told = trio.open_memory_channel[tuple[SandboxId, Caller]](5)
        holder.occupied = lambda sandbox, caller: send.send_nowait((sandbox, caller))
        web = Occupant(sandbox=S1, service=ServiceName("web"), instance=I1)
        await allocator.say(Occupant(sandbox=S1), web)
        assert await told.receive() == (S1, Caller(ServiceName("web"), I1))
        with send, told, pytest.raises(trio.WouldBlock):
            told.receive_nowait()


async def test_without_an_allocator_there_is_no_lease(tmp_path: Path) -> None:
    assert await LeaseHolder(tmp_path / "none", HELLO, lambda *_: None).acquire(I1) is None


async def test_an_idle_lease_is_handed_back_at_once(tmp_path: Path) -> None:
    async with held(tmp_path) as (allocator, holder):
        lease = await leased(allocator, holder)
        await allocator.say(Release(instance=I1))
        assert await allocator.heard() == Report(instance=I1, in_flight=0)
        assert await allocator.heard() == Released(instance=I1)
        assert lease.releasing
        assert holder.get(I1) is None


async def test_a_lease_in_use_is_handed_back_with_its_last_request_and_gets_no_new_one(
    tmp_path: Path,
) -> None:
    async with held(tmp_path) as (allocator, holder):
        lease = await leased(allocator, holder)
        holder.begin(lease)
        holder.begin(lease)
        await allocator.say(Release(instance=I1))
        await until_voided(lease)
        assert await holder.acquire(I1) is None
        await holder.end(lease, 0.25)
        await holder.end(lease, 0.5)
        reports = []
        while isinstance(message := await allocator.heard(), Report):
            reports.append(message)
        assert message == Released(instance=I1)
        assert reports[-1].in_flight == 0
        assert sum(r.served for r in reports) == 2
        assert sum(r.service_time_s for r in reports) == pytest.approx(0.75)


async def test_a_lease_that_is_taken_back_in_the_moment_of_its_grant_is_not_used(
    tmp_path: Path,
) -> None:
    async with held(tmp_path) as (allocator, holder):
        allocator.answers = False
        got: list[Lease | None] = []

        async def acquire() -> None:
            got.append(await holder.acquire(I1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(acquire)
            assert await allocator.heard() == Acquire(instance=I1)
            await allocator.say(Granted(instance=I1, address=AT), Release(instance=I1))
        assert isinstance(await allocator.heard(), Report)
        assert await allocator.heard() == Released(instance=I1)
        usable = [lease for lease in got if lease is not None and not lease.releasing]
        assert usable == []


async def test_a_lease_handed_back_can_be_had_again_and_the_words_keep_their_order(
    tmp_path: Path,
) -> None:
    async with held(tmp_path) as (allocator, holder):
        first = await leased(allocator, holder)
        holder.begin(first)
        await allocator.say(Release(instance=I1))
        await until_voided(first)
        second: list[Lease | None] = []

        async def acquire() -> None:
            second.append(await holder.acquire(I1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(holder.end, first, 0.1)
            nursery.start_soon(trio.lowlevel.checkpoint)
            nursery.start_soon(acquire)
        if second == [None]:
            second = [await holder.acquire(I1)]
        assert second[0] is not None
        assert second[0] is not first
        said = []
        while not isinstance(message := await allocator.heard(), Acquire):
            said.append(message)
        assert said[-1] == Released(instance=I1)


async def test_the_connections_end_voids_every_lease_also_those_in_use(tmp_path: Path) -> None:
    async with held(tmp_path) as (allocator, holder):
        lease = await leased(allocator, holder)
        holder.begin(lease)
        await allocator.hang_up()
        await until_voided(lease)
        assert holder.get(I1) is None
        await holder.end(lease, 0.1)
        assert await allocator.heard() == HELLO  # it connects anew
        again = None
        while again is None:
            again = await holder.acquire(I1)
            await trio.lowlevel.checkpoint()
        assert again is not lease
        assert again.in_flight == 0


async def test_the_connections_end_answers_who_waits_for_a_lease(tmp_path: Path) -> None:
    async with held(tmp_path) as (allocator, holder):
        allocator.answers = False
        async with trio.open_nursery() as nursery:

            async def hang_up() -> None:
                assert await allocator.heard() == Acquire(instance=I1)
                await allocator.hang_up()

            nursery.start_soon(hang_up)
            assert await holder.acquire(I1) is None


async def test_a_cancelled_acquirer_leaves_the_lease_to_the_next(tmp_path: Path) -> None:
    async with held(tmp_path) as (_, holder):
        with trio.CancelScope() as scope:
            scope.cancel()
            await holder.acquire(I1)
        assert scope.cancelled_caught
        assert await holder.acquire(I1) is not None


async def test_an_allocator_that_talks_nonsense_costs_the_leases_and_no_more(
    tmp_path: Path,
) -> None:
    async with held(tmp_path) as (allocator, holder):
        lease = await leased(allocator, holder)
        assert allocator._connection is not None
        await allocator._connection._stream.send_all(b'{"kind": "surprise"}\n')
        await until_voided(lease)
        assert await allocator.heard() == HELLO


async def test_an_allocator_that_dies_while_it_is_reported_to_costs_the_leases_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "REPORT_PERIOD_S", 0.0)
    async with held(tmp_path) as (allocator, holder):
        lease = await leased(allocator, holder)
        async with trio.open_nursery() as nursery:

            async def use() -> None:
                while not lease.releasing:
                    holder.begin(lease)
                    await holder.end(lease, 0.0)
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(use)
            while not isinstance(await allocator.heard(), Report):
                pass
            await allocator.hang_up()
        while not isinstance(await allocator.heard(), Hello):
            pass


async def test_use_is_reported_in_the_background_once_for_each_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "REPORT_PERIOD_S", 0.01)
    async with held(tmp_path) as (allocator, holder):
        lease = await leased(allocator, holder)
        holder.begin(lease)
        assert await allocator.heard() == Report(instance=I1, in_flight=1)
        await holder.end(lease, 0.5)
        expected = Report(instance=I1, in_flight=0, served=1, service_time_s=0.5)
        assert await allocator.heard() == expected


async def test_that_an_instance_has_nothing_to_do_any_more_is_reported_at_once(
    tmp_path: Path,
) -> None:
    async with held(tmp_path) as (allocator, holder):
        lease = await leased(allocator, holder)
        holder.begin(lease)
        with trio.fail_after(leases.REPORT_PERIOD_S * 20):
            assert (await _report(allocator)).in_flight == 1
        heard_at = trio.current_time()
        await holder.end(lease, 0.0)
        assert (await _report(allocator)).in_flight == 0
        assert trio.current_time() - heard_at < leases.REPORT_PERIOD_S


async def _report(allocator: PlayedAllocator) -> Report:
    heard = await allocator.heard()
    assert isinstance(heard, Report)
    return heard


async def test_the_allocators_word_on_the_bridge_reaches_the_proxy(tmp_path: Path) -> None:
    welcomes: list[Welcome] = []
    came = trio.Event()

    def welcomed(_: LeaseHolder, welcome: Welcome) -> None:
        welcomes.append(welcome)
        if welcome.bridges:
            came.set()

    with trio.fail_after(60):
        async with played_allocator(tmp_path / "s") as allocator, trio.open_nursery() as nursery:
            nursery.start_soon(LeaseHolder(tmp_path / "s", HELLO, welcomed).run)
            assert await allocator.heard() == HELLO
            await allocator.say(Welcome(bridges=(Bridge(interface="myxo0", address="10.9.0.1"),)))
            await came.wait()
            assert welcomes[-1] == Welcome(bridges=(Bridge(interface="myxo0", address="10.9.0.1"),))
            nursery.cancel_scope.cancel()
