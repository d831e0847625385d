"""When an instance that takes datagrams counts as ready: none is refused any more.

There is no connection to be accepted, and a program need not answer what it does not know. But the
kernel of whoever has no socket on a port says so (ICMP port unreachable), so an empty datagram that
is not refused has found one. Programs get one such datagram or two as they start.

On loopback the refusal is there with the send, and every millisecond may be tried. From a container
it takes a moment, and its kernel says so six times and then once a second to the same asker
(icmp(7), icmp_ratelimit): asked more often, its silence would be taken for a socket.
"""

from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import trio

from allocator.instances.readiness import Attempt, Outcome, Question, wait_until

LOOPBACK_WAIT_S = 0.005
CONTAINER_WAIT_S = 0.05
"""How long a refusal may take; a container is one switch away."""

CONTAINER_STEPS_S = (0.01, 0.02, 0.04, 0.08, 0.16)
"""Five refusals more than the first, which the kernel gives at once."""

CONTAINER_STEP_S = 1.1
"""After them: longer than the second that its limit counts in."""


async def wait_bound(
    address: str,
    health: Question | None,
    timeout_s: float,
    exited: Callable[[], Awaitable[None]],
) -> Outcome:
    """Wait until no datagram to `address` is refused; what `wait_ready` is for connections."""
    del health
    return await wait_until(lambda: _until_bound(address), timeout_s, exited)


async def _until_bound(address: str) -> None:
    host = address.rpartition(":")[0]
    if host and ip_address(host).is_loopback:
        begun, attempt = trio.current_time(), Attempt()
        while not await _takes(address, LOOPBACK_WAIT_S):
            attempt = attempt.after(trio.current_time() - begun)
            await trio.sleep(attempt.step_s)
        return
    steps = iter(CONTAINER_STEPS_S)
    while not await _takes(address, CONTAINER_WAIT_S):
        step_s = next(steps, CONTAINER_STEP_S)
        await trio.sleep(step_s)


async def _takes(address: str, within_s: float) -> bool:
    """Return whether a datagram is not refused."""
    host, _, port = address.rpartition(":")
    if not host:  # it ended as it started
        return False
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        try:
            await sock.connect((host, int(port)))
            await sock.send(b"")
            with trio.move_on_after(within_s):
                await sock.recv(1)
        except OSError:
            return False
    return True
