from collections.abc import Sequence

from bench.lab.errors import LoadFailed
from bench.lab.experiments.nodes import EveryNode
from bench.lab.experiments.records import NodeFact, TelemetryRow


class Told:
    def __init__(self, *names: str) -> None:
        self._names = names

    async def sample(self, now: float) -> Sequence[TelemetryRow]:
        return [TelemetryRow(now, "cpu", "", name, 1.0) for name in self._names]

    async def facts(self) -> Sequence[NodeFact]:
        return [NodeFact(name, "cpus", "2") for name in self._names]


class Silent(Told):
    async def sample(self, now: float) -> Sequence[TelemetryRow]:
        raise LoadFailed(f"h1 is gone at {now}")

    async def facts(self) -> Sequence[NodeFact]:
        raise LoadFailed("h1 is gone")


async def test_load_hosts_are_measured_beside_this_machine() -> None:
    nodes = EveryNode(Told("here"), Told("h1", "h2"))
    assert [row.node for row in await nodes.sample(7.0)] == ["here", "h1", "h2"]
    assert [fact.node for fact in await nodes.facts()] == ["here", "h1", "h2"]


async def test_a_load_host_on_this_machine_is_told_once() -> None:
    assert [row.node for row in await EveryNode(Told("here"), Told("here")).sample(7.0)] == ["here"]


async def test_hosts_that_do_not_answer_cost_their_rows_alone() -> None:
    nodes = EveryNode(Told("here"), Silent())
    assert [row.node for row in await nodes.sample(7.0)] == ["here"]
    assert [fact.node for fact in await nodes.facts()] == ["here"]
