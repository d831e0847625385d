"""Sends requests when it is told to, on connections that it keeps, and says what became of each.

One request at a time is on a connection. A request goes out on one that is free, else on a new one,
else, where there may be no more, it waits its turn; where too many wait already, it is given up and
counted. Nothing is sent twice: what fails is reported and not hidden.
"""

import select
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT

from bench.lab.loading.link import Link, Place
from bench.lab.loading.request import Request
from bench.lab.loading.tally import Tally
from overlay.http.errors import HttpError
from overlay.http.head import ResponseHead

EVENTS = 256
"""Taken from the system at once, so that requests that fall due meanwhile do not wait for long."""

QUEUE_FULL = "too many requests waited for a connection"
TIMED_OUT = "no answer in time"
ABANDONED = "the load ended before the answer"

_READABLE = EPOLLIN | EPOLLHUP | EPOLLERR

Over = Callable[[Request, ResponseHead | None, float], None]
"""Is told that a request is over, and when; without a head if no whole answer came."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a load may use.

    Attributes:
        connections: that are open at once.
        queue: requests that are due and wait for a connection.
        timeout_s: from when a request is sent, or a connection begun, to the end of the answer.
    """

    connections: int = 1000
    queue: int = 10_000
    timeout_s: float = 60.0


DEFAULT_LIMITS = Limits()


class Sender:
    """Connections to one place, and what is under way on them.

    Args:
        place: whom to connect to.
        limits: what may be used.
        tally: where everything is counted.
        over: told of each request that is over.
    """

    def __init__(self, place: Place, limits: Limits, tally: Tally, over: Over) -> None:
        self._place, self._limits = place, limits
        self._tally, self._over = tally, over
        self._epoll = select.epoll()
        self._links: dict[int, Link] = {}
        self._idle: list[Link] = []
        self._queue: deque[Request] = deque()

    def fileno(self) -> int:
        """Return a descriptor that can be read where `poll` has something to do."""
        return self._epoll.fileno()

    @property
    def waiting(self) -> int:
        """Return how many requests are due and wait for a connection."""
        return len(self._queue)

    def send(self, request: Request) -> None:
        """Send a request that is due."""
        self._tally.asked += 1
        if self._idle:
            self._send_on(self._idle.pop(), request)
        elif len(self._links) < self._limits.connections:
            self._connect_for(request)
        elif len(self._queue) < self._limits.queue:
            self._queue.append(request)
        else:
            self._fail(request, QUEUE_FULL)

    def poll(self) -> None:
        """Do what connections are ready for; never wait."""
        for fd, events in self._epoll.poll(0, EVENTS):
            link = self._links.get(fd)
            if link is None:
                continue  # closed by what an earlier event of this row did
            try:
                self._go_on(link, events)
            except (OSError, HttpError) as exc:
                self._lose(link, _reason(exc))
        while self._queue and len(self._links) < self._limits.connections:
            self._connect_for(self._queue.popleft())

    def sweep(self, now: float) -> None:
        """Give up what has been waited for too long."""
        begun_by = now - self._limits.timeout_s
        for link in list(self._links.values()):
            request = link.request
            if request is not None and link.since <= begun_by:
                self._drop(link)
                self._time_out(request, now)

    def close(self) -> None:
        """Give up everything that is under way, and be of no more use."""
        self.abandon()
        self._epoll.close()

    def abandon(self) -> None:
        """Give up everything that is under way and close all connections."""
        for link in list(self._links.values()):
            self._lose(link, ABANDONED)
        while self._queue:
            self._fail(self._queue.popleft(), ABANDONED)

    def _connect_for(self, request: Request) -> None:
        try:
            link = Link(self._place)
        except OSError as exc:
            self._fail(request, _reason(exc))
            return
        link.request, link.since = request, time.monotonic()
        self._links[link.fd] = link
        self._epoll.register(link.fd, link.awaits)

    def _send_on(self, link: Link, request: Request) -> None:
        """Send on a connection that is open and free."""
        link.request = request
        method, data = request.message
        link.reader.expect(method)
        request.sent = link.since = now = time.monotonic()
        try:
            taken = link.send(data)
        except OSError as exc:
            request.sent = 0.0
            self._lose(link, _reason(exc))
            return
        tally = self._tally
        if not tally.sent:
            tally.first_sent = now
        tally.sent += 1
        tally.last_sent = now
        tally.late_s = max(tally.late_s, now - request.due)
        if taken < len(data):
            self._epoll.modify(link.fd, link.awaits)

    def _go_on(self, link: Link, events: int) -> None:
        if not link.open:
            self._open(link)
            return
        if events & EPOLLOUT and link.unsent:
            link.send(link.unsent)
            self._epoll.modify(link.fd, link.awaits)
        if events & _READABLE:
            self._receive(link)

    def _open(self, link: Link) -> None:
        """Go on with connecting; send what it is for once it is done."""
        awaited = link.awaits
        link.go_on()
        if link.awaits != awaited:
            self._epoll.modify(link.fd, link.awaits)
        if link.open and link.request is not None:
            self._send_on(link, link.request)

    def _receive(self, link: Link) -> None:
        while (data := link.receive()) is not None:
            request = link.request
            if request is None:  # the server ends an idle connection, or says what nobody asked
                self._drop(link)
                return
            head = link.reader.feed(data) if data else link.reader.end()
            if head is not None:
                self._answer(link, request, head)
                return
            if not link.more:
                return

    def _answer(self, link: Link, request: Request, head: ResponseHead) -> None:
        now = time.monotonic()
        link.request = None
        self._tally.answer(head.status, request.due, request.sent, now)
        self._over(request, head, now)
        if not link.reader.reusable or link.unsent:
            self._drop(link)
        elif self._queue:
            self._send_on(link, self._queue.popleft())
        else:
            self._idle.append(link)

    def _time_out(self, request: Request, now: float) -> None:
        if request.sent:
            self._tally.time_out(TIMED_OUT, request.due, request.sent, now)
            self._over(request, None, now)
        else:
            self._fail(request, TIMED_OUT)

    def _lose(self, link: Link, reason: str) -> None:
        request = link.request
        self._drop(link)
        if request is not None:
            self._fail(request, reason)

    def _fail(self, request: Request, reason: str) -> None:
        if request.sent:
            self._tally.fail(reason)
        else:
            self._tally.give_up(reason)
        self._over(request, None, time.monotonic())

    def _drop(self, link: Link) -> None:
        if link.request is None:
            with suppress(ValueError):  # of one whose answer said that it was the last
                self._idle.remove(link)
        link.request = None
        self._links.pop(link.fd, None)
        link.close()  # which takes it out of the epoll set, too


def _reason(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__
