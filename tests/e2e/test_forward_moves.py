"""Connections, chains and datagrams to a machine that comes to be too far away, on the host lab."""

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.lab_network import HUB, LabNetwork, lab_network
from bench.netlab.plan import make_plan
from bench.netlab.testing import within
from overlay.spec import Protocol, ServiceSpec

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(500)]

CLIENT, ONE, OTHER = "client", "one", "other"
NEAR_S, FAR_S, HARD_MS = 0.002, 0.3, 150.0
"""Far apart, so that a busy machine's own delays are neither; a probe of 0.5 s would be late."""

TALK = Path(__file__).with_name("talk_server.py")
MOVE_S = 120.0


def spec(protocol: Protocol) -> ServiceSpec:
    words = "udp" if protocol == "udp" else ""
    return ServiceSpec(
        process=f"exec {sys.executable} {TALK} {words}",
        protocol=protocol,
        hard_rtt_ms=HARD_MS,
        idle_pause_s=0,
        idle_stop_s=600,
    )


def move_to(network: LabNetwork, near: str) -> None:
    for machine in (ONE, OTHER):
        rtt_s = NEAR_S if machine == near else FAR_S
        network.lab.link(CLIENT, machine).set(delay_s=rtt_s / 2)


def forwarded(network: LabNetwork, to: str) -> int:
    printed = network.lab.host(CLIENT).run(["myxo", "forward", to, "--keep", "--json"]).stdout
    return int(json.loads(printed)["listen"].rpartition(":")[2])


def connected(network: LabNetwork, port: int) -> socket.socket:
    """Return a connection that has carried something, however long that takes."""
    found: list[socket.socket] = []

    def carries() -> bool:
        sock = network.lab.host(CLIENT).inside(
            lambda: socket.create_connection(("127.0.0.1", port), 30.0)
        )
        try:
            sock.sendall(b"x")
            if sock.recv(1) == b"x":
                found.append(sock)
                return True
        except OSError:
            pass
        sock.close()
        return False

    within(MOVE_S, carries, network.log)
    return found[0]


def who(sock: socket.socket) -> bytes:
    """End a connection; return who was at its other end."""
    sock.shutdown(socket.SHUT_WR)
    said = b""
    while data := sock.recv(100):
        said += data
    sock.close()
    return said.split()[0]


def is_reset(sock: socket.socket) -> bool:
    """Return whether a connection that is held has been reset."""
    sock.settimeout(0.2)
    try:
        sock.recv(1)
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return False


def asking(network: LabNetwork, port: int) -> Callable[[], bytes]:
    """Return what asks by datagrams of one client who answers; b"" is nobody."""
    sock = network.lab.host(CLIENT).inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.connect(("127.0.0.1", port))
    sock.settimeout(2.0)

    def ask() -> bytes:
        try:
            sock.send(b"x")
            return sock.recv(100).split()[0]
        except OSError:
            return b""

    return ask


def test_what_is_over_the_hard_limit_ends_and_what_comes_next_goes_elsewhere() -> None:
    plan = make_plan(hosts=[{"name": name} for name in (HUB, CLIENT, ONE, OTHER)], preset="lan")
    with lab_network(plan, allocators=[ONE, OTHER], proxies=[CLIENT], runtime="process") as network:
        move_to(network, ONE)
        network.add({"talk": spec("tcp"), "last": spec("tcp"), "datagrams": spec("udp")})
        ports = [forwarded(network, to) for to in ("talk", "tcp/talk/last", "datagrams")]
        first = who(connected(network, ports[0]))
        ask = asking(network, ports[2])
        within(MOVE_S, lambda: ask() != b"", network.log)
        answered = ask()
        held = [connected(network, port) for port in ports[:2]]

        move_to(network, OTHER)
        within(MOVE_S, lambda: is_reset(held[0]), network.log)
        within(MOVE_S, lambda: is_reset(held[1]), network.log)
        assert who(connected(network, ports[0])) != first
        connected(network, ports[1]).close()
        within(MOVE_S, lambda: ask() not in {b"", answered}, network.log)
        for sock in held:
            sock.close()
