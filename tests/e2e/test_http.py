"""HTTP/1.1 as RFC 9110 and 9112 have it of an intermediary, through a real proxy and gateway."""

import json
import re
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

RAW = Path(__file__).with_name("raw_server.py")
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def service(process_network: Any) -> str:
    """The name of a service that shows what it gets."""
    name: str = process_network.add_process("raw", RAW, idle_stop_s=600)
    with client(process_network) as sock:
        sock.sendall(f"GET /{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert answered(sock)[0] == 200
    return name


@pytest.fixture
def network(process_network: Any) -> Iterator[Any]:
    """The module's network, in good order after each test."""
    yield process_network
    process_network.no_traceback()


def client(network: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", network.port()), timeout=TIMEOUT_S)


def head_of(sock: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, head
        head += byte
    return head


def exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        assert part, data
        data += part
    return data


def rest(sock: socket.socket) -> bytes:
    data = b""
    while part := sock.recv(65536):
        data += part
    return data


def fields_of(head: bytes) -> dict[str, str]:
    pairs = [line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line]
    return {name.lower(): value for name, value in pairs}


def answered(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    head = head_of(sock)
    fields = fields_of(head)
    return int(head.split()[1]), fields, exactly(sock, int(fields.get("content-length", "0")))


def shown(network: Any, *lines: str) -> tuple[str, dict[str, str]]:
    """Send a request; return the first line and the fields of what the service got."""
    with client(network) as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        status, _, body = answered(sock)
    assert status == 200, body
    return body.decode().partition("\r\n")[0], fields_of(body)


def test_a_service_sees_who_asked_for_what_and_which_way_it_came(
    network: Any, service: str
) -> None:
    host = f"127.0.0.1:{network.port()}"
    line, fields = shown(
        network,
        f"GET /{service}/a%2Fb/../c?d HTTP/1.1",
        f"Host: {host}",
        "Connection: close, X-Private",
        "X-Private: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Authorization: secret",
        "X-Forwarded-For: 10.0.0.9",
        "Via: 1.1 outer",
    )
    assert line == "GET /a%2Fb/../c?d HTTP/1.1"
    assert fields["host"] == host
    assert fields["x-forwarded-for"] == "10.0.0.9, 127.0.0.1"
    assert (fields["x-forwarded-proto"], fields["x-forwarded-host"]) == ("http", host)
    assert fields["x-forwarded-prefix"] == f"/{service}"
    assert fields["forwarded"] == f'for=127.0.0.1;host="{host}";proto=http'
    assert fields["via"] == "1.1 myxo"  # the last line of two
    gone = {"x-private", "keep-alive", "proxy-authorization", "connection", "myxo-instance"}
    assert not gone & fields.keys()


def test_an_absolute_forms_authority_is_the_host_whatever_was_said(
    network: Any, service: str
) -> None:
    line, fields = shown(network, f"GET http://{service}/x HTTP/1.1", "Host: elsewhere")
    assert (line, fields["host"]) == ("GET /x HTTP/1.1", service)


def test_a_client_of_http_1_0_without_a_host_is_served_and_let_go(
    network: Any, service: str
) -> None:
    with client(network) as sock:
        sock.sendall(f"GET /{service}/x HTTP/1.0\r\n\r\n".encode())
        status, fields, body = answered(sock)
        assert rest(sock) == b""
    assert (status, fields["connection"], fields["via"]) == (200, "close", "1.1 myxo")
    assert body.startswith(b"GET /x HTTP/1.1\r\nHost: localhost\r\n")
    assert b"\r\nVia: 1.0 myxo\r\n" in body


def test_every_answer_is_dated(network: Any, service: str) -> None:
    with client(network) as sock:
        for path in (f"/{service}", "/no-such-service"):
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert answered(sock)[1]["date"].endswith(" GMT")


def test_pipelined_requests_are_answered_in_order(network: Any, service: str) -> None:
    with client(network) as sock:
        lines = [f"GET /{service}/{n} HTTP/1.1\r\nHost: localhost\r\n\r\n" for n in range(50)]
        sock.sendall("".join(lines).encode())
        for n in range(50):
            assert answered(sock)[2].startswith(f"GET /{n} ".encode())


def test_options_and_trace_end_where_they_say(network: Any, service: str) -> None:
    with client(network) as sock:

        def ask(*lines: str) -> tuple[int, dict[str, str], bytes]:
            sock.sendall("\r\n".join([*lines, "Host: localhost", "", ""]).encode())
            return answered(sock)

        assert "CONNECT" in ask("OPTIONS * HTTP/1.1")[1]["allow"]
        assert "allow" in ask(f"OPTIONS /{service} HTTP/1.1", "Max-Forwards: 0")[1]
        traced = ask(f"TRACE /{service} HTTP/1.1", "Max-Forwards: 0", "Cookie: secret", "X: y")
        assert traced[1]["content-type"] == "message/http"
        assert (b"X: y" in traced[2], b"secret" in traced[2]) == (True, False)
        passed = ask(f"TRACE /{service}/x HTTP/1.1", "Max-Forwards: 5")[2]
        assert passed.startswith(b"TRACE /x HTTP/1.1\r\n")
        assert b"Max-Forwards: 4" in passed
        whole = ask(f"OPTIONS http://{service} HTTP/1.1")[2]
        assert whole.startswith(b"OPTIONS * HTTP/1.1\r\n")


def test_what_no_instance_should_answer_reaches_no_client(network: Any) -> None:
    name = network.add_process("hostile", RAW, idle_stop_s=600)
    statuses = []
    with client(network) as sock:
        for answer in ("lengths", "both", "split", "folded", "switch", "noise"):
            request = f"POST /{name}/hostile/{answer} HTTP/1.1\r\nHost: localhost\r\n"
            sock.sendall(f"{request}Content-Length: 0\r\n\r\n".encode())
            status, fields, body = answered(sock)
            assert "set-cookie" not in fields
            assert name in body.decode()
            statuses.append(status)
    assert statuses[0] == 502
    assert set(statuses) <= {502, 503}  # it is left alone for two seconds after each


def test_a_second_answer_that_nobody_asked_for_poisons_no_later_one(
    network: Any, service: str
) -> None:
    with client(network) as sock:
        for _ in range(5):
            for path in ("hostile/second", "x"):
                sock.sendall(f"GET /{service}/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                status, _, body = answered(sock)
                assert (status, b"poison" in body) == (200, False)


def upgrade(path: str, host: str) -> bytes:
    lines = (f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: Upgrade", "Upgrade: websocket")
    return "\r\n".join([*lines, "", ""]).encode()


def converse(sock: socket.socket) -> None:
    """Talk with what gives bytes back, then end this direction and hear how many there were."""
    for size in (1, 100_000, 5):
        sock.sendall(b"x" * size)
        assert exactly(sock, size) == b"x" * size
    sock.shutdown(socket.SHUT_WR)
    assert rest(sock) == b"100006"


def test_a_websocket_passes_and_each_direction_ends_alone(network: Any, service: str) -> None:
    with client(network) as sock:
        sock.sendall(upgrade(f"/{service}/chat", "localhost"))
        assert head_of(sock).startswith(b"HTTP/1.1 101 ")
        converse(sock)


def test_an_interim_answer_passes_with_the_way_that_it_came(network: Any, service: str) -> None:
    with client(network) as sock:
        sock.sendall(f"GET /{service}/hints HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        hints, answer = head_of(sock), head_of(sock)
    assert hints == b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nVia: 1.1 myxo\r\n\r\n"
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_connect_leads_to_an_instance(network: Any, service: str) -> None:
    with client(network) as sock:
        sock.sendall(f"CONNECT {service}:443 HTTP/1.1\r\nHost: {service}:443\r\n\r\n".encode())
        head = head_of(sock)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert not {"content-length", "transfer-encoding"} & fields_of(head).keys()
        sock.sendall(upgrade("/inside", "any"))
        assert head_of(sock).startswith(b"HTTP/1.1 101 ")
        converse(sock)


@pytest.mark.parametrize("authority", ["example.org:443", "127.0.0.1:22", "[::1]:22"])
def test_a_connect_leads_to_services_only(network: Any, service: str, authority: str) -> None:
    with client(network) as sock:
        sock.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        sock.sendall(f"GET /{service}/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = rest(sock)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"smuggled" not in answer


# on another machine

ELSEWHERE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import socket, test_http
for request in (
    test_http.upgrade("/raw/chat", "localhost"),
    b"CONNECT raw:80 HTTP/1.1\\r\\nHost: raw\\r\\n\\r\\n" + test_http.upgrade("/x", "raw"),
):
    with socket.create_connection(("127.0.0.1", 4200), timeout=60) as sock:
        sock.sendall(request)
        head = test_http.head_of(sock)
        if request.startswith(b"CONNECT"):
            assert head.startswith(b"HTTP/1.1 200 "), head
            head = test_http.head_of(sock)
        assert head.startswith(b"HTTP/1.1 101 "), head
        test_http.converse(sock)
with socket.create_connection(("127.0.0.1", 4200), timeout=60) as sock:
    sock.sendall(b"GET /raw/hints HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    print(test_http.head_of(sock).decode())
    print(test_http.head_of(sock).decode())
with socket.create_connection(("127.0.0.1", 4200), timeout=60) as sock:
    sock.sendall(b"GET /raw HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    print(test_http.answered(sock)[2].decode())
"""


@pytest.mark.netns
def test_websockets_and_connects_reach_another_machine_through_its_gateway(lan: Any) -> None:
    first, second = lan.host(), lan.host()
    printed = first.start("myxo", "up", "--runtime", "process", "--hostname", "first")
    join = shlex.split(next(line for line in printed.splitlines() if "myxo join" in line))
    second.start(*join, "--runtime", "process", "--hostname", "second")
    conf = first.folder / "raw.json"
    conf.write_text(json.dumps({"constraints": {"host": "first"}}))
    command = f"exec {sys.executable} {RAW}"
    first.run("registry-cli", "add", "--process", command, "--conf", str(conf), "raw")
    seen = second.run(sys.executable, "-c", ELSEWHERE)
    interim, answer, request = re.split(
        r"(?=HTTP/1.1 200 |GET /)", seen.replace("\r", ""), maxsplit=2
    )
    assert "HTTP/1.1 103 Early Hints\nLink: </x>\nVia: 1.1 myxo-gateway\nVia: 1.1 myxo\n" in interim
    assert re.findall(r"Via: (.*)", answer) == ["1.1 myxo-gateway", "1.1 myxo"]
    assert re.findall(r"Via: (.*)", request) == ["1.1 myxo", "1.1 myxo-gateway"]
    assert "X-Forwarded-For: 127.0.0.1" in seen
