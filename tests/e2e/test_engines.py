"""One contract for whoever takes requests: the proxy itself, and a real Envoy before it."""

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.testing_certificates import Authority

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RAW = Path(__file__).with_name("raw_server.py")
TIMEOUT_S = 60.0
PSEUDO = "10.9.9.9"


@dataclass
class Engine:
    """A proxy with one engine, which also is an edge by TLS.

    Attributes:
        name: of its proxy in the network, and of the engine.
        service: is warm, and exposed.
    """

    network: Any
    name: str
    edge_port: int
    authority: Authority
    service: str = ""

    def sends(self, *lines: str) -> tuple[int, dict[str, str], str]:
        """Send a request from inside; return status, fields and body of the answer."""
        port = self.network.port(self.name)
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as sock:
            return exchanged(sock, lines)

    def sends_from_outside(self, *lines: str) -> tuple[int, dict[str, str], str]:
        """Send a request to the edge; return the same."""
        context = ssl.create_default_context(cafile=str(self.authority.file))
        plain = socket.create_connection(("127.0.0.1", self.edge_port), timeout=TIMEOUT_S)
        with context.wrap_socket(plain, server_hostname="localhost") as sock:
            return exchanged(sock, lines)

    def metric(self, name: str, labels: str) -> float:
        """Return a number of the proxy's metrics; 0 where it is not there."""
        value: float = self.network.metric(self.name, name, labels)
        return value

    def carried(self, service: str) -> float:
        """Return how many requests Envoy took to a service's instances by itself."""
        return self.metric("myxo_proxy_envoy_requests_total", f'service="{service}"')

    def warm(self, service: str) -> None:
        """Ask until the service is warm, and Envoy answers by itself."""
        url = self.network.url(service, "/", self.name)

        def served() -> bool:
            assert httpx.get(url, timeout=TIMEOUT_S).status_code == 200
            return self.name == "myxo" or self.carried(service) > 0

        until(served)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def exchanged(sock: socket.socket, lines: tuple[str, ...]) -> tuple[int, dict[str, str], str]:
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    with sock.makefile("rb") as answer:
        status = int(answer.readline().split()[1])
        fields = {}
        while (line := answer.readline().decode().strip()) != "":
            name, _, value = line.partition(": ")
            fields[name.lower()] = value
        head = lines[0].startswith("HEAD") or status in {101, 204}
        body = b"" if head else answer.read(int(fields.get("content-length", "0")))
    return status, fields, body.decode()


def told(body: str) -> tuple[str, dict[str, list[str]]]:
    """Return the first line and the fields of what the instance was sent."""
    line, *rest = body.strip().split("\r\n")
    fields: dict[str, list[str]] = {}
    for one in rest:
        name, _, value = one.partition(": ")
        fields.setdefault(name.lower(), []).append(value)
    return line, fields


@pytest.fixture(scope="module")
def edge(process_network: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Any]:
    folder = tmp_path_factory.mktemp("tls")
    return Authority(folder), process_network.add_process("raw", RAW, idle_stop_s=600)


@pytest.fixture(scope="module", params=["myxo", "envoy"])
def engine(request: pytest.FixtureRequest, process_network: Any, edge: Any) -> Engine:
    authority, service = edge
    name = request.param
    cert, key = authority.issue(f"edge-{name}", "localhost", "shop.localhost")
    port, own = (process_network.daemons.free_port() for _ in range(2))
    flags = ["--engine", name, "--listen", f"127.0.0.1:{port}", "--expose", service]
    flags += ["--expose", f"{service}=shop.localhost"]
    flags += ["--tls-cert", str(cert), "--tls-key", str(key)]
    process_network.join(name, "proxy", *flags, str(own))
    made = Engine(process_network, name, port, authority, service)
    made.warm(service)
    return made


@pytest.fixture(autouse=True)
def in_good_order(process_network: Any) -> Iterator[None]:
    yield
    process_network.no_traceback()


def test_a_service_sees_who_asked_for_what(engine: Engine) -> None:
    host = f"127.0.0.1:{engine.network.port(engine.name)}"
    status, fields, body = engine.sends(
        f"GET /{engine.service}/a%2Fb/../c?d HTTP/1.1",
        f"Host: {host}",
        "Connection: close, X-Private",
        "X-Private: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Authorization: secret",
        "Myxo-Instance: forged",
        "Myxo_Service: forged",
        "Myxo-Front: inside",
        "X-Envoy-Max-Retries: 9",
        "X-Kept: yes",
    )
    line, sent = told(body)
    assert (status, line) == (200, "GET /a%2Fb/../c?d HTTP/1.1")
    assert (fields["via"], fields["date"][-3:]) == ("1.1 myxo", "GMT")
    assert "forward;dur=" in fields["server-timing"]
    assert sent["host"] == [host]
    assert sent["x-forwarded-for"] == ["127.0.0.1"]
    assert sent["x-forwarded-proto"] == ["http"]
    assert sent["x-forwarded-host"] == [host]
    assert sent["x-forwarded-prefix"] == [f"/{engine.service}"]
    assert sent["forwarded"] == [f'for=127.0.0.1;host="{host}";proto=http']
    assert sent["via"] == ["1.1 myxo"]
    assert sent["x-kept"] == ["yes"]
    assert len(sent["x-request-id"]) == 1
    gone = {"x-private", "keep-alive", "proxy-authorization", "connection"}
    gone |= {"myxo-instance", "myxo_service", "myxo-front", "myxo-client", "myxo-service"}
    assert not gone & sent.keys()


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X_Forwarded_For"])
def test_what_a_believed_client_says_of_those_before_it_is_continued(
    engine: Engine, name: str
) -> None:
    _, _, body = engine.sends(
        f"GET /{engine.service}/x HTTP/1.1",
        "Host: localhost",
        f"{name}: {PSEUDO}",
        "X-Forwarded-Proto: https",
        "Via: 1.1 outer",
    )
    _, sent = told(body)
    assert sent["x-forwarded-for"] == [f"{PSEUDO}, 127.0.0.1"]
    assert sent["x-forwarded-proto"] == ["https"]
    assert ", ".join(sent["via"]) == "1.1 outer, 1.1 myxo"


def test_a_given_request_id_is_kept_and_one_is_given(engine: Engine) -> None:
    asked = (f"GET /{engine.service}/x HTTP/1.1", "Host: localhost")
    assert told(engine.sends(*asked, "X-Request-Id: mine")[2])[1]["x-request-id"] == ["mine"]
    ids = {told(engine.sends(*asked)[2])[1]["x-request-id"][0] for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("line", "host", "seen"),
    [
        ("GET /{0} HTTP/1.1", "localhost", "GET / HTTP/1.1"),
        ("GET /{0}?a=/b HTTP/1.1", "127.0.0.1:4200", "GET /?a=/b HTTP/1.1"),
        ("GET /x HTTP/1.1", "{0}.myxo.localhost:4200", "GET /x HTTP/1.1"),
        ("GET http://{0}/x?y HTTP/1.1", "elsewhere", "GET /x?y HTTP/1.1"),
        ("GET /{0}/x HTTP/1.1", "[::1]:4200", "GET /x HTTP/1.1"),
        ("DELETE /{0}/x HTTP/1.1", "localhost", "DELETE /x HTTP/1.1"),
        ("OPTIONS /{0}/x HTTP/1.1", "localhost", "OPTIONS /x HTTP/1.1"),
    ],
)
def test_a_service_is_named_in_each_form(engine: Engine, line: str, host: str, seen: str) -> None:
    name = engine.service
    status, _, body = engine.sends(line.format(name), f"Host: {host.format(name)}")
    assert (status, told(body)[0]) == (200, seen)


@pytest.mark.parametrize(
    ("target", "fields", "status"),
    [
        ("/no-such-service/x", ["Host: localhost"], 404),
        ("/", ["Host: localhost"], 404),
        ("/{0}/x", ["Host: evil.example"], 421),
        ("/{0}/x", ["Host: localhost", "Sec-Fetch-Site: cross-site"], 403),
        ("/{0}/x", ["Host: localhost", "Sec-Fetch-Site: same-origin"], 200),
        ("/{0}x/y", ["Host: localhost"], 404),
        ("/{0}/x", ["Host: localhost", "X-Request-Timeout: 9"], 200),
    ],
)
def test_who_may_not_is_told_the_same(
    engine: Engine, target: str, fields: list[str], status: int
) -> None:
    line = f"GET {target.format(engine.service)} HTTP/1.1"
    assert engine.sends(line, *fields)[0] == status


def test_a_head_a_1_0_and_an_expectation_are_answered(engine: Engine) -> None:
    status, fields, _ = engine.sends(f"HEAD /{engine.service}/x HTTP/1.1", "Host: localhost")
    assert (status, int(fields["content-length"]) > 0) == (200, True)
    status, fields, body = engine.sends(f"GET /{engine.service}/x HTTP/1.0")
    assert (status, fields["connection"]) == (200, "close")
    assert body.startswith("GET /x HTTP/1.1\r\n")


def test_a_websocket_and_a_tunnel_lead_to_an_instance(engine: Engine) -> None:
    asked = (f"GET /{engine.service}/chat HTTP/1.1", "Host: localhost")
    status, fields, _ = engine.sends(*asked, "Connection: Upgrade", "Upgrade: websocket")
    assert (status, fields["upgrade"]) == (101, "websocket")
    host = f"{engine.service}:80"
    assert engine.sends(f"CONNECT {host} HTTP/1.1", f"Host: {host}")[0] == 200


def test_the_outside_is_believed_nothing_and_told_nothing(engine: Engine) -> None:
    host = f"localhost:{engine.edge_port}"
    claims = ["X-Forwarded-For: 10.9.9.9", "X_Forwarded_Host: evil", "Forwarded: for=10.9.9.9"]
    claims += ["X-Myxo-Chain: a, b", "X-Myxo-Explain: 1", "X-Request-Id: mine", "X-Real-IP: 1"]
    line = f"GET /{engine.service}/x?y=1 HTTP/1.1"
    status, fields, body = engine.sends_from_outside(line, f"Host: {host}", *claims)
    first, sent = told(body)
    assert (status, first) == (200, "GET /x?y=1 HTTP/1.1")
    assert sent["x-forwarded-for"] == ["127.0.0.1"]
    assert sent["x-forwarded-proto"] == ["https"]
    assert sent["x-forwarded-host"] == [host]
    assert sent["forwarded"] == [f'for=127.0.0.1;host="{host}";proto=https']
    assert sent["x-request-id"] != ["mine"]
    assert not {"x-myxo-chain", "x-myxo-explain", "x-real-ip", "x_forwarded_host"} & sent.keys()
    assert not [name for name in fields if name.startswith(("x-myxo", "server-timing", "x-envoy"))]


def test_the_outside_reaches_what_is_exposed_and_nothing_else(engine: Engine) -> None:
    hidden = engine.network.services[0] if engine.network.services[0] != engine.service else "raw"
    by_host = engine.sends_from_outside("GET /all/of/it HTTP/1.1", "Host: shop.localhost:443")
    assert (by_host[0], told(by_host[2])[0]) == (200, "GET /all/of/it HTTP/1.1")
    for name in (hidden, "no-such-service"):
        answer = engine.sends_from_outside(f"GET /{name}/x HTTP/1.1", "Host: localhost")
        assert (answer[0], answer[2]) == (404, "404 Not Found\n")
    tunnel = f"CONNECT {engine.service}:80 HTTP/1.1"
    assert engine.sends_from_outside(tunnel, f"Host: {engine.service}:80")[0] == 404


# what only an Envoy does


@pytest.fixture(scope="module")
def envoy(engine: Engine) -> Engine:
    if engine.name != "envoy":
        pytest.skip("there is no Envoy")
    return engine


def test_warm_requests_are_envoys_and_others_the_proxys(envoy: Engine) -> None:
    asked = (f"GET /{envoy.service}/x HTTP/1.1", "Host: localhost")
    labels = f'code="2xx",service="{envoy.service}"'
    carried, own = envoy.carried(envoy.service), envoy.metric("myxo_proxy_requests_total", labels)
    for _ in range(5):
        envoy.sends(*asked)
    envoy.sends(*asked, "Via: 1.1 outer")
    until(lambda: envoy.carried(envoy.service) >= carried + 5)
    assert envoy.metric("myxo_proxy_requests_total", labels) == own + 1


def test_an_idle_instance_is_paused_and_the_next_request_wakes_it(envoy: Engine) -> None:
    service = envoy.network.add_process("idle", RAW, idle_pause_s=1, idle_stop_s=600)
    envoy.warm(service)
    command = envoy.network.commands["allocator"]
    at = command[command.index("--prom-listen-addr") + 1]

    def paused() -> bool:
        text = httpx.get(f"http://{at}/metrics", timeout=TIMEOUT_S).text
        found = re.findall(r'^myxo_allocator_instances{state="(\w+)"} (\S+)$', text, re.MULTILINE)
        return {state for state, count in found if float(count)} == {"paused"}

    until(paused)
    woken = httpx.get(envoy.network.url(service, "/x", "envoy"), timeout=TIMEOUT_S)
    assert (woken.status_code, "resume;dur=" in woken.headers["server-timing"]) == (200, True)


def test_no_request_fails_when_an_instance_is_killed(envoy: Engine, stream: Any) -> None:
    marker = f"--{envoy.network.name('victim')}"
    service = envoy.network.add_process("killed", RAW, marker)
    envoy.warm(service)
    with stream(envoy.network.url(service, "/", "envoy")) as seen:
        seen.await_more(20)
        os.kill(_process_with(marker), signal.SIGKILL)
        seen.await_more(20)
    assert seen.failed == []
    assert seen.statuses() == {200}


def test_an_envoy_that_dies_is_started_again(envoy: Engine) -> None:
    proxy = envoy.network.running["envoy"].process.pid
    (child,) = _children(proxy)
    os.kill(child, signal.SIGKILL)

    def answers() -> bool:
        try:
            url = envoy.network.url(envoy.service, "/x", "envoy")
            return httpx.get(url, timeout=TIMEOUT_S).status_code == 200
        except httpx.TransportError:
            return False

    until(lambda: _children(proxy) not in ([], [child]) and answers())


def test_another_instance_is_started_where_all_of_this_machine_are_full(envoy: Engine) -> None:
    name = envoy.network.add_echo_process(concurrency=16)
    envoy.warm(name)
    before, url = envoy.carried(name), envoy.network.url(name, "/slow?s=1.5", "envoy")
    served: set[int] = set()
    with httpx.Client(timeout=TIMEOUT_S) as client, ThreadPoolExecutor(24) as pool:

        def ask(_: int) -> int:
            answer = client.get(url)
            assert answer.status_code == 200
            pid: int = answer.json()["pid"]
            return pid

        def grown() -> bool:
            served.update(pool.map(ask, range(24)))
            return len(served) > 1

        until(grown)
    until(lambda: envoy.carried(name) >= before + 24)  # these were Envoy's, not the proxy's


def test_it_says_that_it_cannot_be_replaced_and_goes_on(envoy: Engine) -> None:
    proxy, port = envoy.network.running["envoy"].process, str(envoy.network.port("envoy"))
    asked = run(envoy, "myxo", "restart", "proxy", port)
    assert asked.returncode == 1
    assert "Envoy's ports cannot be taken over: stop this proxy" in asked.stderr
    command = envoy.network.commands["envoy"]
    plain = [word for word in command[1:] if word not in {"--engine", "envoy"}]
    for flags, code in ((plain, 1), (command[1:], 2)):
        heir = run(envoy, command[0], "--takeover", *flags)
        assert (heir.returncode, "cannot be taken over" in heir.stderr) == (code, True)
    proxy.send_signal(signal.SIGUSR2)
    envoy.warm(envoy.service)
    assert proxy.poll() is None


def test_what_is_under_way_is_answered_when_the_proxy_stops(envoy: Engine, stream: Any) -> None:
    envoy.warm(envoy.service)
    with stream(envoy.network.url(envoy.service, "/", "envoy")) as seen:
        seen.await_more(20)
        assert envoy.network.kill("envoy", signal.SIGTERM) == 0
        until(lambda: bool(seen.failed))
    assert seen.statuses() == {200}
    assert "complete message body" not in seen.failed[0]  # no answer was cut


def run(engine: Engine, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [Path(sys.executable).with_name(command[0]), *command[1:]],
        env=engine.network.daemons.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )


def _process_with(argument: str) -> int:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if argument.encode() in words:
                return int(folder.name)
    pytest.fail(f"no process has the argument {argument}")


def _children(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in text.split()]
