from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
import trio
from sqlalchemy import Connection, select

from bench.lab.errors import StoreFailed
from bench.lab.experiments import queries, tables
from bench.lab.experiments.daemon import DIED, STOPPED, Daemon, Pace
from bench.lab.experiments.experiments import Experiments
from bench.lab.experiments.records import Experiment, NodeFact, TelemetryRow
from bench.lab.experiments.status import ENDED, Change, Status
from bench.lab.experiments.store import P, Query, SqlTraceSink, Store, T
from bench.lab.load_hosts import LoadHosts
from bench.lab.testing import InMemoryLoadHosts, eventually, open_in_memory

FAST = Pace(look_s=0.01, period_s=0.02, retry_s=0.01)
SHORT = "spawn h1 s 1\nrps h1 s 100\nsleep 0.1\nclose h1 s"
EVENTS = select(tables.events).where(tables.events.c.name == "policy")
LONG = "spawn h1 s 1\nrps h1 s 100\nsleep 600"


class OneNode:
    """A machine on which one thing is measured."""

    async def sample(self, now: float) -> Sequence[TelemetryRow]:
        return [TelemetryRow(now, "load_1", "", "h1", 0.5)]

    async def facts(self) -> Sequence[NodeFact]:
        return [NodeFact("h1", "cpus", "2")]


@asynccontextmanager
async def one_node() -> AsyncIterator[OneNode]:
    yield OneNode()


class AwayAtTheEnd(Store):
    """A database that twice does not take that an experiment has finished."""

    refusals = 2

    async def write(self, query: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if Change.FINISH in args and self.refusals:
            self.refusals -= 1
            raise StoreFailed("it is away")
        return await super().write(query, *args, **kwargs)


def a_daemon(store: Store, hosts: LoadHosts, pace: Pace = FAST) -> Daemon:
    return Daemon(store, hosts, one_node, "d1", pace)


@pytest.fixture
async def hosts(sqlite_store: Store) -> AsyncIterator[InMemoryLoadHosts]:
    async with open_in_memory(["h1", "h2"], SqlTraceSink(sqlite_store)) as opened:
        yield opened


@pytest.fixture
def experiments(sqlite_store: Store) -> Experiments:
    return Experiments(sqlite_store)


async def settled(
    experiments: Experiments, exp_id: str, wanted: Callable[[Status], bool] = ENDED.__contains__
) -> Experiment:
    """Return the experiment once its state is as wanted."""

    async def look() -> Experiment | None:
        found = await experiments.get(exp_id)
        return found if wanted(found.status) else None

    return await eventually(look)


def running(daemon: Daemon) -> AbstractAsyncContextManager[trio.Nursery]:
    @asynccontextmanager
    async def run() -> AsyncIterator[trio.Nursery]:
        async with trio.open_nursery() as nursery:
            await nursery.start(daemon.run)
            yield nursery
            nursery.cancel_scope.cancel()

    return run()


async def test_an_experiment_is_run_and_all_of_it_is_kept(
    sqlite_store: Store, hosts: InMemoryLoadHosts, experiments: Experiments
) -> None:
    submitted = await experiments.submit({"instructions": "echo hello\n" + SHORT})
    async with running(a_daemon(sqlite_store, hosts)):
        ended = await settled(experiments, submitted.exp_id)
    assert (ended.status, ended.error) == (Status.FINISHED, "")
    assert ended.start is not None
    assert ended.end is not None
    assert ended.created <= ended.start < ended.end
    account = await experiments.show(submitted.exp_id)
    assert account.summary.requests == account.rows["traces"] >= 1
    assert account.rows["telemetry"] >= 1
    assert account.rows["nodeinfo"] == 1
    events = await sqlite_store.read(
        lambda c: c.execute(queries.series("events", [submitted.exp_id])).all()
    )
    assert [event.name for event in events] == ["echo", "spawn", "rps", "close"]


async def test_a_configuration_shares_its_rate_among_all_hosts(
    sqlite_store: Store, hosts: InMemoryLoadHosts, experiments: Experiments
) -> None:
    workload = {"service": "s", "ticks": [100, 50], "clients_per_host": 2}
    configuration = {"duration": "400ms", "interval": "200ms", "workloads": [workload]}
    submitted = await experiments.submit({"configuration": configuration})
    async with running(a_daemon(sqlite_store, hosts)):
        ended = await settled(experiments, submitted.exp_id)
    assert (ended.status, ended.error) == (Status.FINISHED, "")
    traces = await sqlite_store.read(lambda c: c.execute(queries.series("traces", [])).all())
    clients = {"h1:s:0", "h1:s:1", "h2:s:0", "h2:s:1"}
    assert {trace.client for trace in traces} == clients


async def test_they_run_one_after_the_other_in_the_order_of_submission(
    sqlite_store: Store, hosts: InMemoryLoadHosts, experiments: Experiments
) -> None:
    ids = [(await experiments.submit({"instructions": SHORT})).exp_id for _ in range(3)]
    async with running(a_daemon(sqlite_store, hosts)):
        ended = [await settled(experiments, exp_id) for exp_id in ids]
    spans = [(e.start or 0, e.end or 0) for e in ended]
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


async def test_overlapping_runs_of_one_service_keep_their_own_data(
    sqlite_store: Store, hosts: InMemoryLoadHosts, experiments: Experiments
) -> None:
    one = await experiments.submit({"instructions": SHORT.replace("0.1", "0.5")})
    other = await experiments.submit({"instructions": SHORT.replace("100", "200")})
    async with running(a_daemon(sqlite_store, hosts, replace(FAST, parallel=2))):
        first = await settled(experiments, one.exp_id)
        second = await settled(experiments, other.exp_id)
    assert first.start is not None
    assert second.end is not None
    assert (second.start or 0) < (first.end or 0), "they did not overlap"
    for account in await experiments.compare([one.exp_id, other.exp_id]):
        assert account.rows["traces"] >= 1
        assert account.rows["telemetry"] >= 1
    traces = await sqlite_store.read(lambda c: c.execute(queries.series("traces", [])).all())
    senders = {(trace.exp_id, trace.client) for trace in traces}
    assert {exp_id for exp_id, _ in senders} == {one.exp_id, other.exp_id}
    assert {client for _, client in senders} == {"h1:s:0", "h1:s:1"}
    assert len(senders) == 2


async def test_what_cannot_be_done_fails_with_its_reason_and_the_next_one_runs(
    sqlite_store: Store, hosts: InMemoryLoadHosts, experiments: Experiments
) -> None:
    wrong = await experiments.submit({"instructions": "spawn nobody s 1"})
    right = await experiments.submit({"instructions": SHORT})
    async with running(a_daemon(sqlite_store, hosts)):
        failed = await settled(experiments, wrong.exp_id)
        assert (failed.status, failed.error) == (Status.FAILED, "no load host is called 'nobody'")
        assert (await settled(experiments, right.exp_id)).status is Status.FINISHED


async def test_a_bug_in_one_experiment_does_not_end_the_daemon(
    sqlite_store: Store, hosts: InMemoryLoadHosts, experiments: Experiments
) -> None:
    class Broken(OneNode):
        async def facts(self) -> Sequence[NodeFact]:
            raise ZeroDivisionError("a bug")

    @asynccontextmanager
    async def broken() -> AsyncIterator[OneNode]:
        yield Broken()

    submitted = await experiments.submit({"instructions": LONG})
    async with running(Daemon(sqlite_store, hosts, broken, "d1", FAST)):
        failed = await settled(experiments, submitted.exp_id)
        assert failed.status is Status.FAILED
        again = await experiments.submit({"instructions": "sleep 0"})
        await settled(experiments, again.exp_id)


async def test_a_row_that_cannot_be_run_fails_alone(
    sqlite_store: Store, hosts: InMemoryLoadHosts, experiments: Experiments
) -> None:
    submitted = await experiments.submit({"instructions": "sleep 1"})

    def spoil(connection: Connection) -> None:
        connection.exec_driver_sql("UPDATE instructions SET instructions = 'jump'")

    await sqlite_store.write(spoil)
    async with running(a_daemon(sqlite_store, hosts)):
        failed = await settled(experiments, submitted.exp_id)
    assert "no command 'jump'" in failed.error


async def test_a_running_experiment_is_cancelled_and_its_clients_are_ended(
    sqlite_store: Store, hosts: InMemoryLoadHosts, experiments: Experiments
) -> None:
    submitted = await experiments.submit({"instructions": LONG})
    async with running(a_daemon(sqlite_store, hosts)):
        await settled(experiments, submitted.exp_id, Status.RUNNING.__eq__)
        await eventually(hosts.clients)
        assert not await experiments.cancel(submitted.exp_id)
        ended = await settled(experiments, submitted.exp_id)
        assert (ended.status, ended.error) == (Status.CANCELLED, "")
        assert await hosts.clients() == []


async def test_a_queued_experiment_is_cancelled_at_once_and_never_runs(
    sqlite_store: Store, hosts: InMemoryLoadHosts, experiments: Experiments
) -> None:
    submitted = await experiments.submit({"instructions": SHORT})
    assert await experiments.cancel(submitted.exp_id)
    last = await experiments.submit({"instructions": "sleep 0"})
    async with running(a_daemon(sqlite_store, hosts)):
        await settled(experiments, last.exp_id)
    assert (await experiments.get(submitted.exp_id)).start is None


async def test_a_daemon_that_is_stopped_fails_what_it_runs_and_leaves_the_queue(
    sqlite_store: Store, hosts: InMemoryLoadHosts, experiments: Experiments
) -> None:
    ran = await experiments.submit({"instructions": LONG})
    waited = await experiments.submit({"instructions": SHORT})
    async with running(a_daemon(sqlite_store, hosts)):
        await settled(experiments, ran.exp_id, Status.RUNNING.__eq__)
    stopped = await experiments.get(ran.exp_id)
    assert (stopped.status, stopped.error) == (Status.FAILED, STOPPED)
    assert await hosts.clients() == []
    async with running(a_daemon(sqlite_store, hosts)):
        assert (await settled(experiments, waited.exp_id)).status is Status.FINISHED


async def test_what_a_killed_daemon_ran_is_failed_at_the_next_start_and_the_queue_goes_on(
    sqlite_store: Store, hosts: InMemoryLoadHosts, experiments: Experiments
) -> None:
    lost = await experiments.submit({"instructions": LONG})
    waited = await experiments.submit({"instructions": SHORT})
    await sqlite_store.write(queries.claim, "d1", 1.0)  # and then it was killed
    await sqlite_store.write(queries.add_event, lost.exp_id, 1.0, "echo", "before")
    async with running(a_daemon(sqlite_store, hosts)):
        assert (await settled(experiments, waited.exp_id)).status is Status.FINISHED
    account = await experiments.show(lost.exp_id)
    assert (account.experiment.status, account.experiment.error) == (Status.FAILED, DIED)
    assert account.rows["events"] == 1


async def test_a_database_that_is_away_for_a_while_costs_nothing(
    sqlite_store: Store, hosts: InMemoryLoadHosts, experiments: Experiments
) -> None:
    submitted = await experiments.submit({"instructions": "sleep 0.05"})

    store = AwayAtTheEnd(sqlite_store._reads, sqlite_store._limiter)
    async with running(a_daemon(store, hosts)):
        assert (await settled(experiments, submitted.exp_id)).status is Status.FINISHED


async def test_what_happens_to_a_host_is_noted_for_whoever_runs(
    sqlite_store: Store, hosts: InMemoryLoadHosts, experiments: Experiments
) -> None:
    submitted = await experiments.submit({"instructions": "sleep 600"})
    waiting = await experiments.submit({"instructions": "sleep 600"})
    daemon = a_daemon(sqlite_store, hosts)
    async with running(daemon):
        await settled(experiments, submitted.exp_id, Status.RUNNING.__eq__)
        daemon.tell("load_host.lost", "h1 is lost")

        async def events() -> int:
            return (await experiments.show(submitted.exp_id)).rows["events"]

        await eventually(events)
        assert (await experiments.show(waiting.exp_id)).rows["events"] == 0


class Spread:
    """Which policy services are spread by, and all that they were."""

    def __init__(self) -> None:
        self.now = "as defined"
        self.seen: list[str] = []

    @asynccontextmanager
    async def balanced(self, services: Sequence[str], policy: str) -> AsyncIterator[None]:
        assert self.now == "as defined", "two at once"
        self.now = f"{policy} {','.join(services)}"
        self.seen.append(self.now)
        yield
        self.now = "as defined"


def by_policy(policy: str, service: str = "s") -> dict[str, object]:
    workload = {"service": service, "ticks": [100]}
    configuration = {"duration": 0.1, "interval": 0.1, "workloads": [workload], "policy": policy}
    return {"name": policy, "configuration": configuration}


async def test_a_policy_is_in_force_while_its_experiment_runs_one_at_a_time(
    sqlite_store: Store, hosts: LoadHosts, experiments: Experiments
) -> None:
    spread = Spread()
    pace = replace(FAST, parallel=2)
    daemon = Daemon(sqlite_store, hosts, one_node, "d1", pace, balanced=spread.balanced)
    names = ["random", "rr"]
    ids = [(await experiments.submit(by_policy(policy))).exp_id for policy in names]
    async with running(daemon):
        for exp_id in ids:
            assert (await settled(experiments, exp_id)).status is Status.FINISHED
    assert (sorted(spread.seen), spread.now) == (["random s", "round_robin s"], "as defined")
    rows = await sqlite_store.read(lambda connection: list(connection.execute(EVENTS)))
    assert sorted(row.value for row in rows) == ["random s", "round_robin s"]


async def test_a_policy_without_a_network_fails_its_experiment_and_says_what_to_do(
    sqlite_store: Store, hosts: LoadHosts, experiments: Experiments
) -> None:
    exp_id = (await experiments.submit(by_policy("random"))).exp_id
    async with running(a_daemon(sqlite_store, hosts)):
        found = await settled(experiments, exp_id)
    assert found.status is Status.FAILED
    assert "`myxo up`" in found.error
