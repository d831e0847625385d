"""Requests that were looked at, in each kind of database."""

import trio
from sqlalchemy import Connection, insert

from bench.lab.experiments import queries, tables
from bench.lab.experiments.records import Experiment, Task
from bench.lab.experiments.seen import Seen, SeenRequests
from bench.lab.experiments.status import Change
from bench.lab.experiments.store import SqlTraceSink, Store
from bench.lab.experiments.summary import Summary, summarised
from bench.lab.request_trace import RequestTrace

Request = tuple[float, float, int]


async def add(store: Store, exp_id: str, created: float = 1.0) -> Experiment:
    experiment = Experiment(exp_id, exp_id, "me", created)
    await store.write(queries.add, experiment, Task("sleep 1", None))
    return experiment


async def keep(store: Store, exp_id: str, *requests: Request) -> None:
    await SqlTraceSink(store).write(
        [
            RequestTrace(f"h:s:0:{n}", "h:s:0", "s", "h", due, due, done, status, "", exp_id)
            for n, (due, done, status) in enumerate(requests)
        ]
    )


def keep_numbered(connection: Connection, exp_id: str, number: int, request: Request) -> None:
    due, done, status = request
    row = {"number": number, "exp_id": exp_id, "created": due, "done": done, "status": status}
    others = dict.fromkeys(("request_id", "client", "service", "host", "server"), "")
    connection.execute(insert(tables.traces), row | others | {"sent": due})


async def test_each_look_is_of_all_requests_so_far(store: Store) -> None:
    seen, experiment = SeenRequests(), await add(store, "e1")
    kept: list[Request] = []
    await add(store, "other")
    for number in range(4):
        found = await store.read(seen.look, experiment)
        assert found.summary == summarised(kept)
        fresh = [(float(number), number + 0.5, 200), (number + 0.1, number + 2.0, 500)]
        await keep(store, "e1", *fresh)
        await keep(store, "other", (0.0, 9.0, 200))
        kept += fresh
    assert (await store.read(seen.look, experiment)).rows.tolist() == [list(r) for r in kept]


async def test_what_was_seen_is_not_read_again(store: Store) -> None:
    seen, experiment = SeenRequests(), await add(store, "e1")
    await keep(store, "e1", (0.0, 1.0, 200))
    first = await store.read(seen.look, experiment)
    assert await store.read(seen.look, experiment) is first
    assert first.summary is first.summary
    await keep(store, "e1", (1.0, 2.0, 200))
    last, fresh = await store.read(queries.requests_after, "e1", first.last)
    assert (last > first.last, fresh.tolist()) == (True, [[1.0, 2.0, 200.0]])


async def test_a_row_with_a_lower_number_that_comes_later_is_seen(store: Store) -> None:
    seen, experiment = SeenRequests(), await add(store, "e1")
    await store.write(keep_numbered, "e1", 10, (1.0, 2.0, 200))
    await store.read(seen.look, experiment)
    await store.write(keep_numbered, "e1", 5, (0.0, 1.0, 200))
    found = await store.read(seen.look, experiment)
    assert found.rows[:, 0].tolist() == [0.0, 1.0]


async def test_an_id_that_is_used_again_is_another_experiment(sqlite_store: Store) -> None:
    seen, experiment = SeenRequests(), await add(sqlite_store, "e1")
    await keep(sqlite_store, "e1", (0.0, 1.0, 200))
    await sqlite_store.read(seen.look, experiment)
    await sqlite_store.write(queries.cancel, "e1", 2.0)
    await sqlite_store.write(queries.remove, "e1")
    again = await add(sqlite_store, "e1", created=3.0)
    assert (await sqlite_store.read(seen.look, again)).summary == Summary(0, 0, 0.0)


async def test_what_is_kept_has_a_bound(sqlite_store: Store) -> None:
    seen = SeenRequests(most_rows=5)
    looks: dict[str, Seen] = {}
    for exp_id in ("e1", "e2", "e3"):
        experiment = await add(sqlite_store, exp_id)
        await keep(sqlite_store, exp_id, (0.0, 1.0, 200), (1.0, 2.0, 200))
        looks[exp_id] = await sqlite_store.read(seen.look, experiment)
    for exp_id, same in (("e3", True), ("e2", True), ("e1", False)):
        experiment = await sqlite_store.read(queries.get, exp_id)
        found = await sqlite_store.read(seen.look, experiment)
        assert (found is looks[exp_id]) is same
        assert found.summary == looks[exp_id].summary


async def test_an_experiment_larger_than_that_is_seen_and_not_kept(sqlite_store: Store) -> None:
    seen, experiment = SeenRequests(most_rows=1), await add(sqlite_store, "e1")
    await keep(sqlite_store, "e1", (0.0, 1.0, 200), (1.0, 2.0, 200))
    first = await sqlite_store.read(seen.look, experiment)
    second = await sqlite_store.read(seen.look, experiment)
    assert second is not first
    assert second.summary == first.summary == summarised([(0.0, 1.0, 200), (1.0, 2.0, 200)])


async def test_looks_at_once_agree(sqlite_store: Store) -> None:
    seen, experiment = SeenRequests(), await add(sqlite_store, "e1")
    await sqlite_store.write(queries.end, "e1", Change.CANCEL, 2.0)
    await keep(sqlite_store, "e1", *((n / 1000, n / 1000 + 1, 200) for n in range(25_000)))
    found: list[Seen] = []

    async def look() -> None:
        found.append(await sqlite_store.read(seen.look, experiment))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(look)
    assert {len(one.rows) for one in found} == {25_000}
    assert len({id(one) for one in found}) == 1
