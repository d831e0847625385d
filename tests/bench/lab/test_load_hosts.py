"""What every kind of load hosts does: those in memory that tests have, and those on the overlay."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from bench.lab.errors import LoadFailed, NoSuchHost
from bench.lab.hosts.testing import Kept, open_network, open_server
from bench.lab.load_hosts import LoadHosts, Spawn
from bench.lab.testing import open_in_memory

pytestmark = pytest.mark.slow


@dataclass
class Hosts:
    """Hosts h1 and h2, what they are asked for, and the traces of that."""

    all: LoadHosts
    service: str
    kept: Kept
    lose: Callable[[str], Awaitable[None]]


@pytest.fixture(params=["memory", "overlay"])
async def hosts(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nursery: trio.Nursery,
) -> AsyncIterator[Hosts]:
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path / "config"))
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            kept = Kept()
            memory = await stack.enter_async_context(open_in_memory(["h1", "h2"], kept))

            async def lose(host: str) -> None:
                await trio.lowlevel.checkpoint()
                memory.lose(host)

            yield Hosts(memory, "a", kept, lose)
            return
        server = await open_server(nursery)
        network = await stack.enter_async_context(open_network(tmp_path))
        await network.host("h1")
        await network.host("h2")
        fleet = await stack.enter_async_context(network.fleet("h1", "h2"))
        yield Hosts(fleet, server.url, network.kept, network.lose)


async def test_load_hosts_do_what_they_are_told(hosts: Hosts) -> None:
    service = hosts.service
    assert await hosts.all.hosts() == ["h1", "h2"]
    with pytest.raises(NoSuchHost, match="no load host is called 'h'"):
        await hosts.all.hosts("h")
    with pytest.raises(NoSuchHost, match="no load host is called 'x'"):
        await hosts.all.spawn("x", Spawn(service))
    no_clients = f"h1 has no clients of {service}: spawn some first"
    with pytest.raises(LoadFailed, match=no_clients):
        await hosts.all.rps("h1", service, 1)
    with pytest.raises(LoadFailed, match=no_clients):
        await hosts.all.close("h1", service)

    ids = await hosts.all.spawn(".*", Spawn(service, num=2, exp_id="one"))
    assert ids == [f"{host}:{service}:{n}" for host in ("h1", "h2") for n in (0, 1)]
    assert [(s.client, s.rps, s.sent) for s in await hosts.all.clients()] == [
        (client, 0, 0) for client in ids
    ]
    await hosts.all.request(ids, 4, None)
    await hosts.all.request(ids, 3, ("expovariate", 200.0))
    await hosts.all.request(ids, 2, 0.01)
    await hosts.all.flush()
    assert len({t.request_id for t in hosts.kept.traces}) == len(hosts.kept.traces) == 4 * 9

    [other] = await hosts.all.spawn("h1", Spawn(service, exp_id="two"))
    await hosts.all.rps("h1", service, 20, "two")
    rates = {s.client: s.rps for s in await hosts.all.clients("h1")}
    assert rates == {ids[0]: 0, ids[1]: 0, other: 20}
    await hosts.kept.until(4 * 9 + 3)
    await hosts.all.close("h1", service, "two")
    assert {s.client for s in await hosts.all.clients()} == set(ids)
    await hosts.all.flush()
    assert {t.exp_id for t in hosts.kept.traces} == {"one", "two"}
    assert {t.client for t in hosts.kept.traces if t.exp_id == "two"} == {other}

    await hosts.lose("h2")
    with trio.fail_after(60):
        while await hosts.all.hosts() != ["h1"]:  # noqa: ASYNC110  (there is no event for it)
            await trio.sleep(0.05)
    with pytest.raises(LoadFailed):
        await hosts.all.request(ids[2:], 1, None)
    assert {s.host for s in await hosts.all.clients()} == {"h1"}
