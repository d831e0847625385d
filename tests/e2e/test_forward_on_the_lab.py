"""`myxo forward` between machines whose distances change, on the host lab."""

import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lab_network import HUB, LabNetwork, lab_network
from bench.netlab.plan import make_plan
from bench.netlab.testing import within
from overlay.spec import ServiceSpec

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(600)]

CLIENT, ONE, OTHER = "client", "one", "other"
NEAR_S, FAR_S = 0.002, 0.1
HARD_MS = 40.0
"""Far from both, so that a busy machine's own delays are neither."""

TIMEOUT_S = 120.0
TALK = Path(__file__).with_name("talk_server.py")
LINES = Path(__file__).resolve().parents[2] / "demos" / "lines" / "lines.py"


@pytest.fixture(scope="module")
def network() -> Iterator[LabNetwork]:
    plan = make_plan(hosts=[{"name": name} for name in (HUB, CLIENT, ONE, OTHER)], preset="lan")
    with lab_network(
        plan, allocators=[ONE, OTHER], proxies=[CLIENT, ONE], runtime="process"
    ) as made:
        yield made


def distance(network: LabNetwork, one: str, other: str, rtt_s: float) -> None:
    network.lab.link(one, other).set(delay_s=rtt_s / 2)


def move_to(network: LabNetwork, near: str) -> None:
    for machine in (ONE, OTHER):
        distance(network, CLIENT, machine, NEAR_S if machine == near else FAR_S)


def forward(network: LabNetwork, to: str) -> int:
    """Have the client's proxy listen on a port; return it."""
    printed = network.lab.host(CLIENT).run(["myxo", "forward", to, "--keep", "--json"]).stdout
    return int(json.loads(printed)["listen"].rpartition(":")[2])


def place_in(said: bytes) -> str:
    """Return the host that an instance says it runs on."""
    return said.partition(b"@")[2].split()[0].rpartition(b".")[0].decode()


def connected(network: LabNetwork, port: int) -> socket.socket:
    sock: socket.socket = network.lab.host(CLIENT).inside(
        lambda: socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
    )
    return sock


def datagram_socket(network: LabNetwork, port: int) -> socket.socket:
    sock: socket.socket = network.lab.host(CLIENT).inside(
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    )
    sock.connect(("127.0.0.1", port))
    sock.settimeout(0.5)
    return sock


def talk(network: LabNetwork, port: int) -> str:
    """Say something over a connection of its own; return which host it was led to."""
    with connected(network, port) as sock:
        sock.sendall(b"x")
        sock.shutdown(socket.SHUT_WR)
        said = b""
        while part := sock.recv(4096):
            said += part
    return place_in(said)


def test_a_connection_over_its_hard_limit_is_cut_and_the_next_one_goes_to_a_near_instance(
    network: LabNetwork,
) -> None:
    move_to(network, ONE)
    command = f"exec {sys.executable} {TALK}"
    network.add({"talk": ServiceSpec(process=command, protocol="tcp", hard_rtt_ms=HARD_MS)})
    port = forward(network, "talk")
    assert talk(network, port) == ONE
    with connected(network, port) as held:
        held.sendall(b"y")
        assert held.recv(1) == b"y"
        move_to(network, OTHER)
        with pytest.raises(ConnectionResetError):
            held.recv(1)
    places: list[str] = []

    def next_goes_to_the_other() -> bool:
        try:
            places.append(talk(network, port))
        except ConnectionResetError:  # that the other machine is near now is news yet
            return False
        return places[-1] == OTHER

    within(TIMEOUT_S, next_goes_to_the_other, lambda: places)
    assert places == [OTHER]


def test_datagrams_go_to_a_near_instance_and_their_client_sees_no_more_than_losses(
    network: LabNetwork,
) -> None:
    move_to(network, ONE)
    command = f"exec {sys.executable} {TALK} udp"
    network.add({"datagrams": ServiceSpec(process=command, protocol="udp", hard_rtt_ms=HARD_MS)})
    port = forward(network, "datagrams")
    with datagram_socket(network, port) as sock:
        places: list[str] = []

        def answered_from(place: str) -> bool:
            number = b"%d" % time.monotonic_ns()
            sock.send(number)
            try:
                said = sock.recv(4096)
            except TimeoutError:
                return False
            places.append(place_in(said))
            return places[-1] == place

        within(TIMEOUT_S, lambda: answered_from(ONE), lambda: places[-3:])
        places.clear()  # that it is the nearer one was news
        move_to(network, OTHER)
        within(TIMEOUT_S, lambda: answered_from(OTHER), lambda: places[-3:])
    assert places == sorted(places, key=[ONE, OTHER].index)  # it never went back


def test_a_chain_goes_from_machine_to_machine_and_its_limits_hold_between_neighbours(
    network: LabNetwork,
) -> None:
    move_to(network, ONE)  # so the other machine is over the limit for the client itself
    distance(network, ONE, OTHER, NEAR_S)
    lines = f"exec {sys.executable} {LINES}"
    network.add(
        {
            "upper": ServiceSpec(
                process=f"{lines} upper tcp $SERVICE_PORT",
                protocol="tcp",
                hard_rtt_ms=HARD_MS,
                constraints={"host": (ONE,)},
            ),
            "mark": ServiceSpec(
                process=f"{lines} mark udp $SERVICE_PORT",
                protocol="udp",
                hard_rtt_ms=HARD_MS,
                constraints={"host": (OTHER,)},
            ),
        }
    )
    port = forward(network, "tcp/upper/udp/mark")

    def answered() -> bool:
        try:
            with connected(network, port) as sock:
                sock.sendall(b"abc\n")
                return sock.recv(100) == b"<ABC>\n"
        except ConnectionResetError:  # who is how far away is news yet
            return False

    within(TIMEOUT_S, answered, network.log)
    with datagram_socket(network, forward(network, "mark")) as sock:
        sock.send(b"abc")
        with pytest.raises(TimeoutError):
            sock.recv(100)
