"""When an instance counts as ready: its address accepts a connection, and `health` answers 2xx.

Attempts come every millisecond for the first 300 ms, because a fresh container listens within tens
of milliseconds and its first request waits, then back off to every 50 ms. An instance that ends
meanwhile ends the wait at once.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import trio

from allocator.instances import health_http2
from overlay.spec import ServiceSpec

EAGER_S = 0.3
EAGER_STEP_S = 0.001
BACKOFF = 1.5
LATEST_STEP_S = 0.05

ATTEMPT_S = 0.25
"""A connect whose first packet was lost tries again only after 1 s by itself (RFC 6298 §2.1)."""

HEALTH_ATTEMPT_S = 2.0
_HEAD_BYTES = 4096
_OK_STATUSES = range(200, 300)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What to do between one attempt and the next; `after` gives the step that follows."""

    step_s: float = EAGER_STEP_S

    def after(self, elapsed_s: float) -> "Attempt":
        """Return the step to take `elapsed_s` seconds after the start."""
        if elapsed_s < EAGER_S:
            return self
        return Attempt(min(self.step_s * BACKOFF, LATEST_STEP_S))


class Question(NamedTuple):
    """What an instance that is well answers with 2xx.

    Attributes:
        path: to ask for.
        http2: it speaks HTTP/2.
    """

    path: str
    http2: bool = False


def question_to(spec: ServiceSpec) -> Question | None:
    """Return what an instance of a service is asked; None where a connection says enough."""
    return None if spec.health is None else Question(spec.health, spec.protocol == "h2c")


class Outcome(StrEnum):
    """How a wait for readiness ended."""

    READY = "ready"
    EXITED = "exited"
    TIMED_OUT = "timed_out"


async def wait_ready(
    address: str,
    health: Question | None,
    timeout_s: float,
    exited: Callable[[], Awaitable[None]],
) -> Outcome:
    """Wait until the instance at `address` is ready, `exited` returns, or `timeout_s` are over."""
    return await wait_until(lambda: _until_answer(address, health), timeout_s, exited)


async def wait_until(
    ready: Callable[[], Awaitable[None]],
    timeout_s: float,
    exited: Callable[[], Awaitable[None]],
) -> Outcome:
    """Wait until `ready` or `exited` returns, or `timeout_s` are over."""
    outcome = Outcome.TIMED_OUT

    async def watch() -> None:
        nonlocal outcome
        await exited()
        outcome = Outcome.EXITED
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        with trio.move_on_after(timeout_s):
            await ready()
            outcome = Outcome.READY
        nursery.cancel_scope.cancel()
    return outcome


async def _until_answer(address: str, health: Question | None) -> None:
    begun = trio.current_time()
    attempt = Attempt()
    while not await answers(address, health):
        attempt = attempt.after(trio.current_time() - begun)
        await trio.sleep(attempt.step_s)


async def answers(address: str, health: Question | None) -> bool:
    """Return whether the instance accepts a connection, and answers `health` well if it is set."""
    host, _, port = address.rpartition(":")
    if not host:  # it ended as it started; the system would take no host for this machine
        return False
    sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_STREAM)
    with sock:
        try:
            with trio.fail_after(ATTEMPT_S):
                await sock.connect((host, int(port)))
            if health is None:
                return True
            with trio.fail_after(HEALTH_ATTEMPT_S):
                return await _is_well(trio.SocketStream(sock), address, health)
        except (OSError, trio.TooSlowError, trio.BrokenResourceError):
            return False


async def _is_well(stream: trio.SocketStream, address: str, question: Question) -> bool:
    if question.http2:
        return await health_http2.is_healthy(stream, address, question.path)
    request = f"GET {question.path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    await stream.send_all(request.encode())
    head = b""
    while b"\r\n" not in head and len(head) < _HEAD_BYTES:
        data = await stream.receive_some()
        if not data:
            return False
        head += data
    words = head.split(b"\r\n", 1)[0].split()
    return len(words) > 1 and words[1].isdigit() and int(words[1]) in _OK_STATUSES
