"""Load hosts for programs, on one that runs in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lab.connecting import Lab, connect
from bench.lab.errors import BadInput, LabError, LoadFailed, NoSuchHost
from bench.lab.routing import RoutingRecord, RoutingTable
from overlay.errors import MyxoError
from overlay.identity import Identity
from proxy.control.routing_desk import RoutingCommand, RoutingDesk
from proxy.ranking import routing_table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(answering: str) -> str:
    return answering


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces") / "traces.csv"


@pytest.fixture(scope="module")
def g(traces: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("state")
    with connect(standalone=True, traces=traces, state_dir=folder, hostname="own") as lab:
        yield lab


def test_n_requests_of_each_client_are_sent_and_traced(g: Lab, url: str, traces: Path) -> None:
    group = g.spawn(url, num=3)
    assert len(group) == 3
    assert repr(group).splitlines()[0] == f"own:{url}:0"
    group.request(n=10, ia=("expovariate", 500)).wait(30)
    group.request(n=2).wait(30)
    assert [(s.sent, s.failed) for s in group.info()] == [(12, 0)] * 3
    g.call(g.fleet.flush)
    assert len(traces.read_text().splitlines()) == 1 + 36
    assert group.close(1) == [f"own:{url}:2"]
    assert len(group.close()) == 2
    assert group.info() == []


def test_a_rate_is_each_clients_and_a_pause_ends_requests_without_a_number(
    g: Lab, url: str
) -> None:
    group = g.spawn(url, num=2, seed=1)
    group.rps(0.5)
    assert [s.rps for s in group.info()] == [0.5, 0.5]
    sending = group.request(ia=0.01)
    with pytest.raises(TimeoutError):
        sending.wait(0.2)
    assert not sending.done()
    group.pause()
    sending.wait(30)
    assert [s.rps for s in group.info()] == [0, 0]
    group.close()


def test_groups_grow_and_add_up(g: Lab, url: str) -> None:
    group = g.spawn(url)
    more = group.add(2)
    assert (len(group), len(more)) == (3, 2)
    assert (group + more).ids == group.ids
    assert set(g.clients().ids) >= set(group.ids)
    with pytest.raises(BadInput, match="not made by one"):
        g.clients(group.ids[0]).add()
    with pytest.raises(LabError, match="no client nobody"):
        g.clients("nobody")
    group.close()
    assert repr(group) == "empty client group"


def test_who_waits_for_clients_that_are_closed_is_told(g: Lab, url: str) -> None:
    group = g.spawn(url)
    sending = group.request(n=100, ia=10.0)
    g.clients(*group.ids).close()
    with pytest.raises(LoadFailed, match="closed before all were sent"):
        sending.wait(30)


def test_one_request_is_answered_for_real(g: Lab, url: str) -> None:
    answered = g.request(url)
    assert (answered.status, answered.body) == (200, b"ok")


def test_what_is_shown_is_what_is_there(
    g: Lab, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    group = g.spawn(url)
    g.show.hosts()
    g.show.clients()
    g.show.info()
    printed = capsys.readouterr().out
    assert printed.startswith("own\nClient")
    assert group.ids[0] in printed
    with pytest.raises(NoSuchHost):
        g.hosts("nobody")
    group.close()


def test_without_a_proxy_the_routing_table_says_so(g: Lab) -> None:
    with pytest.raises(MyxoError, match="no proxy"):
        g.rtbl.records()


def test_a_routing_table_is_changed_as_a_whole() -> None:
    identity = Identity.from_seed(b"p" * 32)
    desk = RoutingDesk(routing_table.RoutingTable(), None, 4200, lambda _: None, identity)
    table = RoutingTable(
        lambda said: [{"proxy": "4200", **desk.answer(RoutingCommand.model_validate(said))}]
    )
    assert table.set("a", ["b:1", "c:1"]) == RoutingRecord("a", ("b:1", "c:1"), (1, 1))
    assert table.update_weights("a", [1, 2.5]).weights == (1, 2.5)
    assert table.append("a", "d:1").hosts == ("b:1", "c:1", "d:1")
    assert table.append("e", "f:1", 3) == RoutingRecord("e", ("f:1",), (3,))
    assert "b:1,c:1,d:1" in repr(table)
    table.remove("a")
    assert [record.service for record in table.records()] == ["e"]
    table.clear()
    assert table.record("e") is None
    with pytest.raises(BadInput, match="no service 'e'"):
        table.update_weights("e", [1])
    with pytest.raises(MyxoError, match="2 hosts and 1 weights"):
        table.set("a", ["b:1", "c:1"], [1])


def test_no_network_is_no_lab(tmp_path: Path) -> None:
    address = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWC1TrzrYkPDcMZQA9ewJ7ECdd4HdQU8RtGew65u2mQPMg"
    with pytest.raises((MyxoError, ExceptionGroup), match=r"no bootstrap node"):
        connect(address, state_dir=tmp_path, timeout_s=1.0)
