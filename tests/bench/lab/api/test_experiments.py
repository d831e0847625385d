"""Experiments over HTTP."""

import json
import os
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.lab.api.experiments import EXAMPLE
from bench.lab.api.guard import MAX_BODY_BYTES
from bench.lab.api.testing import InMemoryNetwork
from bench.lab.experiments import queries
from bench.lab.experiments.presence import LOCK, leave_word
from bench.lab.experiments.status import Change
from bench.lab.experiments.store import Store
from bench.lab.experiments.submission import read_submission

SEEDS_EXAMPLE = {
    "experiment": {"name": "my_experiment", "creator": "research star"},
    "configuration": {
        "duration": "10s",
        "interval": "2s",
        "workloads": [{"service": "alexnet", "ticks": [1, 2, 3, 1, 1]}],
    },
}


async def submitted(api: httpx.AsyncClient, **described: str) -> str:
    answer = await api.post("/experiments", json=EXAMPLE | {"experiment": described})
    assert answer.status_code == HTTPStatus.CREATED, answer.text
    exp_id: str = answer.json()
    return exp_id


async def run(store: Store, exp_id: str) -> None:
    started = await store.write(queries.claim, "a daemon", 100.0)
    assert started is not None
    assert started.exp_id == exp_id


def detail(answer: httpx.Response) -> str:
    said: str = answer.json()["detail"]
    return said


async def test_what_the_seed_documents_is_taken_word_for_word(api: httpx.AsyncClient) -> None:
    answer = await api.post("/experiments", json=SEEDS_EXAMPLE)
    assert answer.status_code == HTTPStatus.CREATED
    exp_id = answer.json()
    assert answer.headers["location"] == f"/api/experiments/{exp_id}"
    shown = (await api.get(f"/experiments/{exp_id}")).json()
    assert (shown["id"], shown["name"], shown["creator"], shown["status"]) == (
        *(exp_id, "my_experiment", "research star", "QUEUED"),
    )
    assert shown["configuration"]["workloads"][0]["ticks"] == [1, 2, 3, 1, 1]
    assert shown["summary"]["requests"] == 0


async def test_the_documented_example_works(api: httpx.AsyncClient) -> None:
    read_submission(EXAMPLE)
    document = (await api.get("/openapi.json")).json()
    body = document["paths"]["/api/experiments"]["post"]["requestBody"]
    example = body["content"]["application/json"]["example"]
    assert (await api.post("/experiments", json=example)).status_code == HTTPStatus.CREATED


async def test_commands_can_be_submitted_too(api: httpx.AsyncClient) -> None:
    text = "spawn h1 squeezenet 1\nrps h1 squeezenet 1\nsleep 1\nclose h1 squeezenet"
    exp_id = (await api.post("/experiments", json={"instructions": text})).json()
    assert (await api.get(f"/experiments/{exp_id}")).json()["instructions"] == text


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "instructions or a configuration"),
        ({"configuration": {"duration": "10s", "interval": "2s", "workloads": []}}, "workloads"),
        (
            {"configuration": SEEDS_EXAMPLE["configuration"] | {"interval": "5s"}},  # type: ignore[operator]
            "workloads[0].ticks: there are 5",
        ),
        ({"configuration": EXAMPLE["configuration"], "colour": "red"}, "colour: there is no such"),
        ({"instructions": "dance"}, "line 1: there is no command 'dance'"),
        ([], "must be an object"),
        ("text", "must be an object"),
    ],
)
async def test_what_cannot_be_run_is_refused_with_the_reason(
    api: httpx.AsyncClient, body: Any, reason: str
) -> None:
    answer = await api.post("/experiments", json=body)
    assert answer.status_code == HTTPStatus.BAD_REQUEST
    assert reason in detail(answer)
    assert (await api.get("/experiments")).json() == []


async def test_what_is_no_json_is_refused(api: httpx.AsyncClient) -> None:
    answer = await api.post("/experiments", content=b'{"a"')
    assert answer.status_code == HTTPStatus.BAD_REQUEST
    assert "no JSON" in detail(answer)


def test_too_much_is_refused(served: httpx.Client) -> None:
    answer = served.post("/experiments", content=b" " * (MAX_BODY_BYTES + 1))
    assert answer.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def test_too_much_is_refused_too_where_nobody_says_how_much_it_is(served: httpx.Client) -> None:
    pieces = (b" " * 65536 for _ in range(MAX_BODY_BYTES // 65536 + 1))
    answer = served.post("/experiments", content=pieces)
    assert answer.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


async def test_without_a_load_host_nothing_is_taken(
    api: httpx.AsyncClient, network: InMemoryNetwork
) -> None:
    network.there.clear()
    answer = await api.post("/experiments", json=SEEDS_EXAMPLE)
    assert answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert "no load host" in detail(answer)
    assert "retry-after" in answer.headers
    assert (await api.get("/experiments")).json() == []


async def test_a_daemon_beside_the_api_that_sends_the_load_itself_is_a_load_host(
    api: httpx.AsyncClient, network: InMemoryNetwork, tmp_path: Path
) -> None:
    network.there.clear()
    fd = os.open(tmp_path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        leave_word(fd, "here")
    finally:
        os.close(fd)
    assert (await api.get("/hosts")).json() == ["here"]
    answer = await api.post("/experiments", json=SEEDS_EXAMPLE)
    assert answer.status_code == HTTPStatus.CREATED


async def test_an_id_is_taken_once(api: httpx.AsyncClient) -> None:
    await submitted(api, id="mine")
    again = await api.post("/experiments", json=EXAMPLE | {"experiment": {"id": "mine"}})
    assert again.status_code == HTTPStatus.CONFLICT
    assert "mine" in detail(again)


async def test_what_is_not_there_is_not_found(api: httpx.AsyncClient) -> None:
    for path in ("", "/charts", "/traces", "/export"):
        answer = await api.get(f"/experiments/none{path}")
        assert answer.status_code == HTTPStatus.NOT_FOUND
        assert "'none'" in detail(answer)
    assert (await api.delete("/experiments/none")).status_code == HTTPStatus.NOT_FOUND
    assert (await api.get("/compare?id=none")).status_code == HTTPStatus.NOT_FOUND
    assert (await api.get("/nothing")).status_code == HTTPStatus.NOT_FOUND


async def test_deleting_cancels_what_waits_and_then_deletes_it(api: httpx.AsyncClient) -> None:
    exp_id = await submitted(api)
    assert (await api.delete(f"/experiments/{exp_id}")).json() == exp_id
    assert (await api.get(f"/experiments/{exp_id}")).json()["status"] == "CANCELLED"
    assert (await api.delete(f"/experiments/{exp_id}")).status_code == HTTPStatus.OK
    assert (await api.get(f"/experiments/{exp_id}")).status_code == HTTPStatus.NOT_FOUND


async def test_deleting_what_runs_has_its_daemon_cancel_it(
    api: httpx.AsyncClient, store: Store
) -> None:
    exp_id = await submitted(api)
    await run(store, exp_id)
    assert (await api.delete(f"/experiments/{exp_id}")).status_code == HTTPStatus.OK
    assert await store.read(queries.to_cancel, "a daemon") == [exp_id]


async def test_lists_are_cut_into_pages_by_state(api: httpx.AsyncClient, store: Store) -> None:
    ids = [await submitted(api, id=f"e{number}") for number in range(5)]
    await run(store, ids[0])
    await store.write(queries.end, ids[0], Change.FINISH, 200.0)
    await run(store, ids[1])

    async def listed(**query: Any) -> tuple[list[str], str]:
        answer = await api.get("/experiments", params=query)
        return [e["id"] for e in answer.json()], answer.headers["x-total-count"]

    assert await listed() == (ids, "5")
    assert await listed(status=["FINISHED", "RUNNING"]) == (ids[:2], "2")
    assert await listed(status="QUEUED", limit=2) == (ids[2:4], "3")
    assert await listed(status="QUEUED", limit=2, offset=2) == (ids[4:], "3")
    assert await listed(newest=True, limit=1) == (ids[4:], "5")
    wrong = await api.get("/experiments", params={"status": "DANCING"})
    assert wrong.status_code == HTTPStatus.BAD_REQUEST


async def test_several_are_compared_in_the_order_in_which_they_are_named(
    api: httpx.AsyncClient,
) -> None:
    ids = [await submitted(api, id=exp_id) for exp_id in ("a", "b")]
    answer = await api.get("/compare", params={"id": ids[::-1]})
    assert [account["id"] for account in answer.json()] == ["b", "a"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["configuration", "workloads", "ticks", "duration", "id", "experiment"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON.map(json.dumps) | st.text(max_size=200))
def test_nothing_that_is_sent_is_an_error_of_the_api(served: httpx.Client, body: str) -> None:
    answer = served.post("/experiments", content=body.encode("utf-8", errors="replace"))
    assert answer.status_code in {HTTPStatus.BAD_REQUEST, HTTPStatus.CREATED}
    assert answer.status_code == HTTPStatus.CREATED or detail(answer)
