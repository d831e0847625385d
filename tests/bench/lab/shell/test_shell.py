"""The shell on load hosts in memory."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from trio.testing import MockClock

from bench.lab.load_hosts import LoadHosts
from bench.lab.shell.shell import lab_shell
from bench.lab.shell.words import LAB_WORDS
from bench.lab.testing import KeptTraces, open_in_memory
from myxo.line_shell import Left
from myxo.rtable import Answer
from overlay.errors import MyxoError
from overlay.identity import Identity
from proxy.control.routing_desk import RoutingCommand, RoutingDesk
from proxy.ranking.routing_table import RoutingTable


class Person:
    """Somebody at the shell."""

    def __init__(self, hosts: LoadHosts, kept: KeptTraces) -> None:
        self.hosts = hosts
        self.said: list[str] = []
        self.kept = kept
        identity = Identity.from_seed(b"p" * 32)
        self.desk = RoutingDesk(RoutingTable(), None, 4200, lambda _: None, identity)
        self.shell = lab_shell(hosts, self.ask, self.said.append)

    async def ask(self, given: Mapping[str, Any]) -> Sequence[Answer]:
        answer = self.desk.answer(RoutingCommand.model_validate(given))
        return [{"proxy": f"4200 of {host}", **answer} for host in ("h1", "h2")]

    async def types(self, line: str) -> list[str]:
        self.said.clear()
        await self.shell.run(line)
        return list(self.said)


@pytest.fixture
async def person() -> AsyncIterator[Person]:
    kept = KeptTraces()
    async with open_in_memory(["h1", "h2", "pico"], kept) as hosts:
        yield Person(hosts, kept)


async def test_the_seeds_session_runs_as_it_is_written(
    person: Person, autojump_clock: MockClock
) -> None:
    assert await person.types("hosts h.*") == ["h1", "h2"]
    assert await person.types("spawn h1 squeezenet 2") == ["h1:squeezenet:0", "h1:squeezenet:1"]
    await person.types("rps h1 squeezenet 2.5")
    await person.types("sleep 3.6")  # each of the two clients sends at 0, 0.8, 1.6, 2.4 and 3.2 s
    await person.types("rps h1 squeezenet 0")
    assert len(person.kept.traces) >= 10
    assert await person.types("info") == [
        "Host  Service     Metric   Value",
        "h1    squeezenet  clients  2",
        "h1    squeezenet  rps      0",
        "h1    squeezenet  sent     10",
        "h1    squeezenet  failed   0",
        "h1    squeezenet  queue    0",
    ]
    assert len(await person.types("clients h1")) == 3
    await person.types("close h1 squeezenet")
    assert await person.types("clients") == ["Client  Rps  Sent  Failed  Queue"]


async def test_every_host_that_is_there_answers_a_ping(person: Person) -> None:
    lines = await person.types("ping")
    assert [line.split()[0] for line in lines] == ["Host", "h1", "h2", "pico"]


async def test_routing_commands_go_to_the_hosts_proxies(person: Person) -> None:
    said = await person.types("set squeezenet heisenberg:8080,einstein:8080 1,2")
    assert said == ["ok squeezenet: heisenberg:8080, einstein:8080 at 1, 2"]
    assert "squeezenet" in "\n".join(await person.types("list"))
    await person.types("unset squeezenet")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("spawn h1", r"argument error: usage: spawn host_pattern service \[num\]"),
        ("spawn h1 a 0", "no number from 1 to 256"),
        ("spawn h1 a many", "no number from 1 to 256"),
        ("spawn nobody a", "no load host is called 'nobody'"),
        ("rps h1 a", "argument error: usage: rps host_pattern service rps"),
        ("rps h1 a fast", "argument error: 'fast' are no requests a second"),
        ("rps h1 a -1", "no requests a second"),
        ("rps h1 a 1", "h1 has no clients of a"),
        ("close h1", "argument error: usage: close"),
        ("request h1 a", "argument error: usage: request host_pattern service count"),
        ("request h1 a 5", "h1 has no clients of a"),
        ("request h1 a 5 often:1", "no distribution 'often'"),
        ("dance", "no command 'dance'"),
    ],
)
async def test_a_mistake_is_named(person: Person, line: str, complaint: str) -> None:
    with pytest.raises(MyxoError, match=complaint):
        await person.types(line)


async def test_help_shows_usage_parameters_and_an_example(person: Person) -> None:
    listed = "\n".join(await person.types("help"))
    assert all(name in listed for name in LAB_WORDS)
    said = "\n".join(await person.types("help spawn"))
    assert said.startswith("Usage: spawn host_pattern service [num]")
    assert "num: the number of clients" in said
    with pytest.raises(Left):
        await person.types("exit")


async def test_requests_by_number_are_waited_for(person: Person, autojump_clock: MockClock) -> None:
    await person.types("spawn h. a 2")
    await person.types("request h1 a 10 0.5")
    assert [trace.client for trace in person.kept.traces].count("h1:a:0") == 10
    await person.types("request h2 a 3")
    assert len(person.kept.traces) == 2 * 10 + 2 * 3
