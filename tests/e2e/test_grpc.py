"""gRPC through real daemons: a `grpcio` client, the proxy, and `grpcio` servers as instances.

The proxy takes the calls itself, or a real Envoy does before it.
"""

import json
import queue
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from bench.netlab.testing import within

pytestmark = pytest.mark.slow

SERVER = Path(__file__).with_name("grpc_server.py")
CLIENT = Path(__file__).with_name("grpc_client.py")
METHOD = "/myxo.test.Echo/"
TIMEOUT_S = 60.0


@pytest.fixture
def network(process_network: Any) -> Iterator[Any]:
    """The module's network, in good order after each test."""
    yield process_network
    process_network.no_traceback()


@pytest.fixture(scope="module")
def service(process_network: Any) -> str:
    """The name of a gRPC service."""
    name: str = process_network.add_process(
        "grpc", SERVER, protocol="h2c", idle_stop_s=600, concurrency=500
    )
    return name


@pytest.fixture(scope="module", params=["proxy", "envoy"])
def front(request: pytest.FixtureRequest, process_network: Any) -> str:
    """The name in the network of the proxy that takes the calls."""
    name: str = request.param
    if name == "envoy":
        port = str(process_network.daemons.free_port())
        process_network.join(name, "proxy", "--engine", "envoy", port)
    return name


def channel_to(network: Any, service: str, proxy: str) -> grpc.Channel:
    authority = f"{service}.myxo.localhost"
    return grpc.insecure_channel(
        f"127.0.0.1:{network.port(proxy)}", [("grpc.default_authority", authority)]
    )


@pytest.fixture
def channel(network: Any, service: str, front: str) -> Iterator[grpc.Channel]:
    with channel_to(network, service, front) as made:
        yield made


def metadata(items: Any) -> dict[str, Any]:
    return dict(items)


def test_a_unary_call_starts_the_service_and_brings_metadata_and_trailers(
    channel: grpc.Channel,
) -> None:
    echo = channel.unary_unary(METHOD + "Echo")
    answer, call = echo.with_call(b"hello", timeout=TIMEOUT_S, metadata=[("token-bin", b"\0\xff")])
    assert answer == b"hello"
    assert metadata(call.initial_metadata())["pid"].isdigit()
    trailing = metadata(call.trailing_metadata())
    assert (trailing["length"], trailing["token-bin"]) == ("5", b"\0\xff")
    assert call.code() is grpc.StatusCode.OK


def test_a_call_streams_both_ways_at_once(channel: grpc.Channel) -> None:
    sent: queue.Queue[bytes | None] = queue.Queue()
    call = channel.stream_stream(METHOD + "Talk")(iter(sent.get, None), timeout=TIMEOUT_S)
    for word in (b"one", b"two", b"three"):
        sent.put(word)
        assert next(call) == word.upper()  # answered while the request goes on
    sent.put(None)
    assert list(call) == []
    assert metadata(call.trailing_metadata())["count"] == "3"


def test_a_server_streams_in_order(channel: grpc.Channel) -> None:
    count = channel.unary_stream(METHOD + "Count")
    assert [int(n) for n in count(b"5000", timeout=TIMEOUT_S)] == list(range(5000))


def test_a_large_message_passes_both_ways(channel: grpc.Channel) -> None:
    message = bytes(range(256)) * 8192  # 2 MiB
    assert channel.unary_unary(METHOD + "Echo")(message, timeout=TIMEOUT_S) == message


def test_an_error_of_the_service_comes_with_its_code_details_and_trailers(
    channel: grpc.Channel,
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(METHOD + "Fail")(b"x", timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "no: x"
    assert metadata(caught.value.trailing_metadata())["hint"] == "none"


def test_a_method_that_is_not_there_is_unimplemented(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(METHOD + "Nothing")(b"", timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_call_that_its_client_cancels_ends_at_the_service(
    channel: grpc.Channel, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    call = channel.unary_stream(METHOD + "Wait")(str(told).encode(), timeout=TIMEOUT_S)
    assert next(call) == b"began"
    call.cancel()
    within(TIMEOUT_S, told.exists, "the service was not told")


def test_calls_on_one_connection_are_balanced_one_by_one(network: Any, front: str) -> None:
    name = network.add_process(
        "grpc",
        SERVER,
        protocol="h2c",
        idle_stop_s=600,
        min_instances=2,
        policy="round_robin",  # which of two that are as good gets more is chance with others
    )
    with channel_to(network, name, front) as channel:
        echo = channel.unary_unary(METHOD + "Echo")
        served: dict[str, int] = {}

        def once() -> None:
            _, call = echo.with_call(b"", timeout=TIMEOUT_S)
            pid = metadata(call.initial_metadata())["pid"]
            served[pid] = served.get(pid, 0) + 1

        def both() -> bool:
            once()
            return len(served) > 1

        within(TIMEOUT_S, both, "the second instance serves nothing")
        served.clear()
        for _ in range(100):
            once()
    assert len(served) == 2
    assert min(served.values()) >= 20


@pytest.mark.parametrize("front", ["envoy"], indirect=True)
def test_envoy_carries_calls_without_a_deadline_by_itself(
    network: Any, service: str, channel: grpc.Channel
) -> None:
    echo = channel.unary_unary(METHOD + "Echo")
    talk = channel.stream_stream(METHOD + "Talk")

    def carried() -> bool:
        assert echo(b"hello") == b"hello"
        return bool(network.carried_by_envoy("envoy", service) > 0)

    within(TIMEOUT_S, carried, "Envoy carries nothing by itself")
    before = network.carried_by_envoy("envoy", service)
    call = talk(iter([b"one", b"two"]))
    assert list(call) == [b"ONE", b"TWO"]
    assert metadata(call.trailing_metadata())["count"] == "2"
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(METHOD + "Fail")(b"x")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    within(
        TIMEOUT_S,
        lambda: network.carried_by_envoy("envoy", service) >= before + 2,
        "these were not Envoy's",
    )


def test_many_calls_at_once_share_few_connections(channel: grpc.Channel) -> None:
    echo = channel.unary_unary(METHOD + "Echo")
    with ThreadPoolExecutor(32) as pool:
        sent = [str(n).encode() for n in range(600)]
        assert list(pool.map(lambda m: echo(m, timeout=TIMEOUT_S), sent)) == sent


def test_a_service_that_is_not_there_is_refused_as_grpc_says_it(network: Any, front: str) -> None:
    with (
        channel_to(network, "no-such-service", front) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary(METHOD + "Echo")(b"", timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "no service is called 'no-such-service'" in str(caught.value.details())


def test_http1_clients_reach_a_service_of_http2_and_the_other_way_round(
    network: Any, service: str, front: str
) -> None:
    answer = httpx.post(
        network.url(service, METHOD + "Echo", front),
        headers={"Content-Type": "application/grpc", "TE": "trailers"},
        content=b"\0\0\0\0\2hi",
        timeout=TIMEOUT_S,
    )
    assert (answer.status_code, answer.content) == (200, b"\0\0\0\0\2hi")
    name = network.add_echo_process()
    curl = ["curl", "-sS", "--http2-prior-knowledge", "-w", "\n%{http_version} %{http_code}"]
    done = subprocess.run(
        [*curl, network.url(name, "/a?b=1", front)], capture_output=True, text=True, check=True
    )
    body, _, last = done.stdout.rpartition("\n")
    assert last == "2 200"
    assert json.loads(body)["path"] == "/a?b=1"


@pytest.mark.netns
def test_calls_pass_to_another_machine_through_its_gateway(lan: Any) -> None:
    first, second = lan.host(), lan.host()
    up = first.start("myxo", "up", "--runtime", "process", "--hostname", "first")
    join = shlex.split(next(line for line in up.splitlines() if "myxo join" in line))
    second.start(*join, "--runtime", "process", "--hostname", "second")
    conf = first.folder / "grpc.json"
    conf.write_text(json.dumps({"protocol": "h2c", "constraints": {"host": "first"}}))
    command = f"exec {sys.executable} {SERVER}"
    first.run("registry-cli", "add", "--conf", str(conf), "--process", command, "grpc")
    told = second.run(sys.executable, str(CLIENT), "127.0.0.1:4200", "grpc")
    assert json.loads(told) == {
        "unary": True,
        "length": str(1 << 20),
        "heard": ["ONE", "TWO", "THREE"],
        "count": "3",
        "code": "StatusCode.OK",
    }


def test_a_call_whose_deadline_is_over_says_so_and_is_ended_at_the_service(
    channel: grpc.Channel, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    call = channel.unary_stream(METHOD + "Wait")(str(told).encode(), timeout=2)
    assert next(call) == b"began"
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    within(TIMEOUT_S, told.exists, "the service was not told")
