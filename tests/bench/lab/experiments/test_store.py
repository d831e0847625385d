"""What every database must do; each of these runs in SQLite, PostgreSQL and MariaDB."""

import pytest
import trio
from sqlalchemy import URL, Connection, func, select

from bench.lab.errors import BadInput, NoSuchExperiment, StoreFailed, WrongState
from bench.lab.experiments import queries, tables
from bench.lab.experiments.records import Experiment, NodeFact, Task, TelemetryRow
from bench.lab.experiments.status import Change, Status
from bench.lab.experiments.store import SqlTraceSink, Store, open_store
from bench.lab.request_trace import FAILED, RequestTrace

TASK = Task("sleep 1", None)


def experiment(exp_id: str, created: float = 1.0) -> Experiment:
    return Experiment(exp_id, f"name of {exp_id}", "Zoë", created)


def trace(number: int, exp_id: str = "", status: int = 200) -> RequestTrace:
    due = 1_700_000_000.0 + number / 1000
    return RequestTrace(
        f"h1:s:0:{number}", "h1:s:0", "s", "h1", due, due, due + 0.005, status, "i1", exp_id
    )


async def add(store: Store, *exp_ids: str) -> None:
    for exp_id in exp_ids:
        await store.write(queries.add, experiment(exp_id), TASK)


async def rows(store: Store) -> dict[str, int]:
    def count(connection: Connection) -> dict[str, int]:
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in tables.SCHEMA.sorted_tables
        }

    return await store.read(count)


async def test_what_was_submitted_is_found_again(store: Store) -> None:
    task = Task(None, {"duration": 10.0}, {"note": "naïve ✓ 🙂"})
    await store.write(queries.add, experiment("e1", 1_700_000_000.123456), task)
    assert await store.read(queries.get, "e1") == experiment("e1", 1_700_000_000.123456)
    assert await store.read(queries.task, "e1") == task


async def test_ids_differ_by_case_and_are_taken_once(store: Store) -> None:
    await add(store, "e1", "E1")
    with pytest.raises(BadInput, match="an experiment e1 already"):
        await add(store, "e1")
    assert [e.exp_id for e in await store.read(queries.listed)] == ["e1", "E1"]


async def test_an_unknown_experiment_is_an_error(store: Store) -> None:
    with pytest.raises(NoSuchExperiment, match="'e9'"):
        await store.read(queries.get, "e9")


async def test_the_queue_is_first_in_first_out(store: Store) -> None:
    await add(store, "c", "a", "b")
    claimed = [await store.write(queries.claim, "d1", 5.0) for _ in range(4)]
    assert [c and (c.exp_id, c.status, c.start) for c in claimed] == [
        ("c", Status.RUNNING, 5.0),
        ("a", Status.RUNNING, 5.0),
        ("b", Status.RUNNING, 5.0),
        None,
    ]


async def test_two_daemons_never_run_the_same(store: Store, url: URL) -> None:
    await add(store, *(f"e{number}" for number in range(20)))
    claimed: list[str] = []

    async def claim_all(own: Store, runner: str) -> None:
        while (found := await own.write(queries.claim, runner, 1.0)) is not None:
            claimed.append(found.exp_id)

    async with open_store(url) as other, trio.open_nursery() as nursery:
        nursery.start_soon(claim_all, store, "d1")
        nursery.start_soon(claim_all, other, "d2")
    assert sorted(claimed) == sorted(f"e{number}" for number in range(20))


async def test_an_experiment_ends_once(store: Store) -> None:
    await add(store, "e1")
    assert not await store.write(queries.end, "e1", Change.FINISH, 2.0)  # it has not begun
    await store.write(queries.claim, "d1", 1.0)
    assert await store.write(queries.end, "e1", Change.FAIL, 2.0, "no load host")
    assert not await store.write(queries.end, "e1", Change.FINISH, 3.0)
    found = await store.read(queries.get, "e1")
    assert (found.status, found.end, found.error) == (Status.FAILED, 2.0, "no load host")


async def test_what_a_dead_daemon_ran_is_failed_and_nobody_elses(store: Store) -> None:
    await add(store, "mine", "others", "waiting")
    await store.write(queries.claim, "d1", 1.0)
    await store.write(queries.claim, "d2", 1.0)
    assert await store.write(queries.fail_lost, "d1", 2.0, "it died") == ["mine"]
    status = {e.exp_id: e.status for e in await store.read(queries.listed)}
    assert status == {
        "mine": Status.FAILED,
        "others": Status.RUNNING,
        "waiting": Status.QUEUED,
    }


async def test_cancelling_ends_what_waits_and_asks_for_what_runs(store: Store) -> None:
    await add(store, "running", "waiting")
    await store.write(queries.claim, "d1", 1.0)
    assert await store.write(queries.cancel, "waiting", 2.0)
    assert not await store.write(queries.cancel, "running", 2.0)
    assert not await store.write(queries.cancel, "running", 2.0)  # asking twice is no error
    assert await store.read(queries.to_cancel, "d1") == ["running"]
    assert await store.read(queries.to_cancel, "d2") == []
    with pytest.raises(WrongState, match="waiting is CANCELLED"):
        await store.write(queries.cancel, "waiting", 3.0)
    assert await store.write(queries.claim, "d1", 3.0) is None


async def test_deleting_leaves_nothing_behind(store: Store) -> None:
    for exp_id in ("kept", "gone"):
        await store.write(queries.add, experiment(exp_id), Task("sleep 1", None, {"a": 1}))
        await store.write(queries.add_traces, [trace(number, exp_id) for number in range(3)])
        rows_of = [TelemetryRow(1.0, "load_1", "", "h1", 0.25)]
        await store.write(queries.add_telemetry, exp_id, rows_of)
        await store.write(queries.add_facts, exp_id, [NodeFact("h1", "cpus", "2")])
        await store.write(queries.add_event, exp_id, 1.0, "echo", "hello")
    before = await rows(store)
    await store.write(queries.remove, "gone")
    assert {name: 2 * count for name, count in (await rows(store)).items()} == before
    with pytest.raises(NoSuchExperiment):
        await store.write(queries.remove, "gone")


async def test_what_runs_is_not_deleted(store: Store) -> None:
    await add(store, "e1")
    await store.write(queries.claim, "d1", 1.0)
    with pytest.raises(WrongState, match="cancel it before"):
        await store.write(queries.remove, "e1")


async def test_traces_come_back_as_they_went_in(store: Store) -> None:
    await add(store, "e1")
    odd = trace(1, "e1")._replace(client="h1:http://x/" + "y" * 900 + ":0", server="é,|\t'\"")
    sent = [trace(0, "e1"), odd, trace(2, "e1", FAILED)]
    await SqlTraceSink(store).write((*sent, trace(3)))
    found = await store.read(lambda c: c.execute(queries.series("traces", ["e1"])).all())
    assert [RequestTrace(**row._mapping) for row in found] == sent
    everything = await store.read(lambda c: c.execute(queries.series("traces", [])).all())
    assert everything[-1].exp_id is None


async def test_traces_of_a_deleted_experiment_are_dropped_and_counted(store: Store) -> None:
    await add(store, "e1")
    sink = SqlTraceSink(store)
    await sink.write([trace(0, "e1"), trace(1, "deleted"), trace(2)])
    assert sink.dropped == 1
    assert (await rows(store))["traces"] == 2


async def test_a_text_that_no_database_keeps_does_not_cost_the_other_traces(store: Store) -> None:
    await add(store, "e1")
    poisoned = trace(1, "e1")._replace(server="a\0b\ud800")
    await SqlTraceSink(store).write([trace(0, "e1"), poisoned, trace(2, "e1")])
    found = await store.read(lambda c: c.execute(queries.series("traces", ["e1"])).all())
    assert [row.server[:1] for row in found] == ["i", "a", "i"]


async def test_a_transaction_that_fails_changes_nothing(store: Store) -> None:
    await add(store, "e1")

    def half(connection: Connection) -> None:
        queries.add_event(connection, "e1", 1.0, "first", "")
        queries.add_event(connection, "nobody", 1.0, "second", "")

    with pytest.raises(StoreFailed):
        await store.write(half)
    assert (await rows(store))["events"] == 0


async def test_readers_and_writers_go_on_beside_each_other(store: Store) -> None:
    await add(store, "e1")
    sink = SqlTraceSink(store)

    async def write(number: int) -> None:
        for turn in range(5):
            await sink.write([trace(number * 1000 + turn * 100 + i, "e1") for i in range(100)])

    async def read() -> None:
        for _ in range(10):
            await store.read(queries.counts, "e1")

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(write, number)
            nursery.start_soon(read)
    assert (await store.read(queries.counts, "e1"))["traces"] == 2000


async def test_an_opened_database_is_opened_again_as_it_was(store: Store, url: URL) -> None:
    await add(store, "e1")
    async with open_store(url) as again:
        assert (await again.read(queries.get, "e1")).status is Status.QUEUED
