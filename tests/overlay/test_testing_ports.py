import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator

import pytest

from overlay import testing_ports
from overlay.testing_ports import PORTS, claimed, free_port, free_ports


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[range]:
    """The only two ports that there are."""
    pairs = (range(n, n + 2) for n in range(9_000, 10_000, 2))
    pair = next(pair for pair in pairs if all(map(testing_ports._is_free, pair)))
    monkeypatch.setattr(testing_ports, "PORTS", pair)
    claims: deque[socket.socket] = deque()
    monkeypatch.setattr(testing_ports, "_claims", claims)
    yield pair
    for claim in claims:
        claim.close()


def test_ports_are_different_and_can_be_listened_on() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_that_somebody_has_is_not_given(kind: socket.SocketKind, two: range) -> None:
    with socket.socket(type=kind) as taken:
        taken.bind(("127.0.0.1", two[0]))
        if kind is socket.SOCK_STREAM:
            taken.listen()
        assert free_port() == two[1]


def test_a_port_that_was_given_a_moment_ago_is_not_given_again(two: range) -> None:
    assert sorted(free_port() for _ in two) == list(two)
    with pytest.raises(OSError, match="only 0 are free"):
        free_port()


def test_a_port_that_another_process_gave_is_not_given() -> None:
    script = "from overlay.testing_ports import free_port; print(free_port(), flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        assert claimed(port) is None
        other.communicate(b"\n")
    claim = claimed(port)
    assert claim is not None
    claim.close()


def test_no_more_claims_are_held_than_files_may_be_open() -> None:
    free_ports(testing_ports._MOST_CLAIMS + 10)
    assert len(testing_ports._claims) <= testing_ports._MOST_CLAIMS


def test_the_system_gives_none_of_them_to_who_asks_for_any() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        assert given.getsockname()[1] not in PORTS
