"""What tests have in the place of load hosts does what load hosts do."""

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from bench.lab.errors import LoadFailed, NoSuchHost
from bench.lab.load_hosts import Spawn
from bench.lab.testing import InMemoryLoadHosts, KeptTraces, open_in_memory


@pytest.fixture
def sink() -> KeptTraces:
    return KeptTraces()


@pytest.fixture
async def hosts(sink: KeptTraces) -> AsyncIterator[InMemoryLoadHosts]:
    async with open_in_memory(["pico1", "pico2", "nano1"], sink, clock=trio.current_time) as opened:
        yield opened


async def test_a_pattern_is_for_whole_names(hosts: InMemoryLoadHosts) -> None:
    assert await hosts.hosts("pico[0-9]") == ["pico1", "pico2"]
    with pytest.raises(NoSuchHost, match="'pico'"):
        await hosts.hosts("pico")


async def test_clients_are_numbered_and_send_nothing_yet(
    hosts: InMemoryLoadHosts, sink: KeptTraces, autojump_clock: MockClock
) -> None:
    ids = await hosts.spawn("pico.", Spawn("s", num=2))
    assert ids == ["pico1:s:0", "pico1:s:1", "pico2:s:0", "pico2:s:1"]
    await trio.sleep(10)
    assert sink.traces == []
    assert [c.sent for c in await hosts.clients()] == [0] * 4


async def test_a_rate_is_shared_by_the_clients_of_a_host(
    hosts: InMemoryLoadHosts, sink: KeptTraces, autojump_clock: MockClock
) -> None:
    await hosts.spawn("pico.", Spawn("s", num=2, exp_id="e1"))
    await hosts.rps("pico.", "s", 10)
    await trio.sleep(9.99)
    await hosts.rps("pico.", "s", 0)
    await trio.sleep(10)
    assert len(sink.traces) == 200
    assert {trace.exp_id for trace in sink.traces} == {"e1"}
    assert len({trace.request_id for trace in sink.traces}) == 200


async def test_a_number_of_requests_is_exact(
    hosts: InMemoryLoadHosts, sink: KeptTraces, autojump_clock: MockClock
) -> None:
    (client,) = await hosts.spawn("nano1", Spawn("s", seed=1))
    await hosts.request([client], 7, None)
    await hosts.request([client], 5, ("expovariate", 10.0))
    await hosts.request([client], 3, 0.5)
    assert len(sink.traces) == 15


async def test_an_experiments_clients_are_told_and_closed_alone(
    hosts: InMemoryLoadHosts, sink: KeptTraces, autojump_clock: MockClock
) -> None:
    for exp_id in ("e1", "e2"):
        await hosts.spawn("nano1", Spawn("s", exp_id=exp_id))
    await hosts.rps("nano1", "s", 10, "e1")
    await trio.sleep(1)
    assert {trace.exp_id for trace in sink.traces} == {"e1"}
    await hosts.close("nano1", "s", "e1")
    assert len(await hosts.clients()) == 1


async def test_clients_that_are_not_there_are_an_error(hosts: InMemoryLoadHosts) -> None:
    with pytest.raises(LoadFailed, match="no clients of s"):
        await hosts.rps("nano1", "s", 1)
    with pytest.raises(LoadFailed, match="no clients of s"):
        await hosts.close("nano1", "s")


async def test_a_lost_host_is_gone_with_its_clients(hosts: InMemoryLoadHosts) -> None:
    await hosts.spawn(".*", Spawn("s"))
    hosts.lose("nano1")
    assert await hosts.hosts() == ["pico1", "pico2"]
    assert {c.host for c in await hosts.clients()} == {"pico1", "pico2"}
