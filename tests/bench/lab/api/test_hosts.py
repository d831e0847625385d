"""What is in the network, over HTTP."""

from collections.abc import AsyncIterator
from http import HTTPStatus

import httpx
import pytest

from bench.lab.api.experiments import EXAMPLE
from bench.lab.api.network import NoNetwork
from bench.lab.api.settings import ApiSettings
from bench.lab.api.testing import InMemoryNetwork, open_api


async def test_load_hosts_are_listed_by_both_names(api: httpx.AsyncClient) -> None:
    for path in ("/hosts", "/worker"):
        assert (await api.get(path)).json() == ["h1", "h2"]


async def test_services_are_listed_as_the_seed_does(api: httpx.AsyncClient) -> None:
    assert (await api.get("/services")).json() == [{"name": "alexnet"}, {"name": "squeezenet"}]


async def test_the_routing_table_is_set_shown_and_cleared(api: httpx.AsyncClient) -> None:
    wanted = {"hosts": ["heisenberg:8080", "einstein:8080"], "weights": [1, 2.5]}
    record = {"service": "squeezenet"} | wanted
    assert (await api.put("/routes/squeezenet", json=wanted)).json() == record
    assert (await api.get("/routes")).json() == [record]
    assert (await api.get("/routes/squeezenet")).json() == record
    assert (await api.delete("/routes/squeezenet")).status_code == HTTPStatus.OK
    gone = await api.get("/routes/squeezenet")
    assert gone.status_code == HTTPStatus.NOT_FOUND
    assert (await api.delete("/routes/squeezenet")).status_code == HTTPStatus.NOT_FOUND
    await api.put("/routes/alexnet", json={"hosts": ["h:1"]})
    assert (await api.delete("/routes")).json() == 1


@pytest.mark.parametrize(
    "wanted", [{}, {"hosts": []}, {"hosts": "h:1"}, {"hosts": ["h:1"], "weights": [1, 2]}]
)
async def test_a_wrong_route_is_refused_with_the_reason(
    api: httpx.AsyncClient, wanted: dict[str, object]
) -> None:
    answer = await api.put("/routes/squeezenet", json=wanted)
    assert answer.status_code == HTTPStatus.BAD_REQUEST
    assert "hosts" in answer.json()["detail"]


async def test_without_load_hosts_there_is_no_routing_table(
    api: httpx.AsyncClient, network: InMemoryNetwork
) -> None:
    network.there.clear()
    assert (await api.get("/hosts")).json() == []
    assert (await api.get("/routes")).status_code == HTTPStatus.SERVICE_UNAVAILABLE


@pytest.fixture
async def alone(settings: ApiSettings) -> AsyncIterator[httpx.AsyncClient]:
    """An API that is in no network."""
    async with (
        open_api(settings, NoNetwork()) as url,
        httpx.AsyncClient(base_url=f"{url}/api") as client,
    ):
        yield client


async def test_an_api_in_no_network_says_so_and_queues_all_the_same(
    alone: httpx.AsyncClient,
) -> None:
    for path in ("/hosts", "/services", "/routes"):
        answer = await alone.get(path)
        assert answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE
        assert "--bootstrap" in answer.json()["detail"]
    assert (await alone.post("/experiments", json=EXAMPLE)).status_code == HTTPStatus.CREATED
