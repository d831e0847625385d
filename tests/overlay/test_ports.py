import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay.ports import holder_of, port_taken


@pytest.fixture(params=["127.0.0.1", "::1"])
def listening(request: pytest.FixtureRequest) -> Iterator[int]:
    host: str = request.param
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_the_process_that_listens_is_named(listening: int) -> None:
    name = Path("/proc/self/comm").read_text().strip()
    assert holder_of(listening) == f"{name} (pid {os.getpid()})"
    assert f"port {listening} is already in use by {name}" in port_taken(listening)


def test_a_port_that_is_bound_but_not_listened_on_has_no_holder() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert holder_of(port) is None
        assert "another process" in port_taken(port)
