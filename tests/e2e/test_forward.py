"""`myxo forward`: local ports that lead to services which speak no HTTP, with real daemons."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.netlab.testing import within
from tests.e2e.steps import join_line
from tests.template import Completed

pytestmark = pytest.mark.slow

COMMANDS = Path(sys.executable).parent
LINES = Path(__file__).resolve().parents[2] / "demos" / "lines" / "lines.py"
TALK = Path(__file__).with_name("talk_server.py")
TIMEOUT_S = 60.0


@pytest.fixture
def network(process_network: Any) -> Iterator[Any]:
    """The module's network, in good order after each test."""
    yield process_network
    process_network.no_traceback()


@pytest.fixture
def service(network: Any) -> str:
    """The name of a TCP service that runs nowhere yet."""
    name: str = network.add_process("talk", TALK, protocol="tcp", idle_stop_s=600)
    return name


def myxo(network: Any, *arguments: str) -> Completed:
    done: Completed = network.daemons.run("myxo", *arguments, timeout_s=TIMEOUT_S)
    return done


@contextmanager
def forwarding(network: Any, *arguments: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Run `myxo forward` beside the block; yield the port that it prints."""
    with subprocess.Popen(
        [COMMANDS / "myxo", "forward", *arguments],
        env=network.daemons.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.match(r"127\.0\.0\.1:(\d+) -> ", line)
            assert found, (line, process.poll())
            yield int(found[1]), process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(TIMEOUT_S)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)


def is_open(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def rest(sock: socket.socket) -> bytes:
    data = b""
    while part := sock.recv(65536):
        data += part
    return data


def exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        assert part, f"it ended after {len(data)} of {size} bytes"
        data += part
    return data


def talk(port: int, said: bytes) -> int:
    """Say something, end this direction, check what comes back; return who answered."""
    with connect(port) as sock:
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        answer = rest(sock)
    assert answer.startswith(said)
    pid, count = answer[len(said) :].split()
    assert int(count) == len(said)
    return int(pid.partition(b"@")[0])


def test_a_connection_starts_the_service_and_both_directions_end_one_after_the_other(
    network: Any, service: str
) -> None:
    with forwarding(network, service) as (port, _):
        pid = talk(port, b"hello")
        assert talk(port, b"again") == pid


def test_a_hundred_connections_at_once_are_carried_by_what_was_started_once(
    network: Any, service: str
) -> None:
    with forwarding(network, service) as (port, _), ThreadPoolExecutor(100) as pool:
        pids = list(pool.map(lambda n: talk(port, b"%d" % n * 1000), range(100)))
    assert len(set(pids)) == 1


def test_a_large_stream_arrives_as_it_was_sent_while_it_comes_back(
    network: Any, service: str
) -> None:
    piece = os.urandom(1024 * 1024)
    with forwarding(network, service) as (port, _), connect(port) as sock:
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(sock.sendall, piece * 20)
            for _ in range(20):
                assert exactly(sock, len(piece)) == piece
            sending.result()
        sock.shutdown(socket.SHUT_WR)
        assert rest(sock).split()[1] == b"%d" % (20 * len(piece))


def test_a_killed_instances_connections_end_and_new_ones_go_elsewhere(
    network: Any, service: str
) -> None:
    with forwarding(network, service) as (port, _):
        pid = talk(port, b"x")
        with connect(port) as held:
            held.sendall(b"y")
            assert held.recv(1) == b"y"
            os.kill(pid, signal.SIGKILL)
            assert rest(held) == b""
        # The kernel ends its connections first, and accepts until its listener's turn comes.
        within(TIMEOUT_S, lambda: not exists(pid), "the instance is still there")
        assert talk(port, b"z") != pid


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_instance_with_an_open_connection_is_not_stopped_and_an_idle_connection_ends(
    network: Any,
) -> None:
    name = network.add_process(
        "talk", TALK, protocol="tcp", idle_pause_s=0.2, idle_stop_s=0.4, tunnel_idle_s=3
    )
    with forwarding(network, name) as (port, _), connect(port) as sock:
        for _ in range(4):
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            time.sleep(1)  # longer than an idle instance has, shorter than the connection
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


@pytest.mark.parametrize("policy", ["maglev", "ring_hash"])
def test_a_hashing_policy_leads_a_client_s_connections_to_one_instance(
    network: Any, policy: str
) -> None:
    name = network.add_process(
        "talk", TALK, protocol="tcp", idle_stop_s=600, min_instances=2, policy={"name": policy}
    )

    def server(port: int, client: str) -> int:
        address = ("127.0.0.1", port)
        with socket.create_connection(address, TIMEOUT_S, source_address=(client, 0)) as sock:
            sock.shutdown(socket.SHUT_WR)
            return int(rest(sock).partition(b"@")[0])

    clients = [f"127.0.0.{n}" for n in range(1, 17)]
    with forwarding(network, name) as (port, _):

        def both_serve() -> bool:
            return len({server(port, client) for client in clients}) > 1

        within(TIMEOUT_S, both_serve, "all clients are led to one instance")
        first = {client: server(port, client) for client in clients}
        for _ in range(5):
            assert {client: server(port, client) for client in clients} == first


def test_a_service_that_speaks_http_is_led_to_as_well(network: Any) -> None:
    name = network.add_echo_process()
    with forwarding(network, name) as (port, _):
        answer = httpx.get(f"http://127.0.0.1:{port}/x", timeout=TIMEOUT_S)
    assert answer.json()["path"] == "/x"
    assert "X-Myxo-Chain" not in answer.json()["headers"]


def test_a_request_for_a_service_that_speaks_tcp_says_how_to_get_there(
    network: Any, service: str
) -> None:
    answer = httpx.get(network.url(service), timeout=TIMEOUT_S)
    assert (answer.status_code, "myxo forward" in answer.text) == (400, True)


def test_a_forward_ends_with_its_command_and_its_connections_with_it(
    network: Any, service: str
) -> None:
    with forwarding(network, service) as (port, process):
        with connect(port) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            process.send_signal(signal.SIGINT)
            with pytest.raises(ConnectionResetError):
                rest(sock)
        within(TIMEOUT_S, lambda: refused(port), "the port is closed")


def refused(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_kept_forward_outlives_its_command_and_is_listed_until_it_is_removed(
    network: Any, service: str
) -> None:
    opened = json.loads(myxo(network, "forward", service, "--keep", "--json").stdout)
    port = opened["listen"].rpartition(":")[2]
    talk(int(port), b"x")
    listed = myxo(network, "forward", "--list")
    assert f"127.0.0.1:{port} -> {service}" in listed.stdout
    removed = myxo(network, "forward", "--remove", port)
    assert removed.returncode == 0, removed.stderr
    assert port not in myxo(network, "forward", "--list").stdout
    assert refused(int(port))
    again = myxo(network, "forward", "--remove", port)
    assert (again.returncode, "forwards nothing on port" in again.stderr) == (1, True)


def test_what_cannot_be_forwarded_is_said_at_once(network: Any, service: str) -> None:
    unknown = myxo(network, "forward", service[:-1])
    assert (unknown.returncode, f"did you mean {service}" in unknown.stderr) == (1, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        in_use = myxo(network, "forward", service, str(port))
    assert in_use.returncode == 1
    assert f"port {port} is already in use by" in in_use.stderr
    other = myxo(network, "forward", f"udp/{service}")
    assert (other.returncode, "takes tcp, not udp" in other.stderr) == (1, True)
    nonsense = myxo(network, "forward", service, "--host", "here")
    assert (nonsense.returncode, "--host" in nonsense.stderr) == (2, True)


def test_a_connection_that_leads_nowhere_is_reset_and_the_command_says_why(network: Any) -> None:
    name = network.add_process("talk", TALK, protocol="tcp", MemoryReq=2**30)
    with forwarding(network, name) as (port, process):
        with pytest.raises(ConnectionResetError), connect(port) as sock:
            rest(sock)
        assert process.stderr is not None
        assert f"{name} runs nowhere and cannot be started" in process.stderr.readline()


# datagrams


@pytest.fixture
def upper(network: Any) -> str:
    """The name of a UDP service that answers in capitals."""
    name: str = network.add_process("upper", LINES, "upper udp $SERVICE_PORT", protocol="udp")
    return name


@contextmanager
def datagrams(port: int) -> Iterator[Callable[[bytes], bytes]]:
    """Yield what sends a datagram, again and again until there is an answer, which it returns."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        sock.settimeout(5)  # a second answer to what was sent again would be taken for the next one

        def ask(said: bytes) -> bytes:
            deadline = time.monotonic() + TIMEOUT_S
            while time.monotonic() < deadline:
                sock.send(said)
                try:
                    return sock.recv(65536)
                except TimeoutError:
                    continue
            pytest.fail(f"no answer to {said!r}")

        yield ask


def instances(network: Any, service: str) -> list[dict[str, Any]]:
    found = json.loads(myxo(network, "status", "--json").stdout)["instances"]
    return [one for one in found if one["service"] == service]


def test_datagrams_start_a_service_and_each_client_gets_its_own_answers(
    network: Any, upper: str
) -> None:
    with (
        forwarding(network, upper) as (port, _),
        datagrams(port) as one,
        datagrams(port) as other,
    ):
        assert one(b"first") == b"FIRST\n"
        assert other(b"second") == b"SECOND\n"
        assert one(b"x" * 20_000) == b"X" * 20_000 + b"\n"
    assert len(instances(network, upper)) == 1


def test_after_the_loss_of_an_instance_datagrams_go_to_another(network: Any) -> None:
    name = network.add_process("talk", TALK, "udp", protocol="udp")
    with forwarding(network, name) as (port, _), datagrams(port) as ask:
        pid, said = ask(b"one").split()
        assert said == b"one"
        os.kill(int(pid.partition(b"@")[0]), signal.SIGKILL)
        other, said = ask(b"two").split()
        assert (other != pid, said) == (True, b"two")


def test_a_datagram_service_that_never_binds_its_port_never_gets_ready(network: Any) -> None:
    name = network.add_process("idle", LINES, "upper tcp 0", protocol="udp", ready_timeout_s=1)
    with forwarding(network, name) as (port, process), datagrams(port):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", ("127.0.0.1", port))
        assert process.stderr is not None
        assert "took no datagram on UDP port" in process.stderr.readline()


# chains


def test_a_chain_hands_what_each_service_says_to_the_next_and_the_last_ones_words_back(
    network: Any,
) -> None:
    upper = network.add_process("upper", LINES, "upper tcp $SERVICE_PORT", protocol="tcp")
    mark = network.add_process("mark", LINES, "mark udp $SERVICE_PORT", protocol="udp")
    back = network.add_process("back", LINES, "reverse tcp $SERVICE_PORT", protocol="tcp")
    chain = f"tcp/{upper}/udp/{mark}/tcp/{back}"
    with forwarding(network, chain) as (port, _), connect(port) as sock:
        sock.sendall(b"abc\n")
        assert exactly(sock, 6) == b">CBA<\n"
        sock.shutdown(socket.SHUT_WR)
        assert rest(sock) == b""
    assert {len(instances(network, name)) for name in (upper, mark, back)} == {1}


def test_a_chain_that_begins_with_datagrams_is_a_udp_port(network: Any, upper: str) -> None:
    mark = network.add_process("mark", LINES, "mark udp $SERVICE_PORT", protocol="udp")
    with forwarding(network, f"udp/{mark}/{upper}") as (port, _), datagrams(port) as ask:
        assert ask(b"abc") == b"<ABC>\n"


def test_a_chain_is_checked_hop_by_hop_before_anything_listens(network: Any, upper: str) -> None:
    unknown = myxo(network, "forward", f"udp/{upper}/none-such")
    assert (unknown.returncode, "no service is called 'none-such'" in unknown.stderr) == (1, True)
    wrong = myxo(network, "forward", f"tcp/{upper}")
    assert (wrong.returncode, "takes udp, not tcp" in wrong.stderr) == (1, True)
    no_chain = myxo(network, "forward", f"{upper}/{upper}")
    assert (no_chain.returncode, "tcp/SERVICE/udp/SERVICE" in no_chain.stderr) == (1, True)


# to another machine


CLIENT = """
import socket, sys
size = int(sys.argv[2])
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60) as sock:
    said = bytes(range(256)) * (size // 256)
    sock.sendall(said[:65536]) if size > 65536 else None
    answer = b""
    rest = said[65536:] if size > 65536 else said
    while rest:
        sent = sock.send(rest[:65536])
        rest = rest[sent:]
        answer += sock.recv(65536)
    sock.shutdown(socket.SHUT_WR)
    while part := sock.recv(65536):
        answer += part
assert answer[:size] == said, len(answer)
print(answer[size:].decode())
"""


@pytest.mark.netns
def test_a_connection_to_another_machine_goes_through_its_gateway(lan: Any) -> None:
    first, second = lan.host(), lan.host()
    join = join_line(first.start("myxo", "up", "--runtime", "process", "--hostname", "first"))
    second.start(*join, "--runtime", "process", "--hostname", "second")
    conf = first.folder / "talk.json"
    conf.write_text(json.dumps({"protocol": "tcp", "constraints": {"host": "first"}}))
    command = f"exec {sys.executable} {TALK}"
    first.run("registry-cli", "add", "--process", command, "--conf", str(conf), "talk")
    opened = json.loads(second.run("myxo", "forward", "talk", "--keep", "--json"))
    port = opened["listen"].rpartition(":")[2]
    pid, count = second.run(sys.executable, "-c", CLIENT, port, str(2**21)).split()
    assert int(count) == 2**21
    assert second.run(sys.executable, "-c", CLIENT, port, "256").split() == [pid, "256"]
    with second.running_command(sys.executable, "-c", HOLD, port) as held:
        assert held.stdout is not None
        assert held.stdout.readline() == b"x\n"
        (instance,) = json.loads(first.run("myxo", "status", "--json"))["instances"]
        first.cut()
        assert held.stdout.readline() == b"ConnectionResetError\n"
    assert instance["host"] == "first"


HOLD = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60) as sock:
    sock.sendall(b"x")
    print(sock.recv(1).decode(), flush=True)
    try:
        sock.recv(1)
    except OSError as exc:
        print(type(exc).__name__, flush=True)
"""


def test_a_tcp_service_goes_where_the_routing_table_says(network: Any, service: str) -> None:
    port = network.daemons.free_port()
    with subprocess.Popen([sys.executable, TALK], env={"SERVICE_PORT": str(port)}) as outside:
        try:
            within(TIMEOUT_S, lambda: is_open(port), "it does not listen")
            done = myxo(network, "rtable", "set", service, f"127.0.0.1:{port}")
            assert done.returncode == 0, done.stderr
            with forwarding(network, service) as (local, _):
                assert talk(local, b"hello") == outside.pid
                assert myxo(network, "rtable", "unset", service).returncode == 0
                assert talk(local, b"hello") != outside.pid
        finally:
            outside.kill()
