"""One direction of a link: what becomes of a packet that is handed to it at some time.

A link is modelled as what a packet meets on its way, in this order:

1. a *cut*: nothing passes;
2. a *queue* before a line of `bandwidth_bps`. The line serialises: a packet occupies it for its
   size / bandwidth, and waits until those before it have gone, which is a token bucket that holds
   one packet. What would have to wait for longer than the queue reaches is dropped (drop-tail);
3. *loss*, of each packet by itself. It has used the line by then, as on a real one;
4. the *delay* of the way, and *jitter* on top.

Jitter stands for the queues of others on the way, so it changes with time and not with packets:
a first-order autoregressive process, normal with standard deviation `jitter_s`, that forgets in
`JITTER_MEMORY_S`. Drawn anew for each packet, as tc-netem(8) does, it would reorder a burst to
death for TCP, or, with order kept, hold every burst to the worst draw in it. Order is kept: no
packet departs before one that was handed in earlier, also when the delay was lowered between the
two. With `reorder` jitter is drawn for each packet and order is not kept.

Pure: the time and the generator of random numbers come in as arguments.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import exp, inf, isfinite, sqrt
from random import Random

JITTER_MEMORY_S = 0.02
"""Queues of routers fill and drain within tens of milliseconds."""

JITTER_LIMIT = 3.0
"""Standard deviations; the normal distribution's far tail would be a fault of its own."""

MIN_QUEUE_BYTES = 10 * 1500
"""A queue of the least routers holds an initial window of TCP (RFC 6928), however slow the line."""

BITS = 8


class Drop(StrEnum):
    """Why a packet does not arrive."""

    CUT = "cut"
    OVERFLOWED = "overflowed"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Link:
    """What one direction of a link does to packets.

    Attributes:
        delay_s: one way.
        jitter_s: standard deviation of the delay; the delay never falls below 0.
        loss: the share of packets that are lost, 0 to 1.
        bandwidth_bps: bits per second of IP packets; infinite is without limit.
        queue_s: how long a packet may wait for the line, at least that of `MIN_QUEUE_BYTES`. Long
            queues trade loss for delay under load.
        reorder: let packets overtake each other.

    Raises:
        ValueError: naming the field that is out of its range.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    bandwidth_bps: float = inf
    queue_s: float = 0.1
    reorder: bool = False

    def __post_init__(self) -> None:
        for name in ("delay_s", "jitter_s", "queue_s"):
            value = getattr(self, name)
            if not (isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be at least 0, not {value}")
        if not 0 <= self.loss <= 1:
            raise ValueError(f"loss must be within 0 and 1, not {self.loss}")
        if not self.bandwidth_bps > 0:
            raise ValueError(f"bandwidth_bps must be above 0, not {self.bandwidth_bps}")


PERFECT = Link()
"""No delay, no loss, no limit: what is left is the router's own time."""


class Shaper:
    """A link with its state; says of each packet when it departs at the far end, or why never.

    Args:
        link: what it does; `set` changes it while packets are under way.
        rng: its own, so that what one link drops does not depend on the traffic of others.
    """

    __slots__ = (
        "_bytes_per_s",
        "_delay_s",
        "_free_at",
        "_jitter",
        "_jitter_at",
        "_jitter_s",
        "_last",
        "_limited",
        "_longest_wait_s",
        "_loss",
        "_reorder",
        "_rng",
        "cut",
        "link",
    )

    def __init__(self, link: Link, rng: Random) -> None:
        self._rng = rng
        self._free_at = -inf
        self._last = -inf
        self._jitter, self._jitter_at = rng.gauss(0, 1), -inf
        self.cut = False
        self.set(link)

    def set(self, link: Link) -> None:
        """Treat packets from now on as `link` says; those under way keep their times."""
        self.link = link
        self._delay_s, self._jitter_s = link.delay_s, link.jitter_s
        self._loss, self._reorder = link.loss, link.reorder
        self._bytes_per_s = link.bandwidth_bps / BITS
        self._limited = self._bytes_per_s < inf
        self._longest_wait_s = max(link.queue_s, MIN_QUEUE_BYTES / self._bytes_per_s)

    def send(self, size: int, now: float) -> float | Drop:
        """Hand in a packet of `size` bytes at `now`; return when it departs, or why it does not."""
        if self.cut:
            return Drop.CUT
        departs = now
        if self._limited:
            begins = max(now, self._free_at)
            if begins - now > self._longest_wait_s:
                return Drop.OVERFLOWED
            self._free_at = departs = begins + size / self._bytes_per_s
        if self._loss and self._rng.random() < self._loss:
            return Drop.LOST
        delay = self._delay_s
        if self._jitter_s:
            delay = max(0.0, delay + self._jitter_s * self._draw(departs))
        departs += delay
        if self._reorder:
            return departs
        self._last = departs = max(departs, self._last)
        return departs

    def _draw(self, now: float) -> float:
        """Return the jitter at `now` in standard deviations."""
        kept = 0.0 if self._reorder else exp(min(0.0, self._jitter_at - now) / JITTER_MEMORY_S)
        self._jitter = kept * self._jitter + sqrt(1 - kept * kept) * self._rng.gauss(0, 1)
        self._jitter_at = now
        return max(-JITTER_LIMIT, min(JITTER_LIMIT, self._jitter))
