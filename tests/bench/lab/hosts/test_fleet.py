"""Real load hosts on a real overlay, and clients that are processes."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from sqlalchemy import Connection, select

from bench.lab.errors import BadInput, LoadFailed, NoSuchHost
from bench.lab.experiments import tables
from bench.lab.experiments.experiments import Experiments
from bench.lab.experiments.settings import chosen_database
from bench.lab.experiments.store import open_store
from bench.lab.hosts.apps import Deployed, pack
from bench.lab.hosts.fleet import Fleet
from bench.lab.hosts.messages import SpawnClients, Spawned, Work
from bench.lab.hosts.network import OverlayNetwork
from bench.lab.hosts.testing import Network, Server, until_there
from bench.lab.load_hosts import Spawn
from overlay.identity import Identity

pytestmark = pytest.mark.slow


async def test_hosts_are_known_by_name_as_soon_as_they_are_there(network: Network) -> None:
    await network.host("h1")
    await network.host("h2")
    async with network.fleet("h1", "h2") as fleet:
        assert await fleet.hosts() == ["h1", "h2"]
        assert await fleet.hosts("h[13]") == ["h1"]
        with pytest.raises(NoSuchHost, match="h1, h2"):
            await fleet.hosts("h")
        await network.lose("h2")
        await until_there(fleet, "h1")


async def test_n_requests_are_n_requests_and_each_has_a_trace(
    network: Network, server: Server
) -> None:
    await network.host("h1")
    await network.host("h2")
    async with network.fleet("h1", "h2") as fleet:
        ids = await fleet.spawn(".*", Spawn(server.url, num=2, exp_id="exp", seed=1))
        assert ids == [f"{h}:{server.url}:{n}" for h in ("h1", "h2") for n in (0, 1)]
        await fleet.request(ids, 25, ("expovariate", 200.0))
        await fleet.request(ids, 5, None)
        assert len(server.asked) == 4 * 30
        statuses = await fleet.clients()
        assert [(s.sent, s.failed, s.queue) for s in statuses] == [(30, 0, 0)] * 4
        await network.kept.until(4 * 30)
    traces = network.kept.traces
    assert len({t.request_id for t in traces}) == len(traces) == 4 * 30
    assert {t.exp_id for t in traces} == {"exp"}
    assert {t.host for t in traces} == {"h1", "h2"}
    assert {t.client for t in traces} == set(ids)
    assert all(t.status == 200 and t.created <= t.sent <= t.done for t in traces)


async def test_a_rate_is_what_a_hosts_clients_send_together(
    network: Network, server: Server
) -> None:
    await network.host("h1")
    async with network.fleet("h1") as fleet:
        await fleet.spawn("h1", Spawn(server.url, num=3))
        await fleet.rps("h1", server.url, 30)
        assert [s.rps for s in await fleet.clients()] == [10, 10, 10]
        await network.kept.until(45)
        await fleet.rps("h1", server.url, 0)
        await fleet.close("h1", server.url)
        assert await fleet.clients() == []
    dues = sorted(t.created for t in network.kept.traces)
    gaps = [later - due for due, later in pairwise(dues)]
    assert sum(gaps) / len(gaps) == pytest.approx(1 / 30, rel=0.1)


async def test_what_cannot_be_done_is_said_and_nothing_hangs(
    network: Network, server: Server
) -> None:
    await network.host("h1")
    async with network.fleet("h1") as fleet:
        with pytest.raises(LoadFailed, match="h1 has no clients of squeezenet: spawn some first"):
            await fleet.rps("h1", "squeezenet", 1)
        with pytest.raises(LoadFailed, match="no client of h1"):
            await fleet.request(["h1:squeezenet:0"], 1, None)
        with pytest.raises(LoadFailed, match="gone"):
            await fleet.request(["h9:squeezenet:0"], 1, None)
        with pytest.raises(BadInput, match="no client's id"):
            await fleet.request(["squeezenet"], 1, None)
        with pytest.raises(LoadFailed, match="neither a URL nor a service"):
            await fleet.spawn("h1", Spawn("No Such"))
        with pytest.raises(BadInput, match="num"):
            await fleet.spawn("h1", Spawn(server.url, num=1000))
        with pytest.raises(LoadFailed, match="method, path and kwargs, not colour"):
            await fleet.spawn("h1", Spawn(server.url, parameters={"colour": "red"}))
        with pytest.raises(BadInput, match="no client 'mine' is deployed"):
            await fleet.spawn("h1", Spawn(server.url, app="mine"))
        assert await fleet.clients() == []


async def test_a_lost_hosts_rate_is_sent_by_the_others_and_an_event_says_so(
    network: Network, server: Server
) -> None:
    await network.host("h1")
    await network.host("h2")
    async with network.fleet("h1", "h2") as fleet:
        ids = await fleet.spawn(".*", Spawn(server.url))
        await fleet.rps(".*", server.url, 5)
        await network.lose("h2")
        name, text = await network.told(1)
        assert name == "load_host.lost"
        assert re.search(rf"h2 is lost.*5 requests/s to {re.escape(server.url)}.*by h1", text)
        await until_rate(fleet, 10)
        with pytest.raises(LoadFailed, match="h2"):
            await fleet.request(ids[1:], 10, None)
        await network.host("h2")
        name, _ = await network.told(2)
        assert name == "load_host.restarted"
        assert [(s.host, s.rps) for s in await fleet.clients()] == [("h1", 10)]


async def test_a_rate_told_to_clients_by_their_ids_is_sent_by_those_that_are_left(
    network: Network, server: Server
) -> None:
    await network.host("h1")
    await network.host("h2")
    async with network.fleet("h1", "h2") as fleet:
        here, there = await fleet.spawn(".*", Spawn(server.url))
        [alone] = await fleet.spawn("h2", Spawn(f"{server.url}/other"))
        await fleet.rps_of([here, there], 4)
        await fleet.rps_of([alone], 7)
        await network.lose("h2")
        _, text = await network.told(1)
        assert f"4 requests/s to {server.url}, told to {there}, are now sent by {here}" in text
        assert f"7 requests/s to {server.url}/other, told to {alone}, are sent by nobody" in text
        await until_rate(fleet, 8)
        with pytest.raises(LoadFailed, match="h2: the host is gone"):
            await fleet.rps_of([here, there], 3)
        await until_rate(fleet, 3)


async def test_an_idle_client_sends_what_was_told_to_one_that_is_lost(
    network: Network, server: Server
) -> None:
    await network.host("h1")
    await network.host("h2")
    async with network.fleet("h1", "h2") as fleet:
        here, there = await fleet.spawn(".*", Spawn(server.url))
        await fleet.rps_of([there], 6)
        await network.lose("h2")
        await until_rate(fleet, 6)
        assert [s.client for s in await fleet.clients()] == [here]
        with pytest.raises(LoadFailed, match="h2: the host is gone"):
            await fleet.rps_of([there], 0)
        await until_rate(fleet, 0)


async def test_who_waits_for_requests_of_a_host_that_is_lost_is_told(
    network: Network, server: Server
) -> None:
    await network.host("h1")
    async with network.fleet("h1") as fleet:
        ids = await fleet.spawn("h1", Spawn(server.url))
        outcome: list[LoadFailed] = []

        async def wait() -> None:
            try:
                await fleet.request(ids, 1000, 1.0)
            except LoadFailed as exc:
                outcome.append(exc)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await network.kept.until(1)
                await network.lose("h1")
        assert "h1" in str(outcome[0])


async def test_one_request_is_answered_with_all_that_was_said(
    network: Network, server: Server
) -> None:
    await network.host("h1")
    async with network.fleet("h1") as fleet:
        answered = await fleet.ask("h1", Spawn(server.url, parameters={"path": "/a?b=1"}))
        assert (answered.status, answered.body) == (200, b"/a?b=1")
        assert ("x-said", "yes") in answered.fields
        refused = await fleet.ask("h1", Spawn("http://127.0.0.1:9"))
        assert refused.status == -1
        assert b"refused" in refused.body.lower() or refused.body


async def until_rate(fleet: Fleet, rate: float) -> None:
    """Return when the hosts that are there send so much."""
    with trio.fail_after(60):
        while sum(s.rps for s in await fleet.clients()) != rate:  # noqa: ASYNC110
            await trio.sleep(0.05)


async def deployed(network: Network, folder: Path, code: str) -> None:
    folder.mkdir()
    (folder / "manifest.yml").write_text("name: mine\n")
    (folder / "generator.py").write_text(code)
    Deployed.below(network.nodes.folder / "commander").put(pack(folder))


async def test_a_client_of_ones_own_goes_to_the_hosts_that_need_it(
    network: Network, server: Server, tmp_path: Path
) -> None:
    await network.host("h1")
    await network.host("h2")
    code = """
numbers = iter(range(1000))

def next_request():
    return "GET", f"/{context.parameters['colour']}/{next(numbers)}", {}
"""
    await deployed(network, tmp_path / "mine", code)
    async with network.fleet("h1", "h2") as fleet:
        work = Spawn(server.url, app="mine", parameters={"colour": "red"})
        ids = await fleet.spawn(".*", work)
        await fleet.request(ids, 3, None)
        assert sorted(server.asked) == sorted([f"/red/{n}" for n in range(3)] * 2)
        answered = await fleet.ask("h2", work)
        assert answered.body == b"/red/0"


async def test_a_client_that_breaks_ends_alone_and_says_why(
    network: Network, server: Server, tmp_path: Path
) -> None:
    await network.host("h1")
    code = """
import os
numbers = iter(range(3))

def next_request():
    if next(numbers, None) is None:
        if context.parameters["how"] == "exit":
            print("bye")
            os._exit(7)
        raise ValueError("no more")
    return "GET", "", {}
"""
    await deployed(network, tmp_path / "mine", code)
    async with network.fleet("h1") as fleet:
        [good] = await fleet.spawn("h1", Spawn(server.url))
        for how, why in (("exit", "ended with 7"), ("raise", "ValueError: no more")):
            work = Spawn(server.url, app="mine", parameters={"how": how})
            ids = await fleet.spawn("h1", work)
            with pytest.raises(LoadFailed, match=why):
                await fleet.request(ids, 100, None)
        assert [s.client for s in await fleet.clients()] == [good]
        assert len(await fleet.broken()) == 2
        await fleet.request([good], 2, None)


async def test_who_is_not_trusted_commands_nothing(
    network: Network, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await network.host("h1")
    async with network.fleet("h1") as fleet:
        stranger = Identity.generate()
        assert isinstance(fleet._network, OverlayNetwork)
        fleet._network._owner = stranger
        fleet._network._warrant = None
        with pytest.raises(LoadFailed, match=f"myxo allow {stranger.peer_id}"):
            await fleet.spawn("h1", Spawn(server.url))


async def test_a_name_that_is_taken_is_refused(network: Network) -> None:
    await network.host("h1")
    with pytest.raises(ExceptionGroup) as refused:
        await network.host("other", hostname="h1")
    assert refused.group_contains(BadInput, match="has a load host h1 already")


async def test_traces_may_stay_in_a_file_on_the_host(
    network: Network, server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "traces.csv"
    await network.host("h1", trace_logging="file", trace_file=path)
    async with network.fleet("h1") as fleet:
        ids = await fleet.spawn("h1", Spawn(server.url))
        await fleet.request(ids, 10, None)
        await fleet.close("h1", server.url)
        await network.lose("h1")
    lines = path.read_text().splitlines()
    assert len(lines) == 11
    assert lines[1].startswith(f"{ids[0]}:")
    assert network.kept.traces == []


async def test_traces_may_go_into_the_database_and_each_is_there_once(
    network: Network, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'traces.db'}"
    monkeypatch.setenv("MYXO_EXPERIMENTD_DATABASE", url)
    async with open_store(chosen_database()) as store:
        experiment = await Experiments(store).submit({"instructions": "sleep 1"})
        for host in ("h1", "h2"):
            await network.host(host, trace_logging="sql")
        async with network.fleet("h1", "h2") as fleet:
            mine = await fleet.spawn(".*", Spawn(server.url, num=2, exp_id=experiment.exp_id))
            others = await fleet.spawn("h1", Spawn(server.url))
            await fleet.request(mine, 25, None)
            await fleet.request(others, 10, None)
            await fleet.flush()
            await network.lose("h1")
            await network.lose("h2")
        found = await store.read(requests_by_experiment)
    assert len(server.asked) == 4 * 25 + 10
    assert {exp_id for exp_id, _ in found} == {experiment.exp_id, None}
    assert [exp_id for exp_id, _ in found].count(None) == 10
    assert len(found) == len(set(found)) == 4 * 25 + 10
    assert {request.rpartition(":")[0] for _, request in found} == {*mine, *others}
    assert network.kept.traces == []


def requests_by_experiment(connection: Connection) -> list[tuple[str | None, str]]:
    columns = tables.traces.c
    rows = connection.execute(select(columns.exp_id, columns.request_id))
    return [(exp_id, request_id) for exp_id, request_id in rows]


async def test_without_another_database_it_is_that_of_the_hosts_state_directory(
    network: Network, server: Server, tmp_path: Path
) -> None:
    await network.host("h1", trace_logging="sql", state_dir=tmp_path / "own")
    async with network.fleet("h1") as fleet:
        ids = await fleet.spawn("h1", Spawn(server.url))
        await fleet.request(ids, 3, None)
        await fleet.flush()
        await network.lose("h1")
    async with open_store(chosen_database(state_dir=tmp_path / "own")) as store:
        assert len(await store.read(requests_by_experiment)) == 3


async def test_an_order_that_arrives_twice_is_done_once(network: Network, server: Server) -> None:
    await network.host("h1")
    async with network.fleet("h1") as fleet:
        order = SpawnClients(work=Work(service=server.url))
        answers = [
            await fleet._network.order("h1", "key", order, Spawned, timeout_s=20) for _ in range(2)
        ]
        assert answers[0] == answers[1]
        assert len(await fleet.clients()) == 1


async def test_the_hosts_machines_are_measured(network: Network) -> None:
    await network.host("h1")
    async with network.fleet("h1") as fleet:
        rows = await fleet.sample(7.0)
        assert {row.node for row in rows} == {"h1"}
        assert {row.timestamp for row in rows} == {7.0}
        assert any(row.metric.startswith("memory") for row in rows)
        assert {fact.node for fact in await fleet.facts()} == {"h1"}
