"""`proxy --listen`: clients from outside reach what is exposed by real TLS, and nothing else."""

import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.testing_certificates import Authority

pytestmark = pytest.mark.slow

TIMEOUT_S = 60.0
RAW = Path(__file__).with_name("raw_server.py")


@dataclass
class Edge:
    """A proxy that listens for the outside, once with client certificates and once without."""

    network: Any
    authority: Authority
    port: int
    private_port: int
    service: str
    hidden: str
    raw: str
    clients: Authority = field(init=False)

    def client(self, cert: tuple[Path, Path] | None = None, *, http2: bool = False) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.authority.file))
        if cert is not None:
            context.load_cert_chain(*cert)
        return httpx.Client(verify=context, timeout=TIMEOUT_S, http2=http2)

    def url(self, path: str, *, private: bool = False) -> str:
        return f"https://localhost:{self.private_port if private else self.port}{path}"


def join_edge(network: Any, name: str, *flags: str) -> int:
    """Start a proxy with an edge; return the edge's port."""
    port: int = network.daemons.free_port()
    own = str(network.daemons.free_port())
    network.join(name, "proxy", "--listen", f"127.0.0.1:{port}", *flags, own)
    return port


@pytest.fixture(scope="module")
def edge(process_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Edge:
    folder = tmp_path_factory.mktemp("tls")
    authority, clients = Authority(folder), Authority(folder, "clients")
    cert, key = authority.issue("edge", "localhost", "shop.localhost")
    service = process_network.add_echo_process()
    hidden = process_network.add_echo_process()
    raw = process_network.add_process("raw", RAW)
    flags = ["--tls-cert", str(cert), "--tls-key", str(key)]
    flags += ["--expose", service, "--expose", f"{service}=shop.localhost", "--expose", raw]
    port = join_edge(process_network, "edge", *flags)
    private = join_edge(process_network, "private", *flags, "--client-ca", str(clients.file))
    made = Edge(process_network, authority, port, private, service, hidden, raw)
    made.clients = clients
    return made


@pytest.fixture(autouse=True)
def in_good_order(edge: Edge) -> Iterator[None]:
    yield
    edge.network.no_traceback()


def test_an_exposed_service_is_started_and_answers_and_is_told_who_asked(edge: Edge) -> None:
    with edge.client() as client:
        answer = client.get(
            edge.url(f"/{edge.service}/x?y=1"),
            headers={
                "X-Forwarded-For": "10.9.9.9",
                "X_Forwarded_Host": "evil",
                "Forwarded": "for=10.9.9.9",
                "X-Myxo-Chain": "a, b",
                "X-Myxo-Explain": "1",
                "X-Request-Id": "mine",
            },
        )
    assert answer.status_code == 200
    told = {name.lower(): value for name, value in answer.json()["headers"].items()}
    assert answer.json()["path"] == "/x?y=1"
    assert told["x-forwarded-for"] == "127.0.0.1"
    assert told["x-forwarded-proto"] == "https"
    assert told["x-forwarded-host"] == f"localhost:{edge.port}"
    assert "x-myxo-chain" not in told
    assert told["x-request-id"] != "mine"
    ours = [name for name in answer.headers if name.startswith(("x-myxo", "server-timing"))]
    assert ours == []


def raw_client(edge: Edge) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(edge.authority.file))
    plain = socket.create_connection(("127.0.0.1", edge.port), timeout=TIMEOUT_S)
    return context.wrap_socket(plain, server_hostname="localhost")


def test_a_websocket_passes_by_tls(edge: Edge) -> None:
    lines = [f"GET /{edge.raw}/chat HTTP/1.1", "Host: localhost", "Connection: Upgrade"]
    with raw_client(edge) as sock:
        sock.sendall("\r\n".join([*lines, "Upgrade: websocket", "", "ping"]).encode())
        answer = b""
        while not answer.endswith(b"ping"):
            part = sock.recv(65536)
            assert part, answer
            answer += part
        assert answer.startswith(b"HTTP/1.1 101 ")


def test_no_tunnel_leads_in(edge: Edge) -> None:
    for name in (edge.service, edge.hidden):
        with raw_client(edge) as sock:
            sock.sendall(f"CONNECT {name}:80 HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
            assert sock.recv(65536).startswith(b"HTTP/1.1 404 ")


def test_a_client_that_offers_http2_speaks_it_under_the_same_rules(edge: Edge) -> None:
    with edge.client(http2=True) as client:
        answers = [
            client.get(edge.url(f"/{name}/x"), headers={"X-Forwarded-For": "10.9.9.9"})
            for name in (edge.service, edge.hidden)
        ]
    assert [(a.http_version, a.status_code) for a in answers] == [("HTTP/2", 200), ("HTTP/2", 404)]
    told = {name.lower(): value for name, value in answers[0].json()["headers"].items()}
    assert (told["x-forwarded-for"], told["x-forwarded-proto"]) == ("127.0.0.1", "https")
    assert "server-timing" not in answers[0].headers
    assert answers[1].text == "404 Not Found\n"


def test_a_host_leads_to_its_service(edge: Edge) -> None:
    context = ssl.create_default_context(cafile=str(edge.authority.file))
    with (
        socket.create_connection(("127.0.0.1", edge.port), timeout=TIMEOUT_S) as tcp,
        context.wrap_socket(tcp, server_hostname="shop.localhost") as tls,
    ):
        tls.sendall(b"GET /a/b HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := tls.recv(65536):
            answer += data
    assert b'"path": "/a/b"' in answer


def test_what_is_not_exposed_is_not_there_whether_it_exists_or_not(edge: Edge) -> None:
    with edge.client() as client:
        answers = [
            client.get(edge.url(path), headers={"Host": host})
            for path, host in [
                (f"/{edge.hidden}/", "localhost"),
                ("/nothing-of-that-name/", "localhost"),
                (f"/{edge.service[:-1]}/", "localhost"),
                ("/", f"{edge.hidden}.myxo.localhost"),
                ("/", "localhost"),
            ]
        ]
    assert {(a.status_code, a.text) for a in answers} == {(404, "404 Not Found\n")}


def test_a_refusal_tells_nothing_of_what_is_inside(edge: Edge) -> None:
    name = edge.network.add_process("nowhere", Path(__file__), MemoryReq=2**30)
    port = join_edge(edge.network, "poor", "--expose", name)
    answer = httpx.get(f"http://127.0.0.1:{port}/{name}", timeout=TIMEOUT_S)
    assert (answer.status_code, answer.text) == (503, "503 Service Unavailable\n")
    assert answer.headers["Retry-After"] == "2"


def test_a_client_without_the_right_certificate_gets_nothing(edge: Edge) -> None:
    stranger = Authority(edge.authority.folder, "stranger")
    wrong = [None, stranger.issue("mallory"), edge.clients.issue("late", days=-1)]
    for cert in wrong:
        with edge.client(cert) as client, pytest.raises(httpx.TransportError):
            client.get(edge.url(f"/{edge.service}/", private=True))
    with edge.client(edge.clients.issue("alice")) as client:
        answer = client.get(edge.url(f"/{edge.service}/", private=True))
    assert answer.status_code == 200


def test_a_certificate_that_is_renewed_is_shown_without_a_restart(edge: Edge) -> None:
    cert, key = edge.authority.issue("renewed", "localhost")
    port = join_edge(
        edge.network,
        "renewing",
        *("--tls-cert", str(cert), "--tls-key", str(key), "--expose", edge.service),
    )
    first = shown_by(port)
    assert shown_by(port) == first
    edge.authority.issue("renewed", "localhost")
    assert shown_by(port) != first


def shown_by(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=TIMEOUT_S)


def test_a_client_that_does_not_finish_its_handshake_is_let_go(edge: Edge) -> None:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=TIMEOUT_S) as slow:
        slow.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        began = time.monotonic()
        with edge.client() as client:
            assert client.get(edge.url(f"/{edge.service}/")).status_code == 200
        assert slow.recv(1) == b""
        assert 5 < time.monotonic() - began < 40


def test_plain_http_at_the_tls_port_is_closed(edge: Edge) -> None:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=TIMEOUT_S) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        data = plain.recv(65536)
    assert not data.startswith(b"HTTP")


def test_one_address_has_so_many_connections_and_no_more(edge: Edge) -> None:
    file = edge.network.daemons.folder / "few.toml"
    file.write_text("[proxy]\nlisten_connections_of_one = 3\n")
    port = join_edge(edge.network, "few", "--expose", edge.service, "--config", str(file))
    held = [socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) for _ in range(3)]
    for sock in held:
        sock.sendall(f"GET /{edge.service}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as fourth:
        assert fourth.recv(1) == b""
    for sock in held:
        sock.close()


def test_many_clients_are_served_side_by_side(edge: Edge) -> None:
    statuses: list[int] = []

    def ask() -> None:
        with edge.client() as client:
            statuses.append(client.get(edge.url(f"/{edge.service}/slow?s=0.2")).status_code)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 20


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--listen", "127.0.0.1:1"], "without `expose`"),
        (["--listen", "127.0.0.1:1", "--expose", "a", "--tls-cert", "x"], "needs its `tls_key`"),
        (["--listen", "127.0.0.1:1", "--expose", "a", "--client-ca", "x"], "needs a `tls_cert`"),
        (["--listen", "here:1", "--expose", "a"], "here"),
        (["--expose", "a"], "there is none"),
        (["--listen", "127.0.0.1:1", "--expose", "A!"], "not a service name"),
        (
            ["--listen", "127.0.0.1:1", "--expose", "a", "--tls-cert", "/no", "--tls-key", "/no"],
            "/no cannot be read",
        ),
    ],
)
def test_what_cannot_be_an_edge_is_said_before_anything_listens(
    edge: Edge, flags: list[str], text: str
) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "proxy", "--bootstrap", edge.network.address, *flags, "0"],
        env=edge.network.daemons.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert (done.returncode, text in done.stderr) == (2, True), done.stderr
