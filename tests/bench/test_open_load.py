import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from bench import backend
from bench.client import AnswerFailed, ask, request
from bench.native import compiled
from bench.open_load import answered, download_s, idle_connections, open_loop, upload_s
from bench.proxy_abuse import WAYS, misbehave
from overlay.testing_ports import free_port

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def bodies() -> Iterator[str]:
    """Where the server of large bodies answers."""
    port = free_port()
    with subprocess.Popen([compiled("bodies"), str(port)]) as server:
        ask(f"http://127.0.0.1:{port}/0")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def test_requests_of_an_open_loop_are_due_at_a_fixed_rate() -> None:
    with backend.serving() as port:
        url = f"http://127.0.0.1:{port}/"
        sent = open_loop(url, rate=1000, duration_s=0.1, connections=4)
    assert sorted(one.due_s for one in sent) == pytest.approx([n / 1000 for n in range(100)])
    assert len(answered(sent, url)) == 100


def test_a_stalled_answer_is_charged_to_those_that_were_due_meanwhile() -> None:
    """One connection, so that the second request waits for the first answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stalled = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                stalled.wait(0.2)
                connection.sendall(ANSWER)
                connection.recv(1000)
                connection.sendall(ANSWER)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        first, second = open_loop(url, rate=1000, duration_s=0.002, connections=1)
        thread.join()
    assert first.latency_s >= 0.2
    assert second.due_s == pytest.approx(0.001)
    assert second.latency_s >= 0.199


def test_a_connection_that_ends_fails_the_request_on_it_and_no_other() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            listener.accept()[0].close()
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(ANSWER)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        sent = open_loop(url, rate=100, duration_s=0.02, connections=1)
        thread.join()
    assert sorted(one.status for one in sent) == [0, 200]
    with pytest.raises(AnswerFailed, match="1 of 2 failed"):
        answered(sent, url)


def test_a_connection_that_is_said_to_end_is_not_used_again() -> None:
    """The server leaves it open, so that a second request on it would have no answer."""
    closing = ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(closing)
                    assert not connection.recv(1000)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        sent = open_loop(url, rate=100, duration_s=0.02, connections=1)
        thread.join()
    assert [one.status for one in sent] == [200, 200]


def test_what_is_asked_for_has_its_query() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heard = b""

        def serve() -> None:
            nonlocal heard
            connection, _ = listener.accept()
            with connection:
                heard = connection.recv(1000)
                connection.sendall(ANSWER)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a?b=c"
        open_loop(url, rate=100, duration_s=0.01, connections=1)
        thread.join()
    first = b"GET /a?b=c HTTP/1.1\r\n"
    assert heard.startswith(first)
    assert request(url).startswith(first)


def test_bodies_are_as_large_as_asked_for(bodies: str) -> None:
    assert download_s(f"{bodies}/3000000", 3_000_000) > 0
    assert upload_s(f"{bodies}/0", 3_000_000) > 0
    with pytest.raises(AnswerFailed, match="expected 7 bytes"):
        download_s(f"{bodies}/8", 7)


def test_idle_connections_were_used_once(bodies: str) -> None:
    found = idle_connections(f"{bodies}/0", 3)
    assert len({sock.getsockname() for sock in found}) == 3
    for sock in found:
        sock.close()


def test_a_server_breaks_off_where_it_is_asked_to(bodies: str) -> None:
    with pytest.raises(AnswerFailed, match="reset"):
        download_s(f"{bodies}/cut/100", 100)
    with pytest.raises(AnswerFailed, match="reset"):
        download_s(f"{bodies}/silent/100", 100)


def test_whatever_breaks_off_the_server_answers_the_next_one(bodies: str) -> None:
    misbehave(f"{bodies}/", len(WAYS))
    with pytest.raises(AnswerFailed):
        misbehave(f"{bodies}/silent/", 1)
