import socket
import threading
from collections.abc import Iterator

import pytest

from bench import backend
from bench.crowd import Asked, ask_at_once


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@pytest.fixture
def closing() -> Iterator[int]:
    """The port of a server that reads and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(listener.getsockname()[1])
        thread.join()


def asked(port: int) -> Asked:
    return Asked(socket.create_connection(("127.0.0.1", port)), f"http://127.0.0.1:{port}/")


def test_each_request_of_a_crowd_is_timed_and_knows_its_answer() -> None:
    with backend.serving() as port:
        crowd = [asked(port) for _ in range(20)]
        took = ask_at_once(crowd, 10.0)
    assert all(a.ok for a in crowd)
    assert all(a.answer is not None and 0 < a.answer.first_byte_s <= took for a in crowd)
    hosts = {a.answer.headers["host-name"] for a in crowd if a.answer is not None}
    assert hosts == {socket.gethostname()}


def test_what_is_not_answered_in_time_has_no_answer(silent: int) -> None:
    crowd = [asked(silent)]
    assert ask_at_once(crowd, 0.05) >= 0.05
    assert not crowd[0].ok


def test_a_closed_connection_is_not_waited_for(closing: int) -> None:
    crowd = [asked(closing)]
    assert ask_at_once(crowd, 10.0) < 10.0
    assert crowd[0].answer is None
