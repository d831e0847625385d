import socket
from collections import deque

import pytest

from overlay import testing_ports
from overlay.testing_ports import PORTS, free_port, free_ports


def test_ports_are_different_and_can_be_listened_on() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_that_somebody_has_is_not_given(
    kind: socket.SocketKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sorted(free_ports(2))
    with socket.socket(type=kind) as taken:
        taken.bind(("127.0.0.1", first))
        if kind is socket.SOCK_STREAM:
            taken.listen()
        monkeypatch.setattr(testing_ports, "_own", lambda: [first, second])
        monkeypatch.setattr(testing_ports, "_given", deque())
        assert free_port() == second


def test_a_port_that_was_given_a_moment_ago_is_not_given_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = free_ports(5)
    monkeypatch.setattr(testing_ports, "_own", lambda: few)
    monkeypatch.setattr(testing_ports, "_given", deque())
    assert sorted(free_port() for _ in few) == sorted(few)


def test_the_system_gives_none_of_them_to_who_asks_for_any() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        assert given.getsockname()[1] not in PORTS
