"""The API as a whole: what it says of itself, and what it adds to every answer."""

import re
from http import HTTPStatus

import httpx

from bench.lab.api.application import PAGE

SEEDS_ROUTES = {
    "/api",
    "/api/hosts",
    "/api/worker",
    "/api/services",
    "/api/experiments",
    "/api/experiments/{exp_id}",
    "/api/apps",
    "/api/apps/{name}",
    "/api/apps/{name}/download",
}


async def test_it_lists_its_routes_the_seeds_among_them(api: httpx.AsyncClient) -> None:
    routes = (await api.get(str(api.base_url).rstrip("/"))).json()
    assert {route["uri"] for route in routes} >= SEEDS_ROUTES
    methods = {route["uri"]: route["methods"] for route in routes}
    assert methods["/api/experiments"] == ["GET", "POST"]
    assert methods["/api/experiments/{exp_id}"] == ["DELETE", "GET"]


async def test_each_route_is_documented_and_all_that_is_referred_to_is_there(
    api: httpx.AsyncClient,
) -> None:
    answer = await api.get("/openapi.json")
    document = answer.json()
    for uri, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description"), f"{method} {uri}"
    schemas = document["components"]["schemas"]
    referred = set(re.findall(r'"#/components/schemas/(\w+)"', answer.text))
    assert referred <= schemas.keys()
    assert "Configuration" in referred


async def test_the_page_is_served_and_no_other_site_may_use_it(api: httpx.AsyncClient) -> None:
    root = str(api.base_url).removesuffix("/api/")
    page = await api.get(f"{root}/")
    assert page.text == (PAGE / "index.html").read_text()
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in page.headers
    for escape in ("/../app.py", "/%2e%2e/parts.py", "//etc/passwd"):
        assert (await api.get(f"{root}{escape}")).status_code == HTTPStatus.NOT_FOUND


async def test_a_page_elsewhere_is_refused(api: httpx.AsyncClient) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = await api.get("/experiments", headers=headers)
        assert answer.status_code == HTTPStatus.FORBIDDEN
    rebound = await api.get("/experiments", headers={"Host": "evil.example"})
    assert rebound.status_code == HTTPStatus.MISDIRECTED_REQUEST
