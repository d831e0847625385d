"""The main job on a real engine: a service that runs nowhere answers, started by the request."""

import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest

from allocator.engine.sandbox_image import PROGRAM
from bench.netlab.testing import within

pytestmark = [pytest.mark.docker, pytest.mark.slow]

Containers = Callable[[str], list[Any]]
TIMEOUT_S = 60.0


def get(url: str, **options: Any) -> httpx.Response:
    return httpx.get(url, timeout=TIMEOUT_S, **options)


def get_at_once(urls: list[str]) -> list[httpx.Response]:
    with ThreadPoolExecutor(len(urls)) as pool:
        return list(pool.map(get, urls))


@pytest.fixture(scope="module")
def echo(docker_network: Any, echo_image: str) -> str:
    """The name of an echo service that several tests use."""
    name: str = docker_network.add_echo(echo_image)
    return name


def test_the_first_request_starts_one_container_and_the_second_meets_it(
    docker_network: Any,
    echo_image: str,
    containers_of: Containers,
    hostname_of: Callable[[Any], str],
) -> None:
    name = docker_network.add_echo(echo_image)
    assert containers_of(name) == []
    first = get(docker_network.url(name, "/a/b%20c?q=1&r=%2F"))
    assert first.status_code == 200, first.text
    assert first.json()["path"] == "/a/b%20c?q=1&r=%2F"
    (container,) = containers_of(name)
    assert first.json()["instance"] == hostname_of(container)
    assert name in container.name
    assert get(docker_network.url(name)).json()["instance"] == first.json()["instance"]
    assert len(containers_of(name)) == 1
    timing = first.headers["Server-Timing"]
    assert all(phase in timing for phase in ("lookup", "create", "start", "ready", "forward"))


def test_fifty_concurrent_cold_requests_cause_one_start(
    docker_network: Any, echo_image: str, containers_of: Containers
) -> None:
    name = docker_network.add_echo(echo_image)
    answers = get_at_once([docker_network.url(name)] * 50)
    assert [a.status_code for a in answers] == [200] * 50
    assert len({a.json()["instance"] for a in answers}) == 1
    assert len(containers_of(name)) == 1


def test_cold_requests_through_two_proxies_cause_one_start(
    docker_network: Any, echo_image: str, containers_of: Containers
) -> None:
    docker_network.join("proxy2", "proxy", str(docker_network.daemons.free_port()))
    name = docker_network.add_echo(echo_image)
    urls = [docker_network.url(name, proxy=proxy) for proxy in ("proxy", "proxy2")]
    answers = get_at_once(urls * 20)
    assert [a.status_code for a in answers] == [200] * 40
    assert len({a.json()["instance"] for a in answers}) == 1
    assert len(containers_of(name)) == 1
    assert docker_network.kill("proxy2", 15) == 0


@pytest.mark.parametrize("size", [0, 1024, 5_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_comes_back_as_it_was_sent(
    docker_network: Any, echo: str, size: int, chunked: bool
) -> None:
    body = bytes(range(256)) * (size // 256)
    parts = (body[at : at + 100_000] for at in range(0, len(body), 100_000))
    answer = httpx.post(
        docker_network.url(echo, "/echo"), content=parts if chunked else body, timeout=TIMEOUT_S
    )
    assert answer.status_code == 200
    assert answer.content == body


def test_head_is_answered_without_a_body_and_the_connection_is_kept(
    docker_network: Any, echo: str
) -> None:
    with httpx.Client(timeout=TIMEOUT_S) as client:
        client.get(docker_network.url(echo))
        head = client.head(docker_network.url(echo, "/x"))
        assert head.status_code == 200
        assert int(head.headers["Content-Length"]) > 0
        assert head.content == b""
        after = client.get(docker_network.url(echo))
        stream = after.extensions["network_stream"]
        assert after.status_code == 200
        assert stream.get_extra_info("server_addr")[1] == docker_network.port()


def test_one_connection_carries_many_requests(docker_network: Any, echo: str) -> None:
    request = f"GET /{echo}/k HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with connection(docker_network) as sock, sock.makefile("rb") as answers:
        for _ in range(5):
            sock.sendall(request)
            status, body = read_answer(answers)
            assert status == 200
            assert json.loads(body)["path"] == "/k"


def test_a_client_that_expects_100_is_told_to_continue(docker_network: Any, echo: str) -> None:
    get(docker_network.url(echo))
    head = f"POST /{echo}/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
    with connection(docker_network) as sock, sock.makefile("rb") as answers:
        sock.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert answers.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert answers.readline() == b"Via: 1.1 myxo\r\n"  # the instance's, passed on
        assert answers.readline() == b"\r\n"
        sock.sendall(b"hello")
        assert read_answer(answers) == (200, b"hello")


def test_what_a_service_sends_arrives_before_its_answer_ends(
    docker_network: Any, echo: str
) -> None:
    with httpx.stream("GET", docker_network.url(echo, "/stream"), timeout=TIMEOUT_S) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "first"
        get(docker_network.url(echo, "/go"))
        assert next(lines) == "last"


def test_what_a_client_sends_is_answered_before_its_body_ends(
    docker_network: Any, echo: str
) -> None:
    get(docker_network.url(echo))
    head = f"POST /{echo}/echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connection(docker_network) as sock, sock.makefile("rb") as answers:
        sock.sendall(head.encode())
        assert read_head(answers)[0] == 200
        for word in (b"one", b"three"):
            sock.sendall(b"%x\r\n%s\r\n" % (len(word), word))
            assert read_chunk(answers) == word
        sock.sendall(b"0\r\n\r\n")
        assert read_chunk(answers) == b""


def test_two_hundred_megabytes_pass_through_with_flat_memory(
    docker_network: Any, echo: str
) -> None:
    get(docker_network.url(echo))
    process = Path("/proc", str(docker_network.running["proxy"].process.pid))
    (process / "clear_refs").write_text("5")  # the peak is counted from here
    before = resident_mb(process, "VmRSS")
    part = bytes(1_000_000)
    answer = httpx.post(
        docker_network.url(echo, "/count"), content=(part for _ in range(200)), timeout=TIMEOUT_S
    )
    assert answer.json()["bytes"] == 200_000_000
    assert resident_mb(process, "VmHWM") - before < 40


def test_an_unknown_service_is_404_with_names_like_it(docker_network: Any, echo: str) -> None:
    answer = get(docker_network.url(echo + "x"))
    assert answer.status_code == 404
    assert f"did you mean {echo}" in answer.text


def test_a_service_too_large_for_every_machine_is_503_with_the_reason(
    docker_network: Any, echo_image: str
) -> None:
    name = docker_network.add_echo(echo_image, CpuReq=1_000_000)
    answer = get(docker_network.url(name))
    assert answer.status_code == 503
    assert "millicores are free, the service needs 1000000" in answer.text
    assert int(answer.headers["Retry-After"]) > 0


def test_a_container_that_never_listens_is_504_with_the_end_of_its_log(
    docker_network: Any, busybox_image: str, containers_of: Containers
) -> None:
    name = docker_network.add_image(
        "deaf", busybox_image, "echo warming up; exec sleep 600", ready_timeout_s=1
    )
    answer = get(docker_network.url(name))
    assert answer.status_code == 504
    assert "warming up" in answer.text
    assert "$SERVICE_PORT" in answer.text
    within(TIMEOUT_S, lambda: containers_of(name) == [], "it is removed")


def test_a_container_that_ends_at_once_is_an_error_with_its_log(
    docker_network: Any, busybox_image: str, containers_of: Containers
) -> None:
    name = docker_network.add_image("brief", busybox_image, "echo no such table; exit 3")
    answer = get(docker_network.url(name))
    assert answer.status_code in {502, 503, 504}
    assert "exit code 3" in answer.text
    assert "no such table" in answer.text
    within(TIMEOUT_S, lambda: containers_of(name) == [], "it is removed")


def test_an_idle_instance_stops_and_the_next_request_starts_another(
    docker_network: Any, echo_image: str, containers_of: Containers
) -> None:
    name = docker_network.add_echo(echo_image, idle_stop_s=1)
    first = get(docker_network.url(name)).json()["instance"]
    within(TIMEOUT_S, lambda: containers_of(name) == [], "it stops when idle")
    second = get(docker_network.url(name))
    assert second.status_code == 200
    assert second.json()["instance"] != first


def test_a_request_slower_than_the_idle_time_is_never_cut(
    docker_network: Any, echo_image: str
) -> None:
    name = docker_network.add_echo(echo_image, idle_stop_s=0.5)
    answer = get(docker_network.url(name, "/slow?s=4"))
    assert answer.status_code == 200
    assert answer.json()["path"] == "/slow?s=4"


def test_a_new_revision_replaces_the_old_without_a_failed_request(
    docker_network: Any, echo_image: str, containers_of: Containers, stream: Any
) -> None:
    name = docker_network.add_echo(echo_image, env={"VERSION": "1"})
    get(docker_network.url(name))
    with stream(docker_network.url(name)) as seen:
        seen.await_more(20)
        docker_network.add_echo(echo_image, name=name, env={"VERSION": "2"})
        within(
            TIMEOUT_S,
            lambda: seen.answered[-1].text.find('"version": "2"') > 0,
            "the new one answers",
        )
        seen.await_more(20)
    assert seen.failed == []
    assert seen.statuses() == {200}, [a.text for a in seen.answered if a.status_code != 200][:2]
    within(TIMEOUT_S, lambda: len(containers_of(name)) == 1, "the old one is gone")


def test_a_deleted_service_stops_and_is_404(
    docker_network: Any, echo_image: str, containers_of: Containers
) -> None:
    name = docker_network.add_echo(echo_image)
    assert get(docker_network.url(name)).status_code == 200
    docker_network.registry_cli("delete", name)
    within(TIMEOUT_S, lambda: get(docker_network.url(name)).status_code == 404, "it is unknown")
    within(TIMEOUT_S, lambda: containers_of(name) == [], "it stops")


def test_an_instance_is_told_its_port_and_its_proxy_and_reaches_others_by_it(
    docker_network: Any, echo_image: str, busybox_image: str, echo: str
) -> None:
    told = get(docker_network.url(echo, "/env")).json()
    assert told["SERVICE_PORT"] == told["PORT"]
    assert told["PROXY_PORT"] == str(docker_network.port())
    name = docker_network.add_image(
        "asker",
        busybox_image,
        f"wget -q -O /tmp/index.html http://$PROXY_IP:$PROXY_PORT/{echo}/asked && "
        "exec httpd -f -p $SERVICE_PORT -h /tmp",
    )
    answer = get(docker_network.url(name))
    assert answer.status_code == 200, answer.text
    assert answer.json()["path"] == "/asked"


def test_a_container_without_a_network_reaches_others_at_its_own_127_0_0_1(
    docker_network: Any, busybox_image: str, echo: str, containers_of: Containers
) -> None:
    if not PROGRAM.exists():
        pytest.fail(f"{PROGRAM} is missing; `make setup` builds it")
    name = docker_network.add_image(
        "local-asker",
        busybox_image,
        f"until wget -q -O /tmp/index.html http://127.0.0.1:$PROXY_PORT/{echo}/asked; "
        "do sleep 0.1; done; exec httpd -f -p $SERVICE_PORT -h /tmp",
        network="none",
    )
    answer = get(docker_network.url(name))
    assert answer.status_code == 200, answer.text
    assert answer.json()["path"] == "/asked"
    (container,) = containers_of(name)
    asked = container.exec_run(["wget", "-q", "-O", "-", docker_network.url(echo, "/again")])
    assert b"/again" in asked.output


def test_a_container_has_its_limits_and_no_more_rights_than_it_needs(
    docker_network: Any,
    echo_image: str,
    containers_of: Containers,
    engine: docker.DockerClient,
) -> None:
    name = docker_network.add_echo(echo_image, CpuReq=250, MemoryReq=64, cap_drop="all")
    assert get(docker_network.url(name)).status_code == 200
    (container,) = containers_of(name)
    host = engine.api.inspect_container(container.id)["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 64 * 1024 * 1024
    assert host["NanoCpus"] == 250_000_000
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges" in host["SecurityOpt"]
    assert not host["PortBindings"]
    assert not host["Privileged"]
    assert host["PidsLimit"] > 0


def test_a_stock_image_runs_as_it_is(
    docker_network: Any, busybox_image: str, engine: docker.DockerClient
) -> None:
    built = docker_network.add_image(
        "stock", busybox_image, "echo as it is > /tmp/index.html; exec httpd -f -p 8099 -h /tmp"
    )
    image = json.loads(docker_network.registry_cli("get", "--json", built).stdout)
    reference = image["spec"]["image"]["reference"]
    name = docker_network.name("stock")
    docker_network.registry_cli("add", "--image", reference, "--port", "8099", name)
    assert get(docker_network.url(name)).text == "as it is\n"


def test_a_clean_stop_of_the_allocator_removes_its_containers(
    docker_network: Any, echo: str, containers_of: Containers
) -> None:
    get(docker_network.url(echo))
    assert len(containers_of(echo)) == 1
    assert docker_network.kill("allocator", 15) == 0
    assert containers_of(echo) == []
    docker_network.restart("allocator")
    within(
        TIMEOUT_S,
        lambda: get(docker_network.url(echo)).status_code == 200,
        "the new allocator serves",
    )
    docker_network.no_traceback()


# raw HTTP


def connection(network: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", network.port()), timeout=TIMEOUT_S)


def read_head(answers: Any) -> tuple[int, dict[str, str]]:
    status = int(answers.readline().split()[1])
    fields = {}
    while line := answers.readline().strip():
        name, _, value = line.decode().partition(":")
        fields[name.lower()] = value.strip()
    return status, fields


def read_chunk(answers: Any) -> bytes:
    size = int(answers.readline(), 16)
    data: bytes = answers.read(size)
    assert answers.readline() == b"\r\n"
    return data


def read_answer(answers: Any) -> tuple[int, bytes]:
    status, fields = read_head(answers)
    if "content-length" in fields:
        return status, answers.read(int(fields["content-length"]))
    body = b""
    while data := read_chunk(answers):
        body += data
    return status, body


def resident_mb(process: Path, field: str) -> float:
    text = (process / "status").read_text()
    line = next(line for line in text.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1000
