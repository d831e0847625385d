from collections import Counter

import pytest
import trio
import trio.testing

from bench.lab.errors import BadInput, LoadFailed, NoSuchHost
from bench.lab.experiments.carrying_out import carry_out
from bench.lab.experiments.steps import (
    CloseClients,
    Say,
    SendRequests,
    SetRate,
    Sleep,
    SpawnClients,
    Step,
    WaitUntil,
)
from bench.lab.load_hosts import Spawn
from bench.lab.testing import InMemoryLoadHosts, KeptTraces, open_in_memory


async def carried_out(
    *steps: Step, hosts: InMemoryLoadHosts, exp_id: str = "e1"
) -> list[tuple[str, str]]:
    """Return what was noted."""
    noted: list[tuple[str, str]] = []

    async def note(name: str, value: str) -> None:
        noted.append((name, value))

    await carry_out(steps, hosts, exp_id, note)
    return noted


async def test_waits_count_from_the_first_and_do_not_add_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sink = KeptTraces()
    steps = [SpawnClients("h.", "s")]
    async with open_in_memory(["h1", "h2"], sink, latency_s=0.0, clock=trio.current_time) as hosts:
        began = trio.current_time()
        await carried_out(
            *steps,
            WaitUntil(0),
            SetRate("h.", "s", 10, shared=True),
            WaitUntil(9.95),
            SetRate("h.", "s", 0, shared=True),
            WaitUntil(20),
            CloseClients("h.", "s"),
            hosts=hosts,
        )
        assert trio.current_time() - began == pytest.approx(20)
    assert len(sink.traces) == 100  # 5 a second each, and not 10


async def test_what_is_done_is_noted(autojump_clock: trio.testing.MockClock) -> None:
    async with open_in_memory(["h1"], KeptTraces()) as hosts:
        assert await carried_out(
            Say("begin"),
            SpawnClients("h1", "s", 2),
            SetRate("h1", "s", 0.5),
            Sleep(1),
            CloseClients("h1", "s"),
            hosts=hosts,
        ) == [
            ("echo", "begin"),
            ("spawn", "h1:s:0 h1:s:1"),
            ("rps", "h1 s 0.5"),
            ("close", "h1 s"),
        ]


async def test_requests_by_number_are_sent_by_the_experiments_own_clients(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sink = KeptTraces()
    async with open_in_memory(["h1", "h2"], sink) as hosts:
        (other,) = await hosts.spawn("h1", Spawn("s", exp_id="other"))
        noted = await carried_out(
            SpawnClients("h.", "s"),
            SendRequests("h.", "s", 5),
            CloseClients("h1", "s"),
            SendRequests("h.", "s", 3, 0.5),
            hosts=hosts,
        )
    assert ("request", "h. s 5") in noted
    counts = Counter(trace.client for trace in sink.traces)
    assert counts == {"h1:s:1": 5, "h2:s:0": 8}
    assert other not in counts


async def test_requests_of_nobody_are_refused(autojump_clock: trio.testing.MockClock) -> None:
    async with open_in_memory(["h1"], KeptTraces()) as hosts:
        with pytest.raises(BadInput, match="no clients of s on h1"):
            await carried_out(SendRequests("h1", "s", 5), hosts=hosts)


async def test_clients_that_are_left_are_ended_also_after_a_failure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_in_memory(["h1"], KeptTraces()) as hosts:
        with pytest.raises(LoadFailed):
            await carried_out(SpawnClients("h1", "s"), SetRate("h1", "other", 1), hosts=hosts)
        assert await hosts.clients() == []


async def test_clients_are_ended_when_it_is_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_in_memory(["h1"], KeptTraces()) as hosts:
        with trio.move_on_after(5):
            await carried_out(
                SpawnClients("h1", "s"), SetRate("h1", "s", 1), Sleep(60), hosts=hosts
            )
        assert await hosts.clients() == []


async def test_hosts_that_are_gone_keep_nobody_from_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_in_memory(["h1"], KeptTraces()) as hosts:
        hosts.lose("h1")
        with pytest.raises(NoSuchHost):
            await carried_out(SpawnClients("h1", "s"), hosts=hosts)
