"""Many requests at once, each on a connection of its own, by one thread."""

import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.client import END, OK, Answer, read_head, request

_READ = 64 * 1024


@dataclass(slots=True)
class Asked:
    """One request of a crowd and what became of it.

    Attributes:
        sock: a connection to the proxy.
        url: what is asked for.
        answer: None while, or if, there is none.
    """

    sock: socket.socket
    url: str
    answer: Answer | None = None
    sent_at: float = 0.0
    first_byte_s: float = 0.0
    data: bytearray = field(default_factory=bytearray)

    @property
    def ok(self) -> bool:
        """Whether it was answered as it should be."""
        return self.answer is not None and self.answer.status == OK


def ask_at_once(crowd: Sequence[Asked], deadline_s: float) -> float:
    """Send all requests and wait until each is answered, or `deadline_s` is over.

    Returns the seconds that it took. All connections are closed.
    """
    with selectors.DefaultSelector() as selector:
        began = time.perf_counter()
        for asked in crowd:
            asked.sent_at = time.perf_counter()
            asked.sock.sendall(request(asked.url))
            asked.sock.setblocking(False)
            selector.register(asked.sock, selectors.EVENT_READ, asked)
        while selector.get_map():
            left = began + deadline_s - time.perf_counter()
            if left <= 0:
                break
            for key, _ in selector.select(left):
                if _take(key.data):
                    selector.unregister(key.fileobj)
        took = time.perf_counter() - began
    for asked in crowd:
        asked.sock.close()
    return took


def _take(asked: Asked) -> bool:
    """Read what there is; return whether nothing more is waited for."""
    try:
        data = asked.sock.recv(_READ)
    except OSError:
        return True
    if not data:
        return True
    if not asked.data:
        asked.first_byte_s = time.perf_counter() - asked.sent_at
    asked.data += data
    if END not in asked.data:
        return False
    asked.answer = read_head(bytes(asked.data), asked.first_byte_s)
    return True
