"""Services that call each other through their machine's proxy, in a circle that they do not see."""

import json
from typing import Any

import httpx
import pytest

from proxy.route.chains import MAX_VISITS

pytestmark = [pytest.mark.docker, pytest.mark.slow]

TIMEOUT_S = 60.0

CALLS_ANOTHER = """
import http.server, os, urllib.error, urllib.request
class Call(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = "http://127.0.0.1:" + os.environ["PROXY_PORT"] + "/" + os.environ["OTHER"]
        try:
            with urllib.request.urlopen(url, timeout=50) as answer:
                body = answer.read()
        except urllib.error.HTTPError as exc:
            body = b"%d %s" % (exc.code, exc.read())
        body = os.environ["OTHER"].encode() + b" said: " + body
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("", int(os.environ["SERVICE_PORT"])), Call).serve_forever()
"""


def calling(network: Any, base: str, name: str, other: str) -> str:
    """Register a service that answers with what another one answers, and hands no header on."""
    conf = {
        "env": {"OTHER": other, "PROGRAM": CALLS_ANOTHER},
        "DockerConf": {"From": base, "Cmd": 'exec python3 -c "$PROGRAM"'},
    }
    file = network.daemons.folder / f"{name}.json"
    file.write_text(json.dumps(conf))
    network.registry_cli("add", "--no-push", str(file), "myxo-test-e2e-calling:1", name)
    return name


def test_a_circle_of_two_services_that_hand_nothing_on_ends_with_508_and_both_names(
    docker_network: Any, echo_image: str
) -> None:
    web, api = docker_network.name("web"), docker_network.name("api")
    calling(docker_network, echo_image, web, api)
    calling(docker_network, echo_image, api, web)
    answer = httpx.get(docker_network.url(web), timeout=TIMEOUT_S)
    assert answer.status_code == 200
    assert "508" in answer.text
    assert f"{web} > {api} > {web}" in answer.text
    assert answer.text.count(" said: ") == 2 * MAX_VISITS
    assert httpx.get(docker_network.url(api), timeout=TIMEOUT_S).text.count(" said: ") == (
        2 * MAX_VISITS
    )


def test_a_chain_without_a_circle_is_answered_by_its_end(
    docker_network: Any, echo_image: str
) -> None:
    end = docker_network.add_echo(echo_image)
    middle = calling(docker_network, echo_image, docker_network.name("middle"), end)
    first = calling(docker_network, echo_image, docker_network.name("first"), middle)
    answer = httpx.get(docker_network.url(first), timeout=TIMEOUT_S)
    assert answer.text.startswith(f"{middle} said: {end} said: {{")
    assert f"{first}, {middle}" in answer.text
