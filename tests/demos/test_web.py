"""The web demo: what each of its services makes of a request, and the three of them together."""

import re
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import pytest

from bench.network import Network
from demos.serving import Refused
from demos.web.api.server import checked
from demos.web.front.server import page
from registry.conf.service import read_conf

DEMO = Path(__file__).resolve().parents[2] / "demos" / "web"
SEEN = {"species": "Fuligo septica", "place": "a rotten beech", "count": "3"}


def test_a_sighting_is_kept_as_it_was_meant() -> None:
    said = SEEN | {"place": " a  rotten\nbeech ", "weather": "rain"}
    assert checked(said) == SEEN | {"count": 3}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("species", ""),
        ("species", "x" * 101),
        ("place", "  "),
        ("count", "0"),
        ("count", "-1"),
        ("count", "many"),
        ("count", "²"),
        ("count", "10001"),
        ("count", "9" * 5000),
    ],
)
def test_a_wrong_field_of_a_sighting_is_named(field: str, value: str) -> None:
    with pytest.raises(Refused, match=field) as refused:
        checked(SEEN | {field: value})
    assert refused.value.status == HTTPStatus.BAD_REQUEST


def test_what_is_no_sighting_at_all_is_refused() -> None:
    with pytest.raises(Refused, match="species"):
        checked(["a", "list"])


def test_the_page_shows_names_as_text_and_nothing_else() -> None:
    script = "<script>alert(1)</script>"
    one = {"species": script, "place": script, "count": 1}
    text = page({"sightings": [one], "totals": {script: 1}, "by": [script]})
    assert script not in text
    assert text.count("&lt;script&gt;") == 4


def test_each_hop_says_how_near_it_must_be() -> None:
    specs = [read_conf(DEMO / tier / "service-conf.json").spec for tier in ("front", "api", "data")]
    soft = [spec["soft_rtt_ms"] for spec in specs]
    assert soft == sorted(set(soft)), "the front is nearest to whoever asks"
    assert all(spec["hard_rtt_ms"] >= spec["soft_rtt_ms"] for spec in specs)


class Proxy(BaseHTTPRequestHandler):
    """Notes the chain that a request says it came through, and answers with no rows."""

    chains: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.chains.append(self.headers.get("X-Myxo-Chain"))
        body = b'{"rows": [], "by": []}'
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_service_hands_on_the_chain_of_its_request_and_no_other(
    serving: Callable[..., AbstractContextManager[str]],
) -> None:
    api = [sys.executable, "-m", "demos.web.api.server"]
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        place = {"PROXY_IP": "127.0.0.1", "PROXY_PORT": str(proxy.server_port)}
        try:
            with serving(api, **place) as url, httpx.Client(base_url=url, timeout=60) as client:
                for headers in ({"X-Myxo-Chain": "web-front"}, {}):
                    assert client.get("/sightings", headers=headers).status_code == HTTPStatus.OK
        finally:
            proxy.shutdown()
            thread.join()
    assert Proxy.chains == ["web-front", None]


# the three together; the tests follow each other on one network


@pytest.fixture(scope="module")
def web(running: Network, add: Callable[[str, str], None]) -> Network:
    for tier in ("front", "api", "data"):
        add(f"web-{tier}", f"web/{tier}")
    return running


@pytest.mark.slow
def test_one_request_for_the_page_starts_all_three(web: Network, starts: Callable[[], int]) -> None:
    text = httpx.get(web.url("web-front", "/"), timeout=60).text
    assert "None so far." in text
    assert re.search(r"<footer>from \S+ ← \S+ ← \S+</footer>", text)
    assert starts() == 3


@pytest.mark.slow
def test_what_the_form_sends_is_on_the_page_from_then_on(web: Network) -> None:
    url = web.url("web-front", "/")
    posted = httpx.post(url, data=SEEN, timeout=60)
    assert posted.status_code == HTTPStatus.SEE_OTHER
    text = httpx.get(str(posted.url.join(posted.headers["location"])), timeout=60).text
    assert "<td>Fuligo septica<td>a rotten beech<td>3" in text
    httpx.post(url, data=SEEN | {"count": "4"}, timeout=60)
    assert "7 × Fuligo septica" in httpx.get(url, timeout=60).text


@pytest.mark.slow
def test_a_browser_finds_the_page_under_a_name_of_its_own(web: Network) -> None:
    host = {"Host": f"web-front.myxo.localhost:{web.proxy_port}", "Sec-Fetch-Site": "same-origin"}
    url = f"http://127.0.0.1:{web.proxy_port}/"
    assert "Slime moulds seen" in httpx.get(url, headers=host, timeout=60).text
    posted = httpx.post(url, headers=host, data=SEEN, timeout=60)
    assert posted.status_code == HTTPStatus.SEE_OTHER


@pytest.mark.slow
def test_a_mistake_in_the_form_is_explained_through_both_services(web: Network) -> None:
    answer = httpx.post(web.url("web-front", "/"), data=SEEN | {"count": "many"}, timeout=60)
    assert answer.status_code == HTTPStatus.BAD_REQUEST
    assert answer.text == "count must be a whole number from 1 to 10000, not 'many'\n"


@pytest.mark.slow
def test_without_its_data_service_the_page_says_what_is_missing(web: Network) -> None:
    web.registry_cli("delete", "web-data")
    answer = httpx.get(web.url("web-front", "/"), timeout=60)
    assert answer.status_code == HTTPStatus.BAD_GATEWAY
    assert "web-data" in answer.text
