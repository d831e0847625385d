"""How far an instance may be from who asks: a soft and a hard RTT.

A service's RTT limits bind the requests that the service itself sends. Who has no definition, such
as a person with curl, is bound by those of the service asked for; where both have one, the stricter
holds. Over the hard limit an instance is not used; over the soft one it is, and a nearer one is
looked for.

Pure: specs in, limits out.
"""

from typing import NamedTuple

from overlay.spec import ServiceSpec

UNKNOWN_RTT_S = 1.0
"""A peer that no probe has measured yet ranks behind everything measured on Earth."""


class RttLimits(NamedTuple):
    """In seconds; None is no limit."""

    soft_s: float | None = None
    hard_s: float | None = None


def limits_of(target: ServiceSpec, caller: ServiceSpec | None = None) -> RttLimits:
    """Return what binds a request for `target` by an instance of `caller`, or by anybody."""
    if caller is None:
        return RttLimits(target.soft_rtt_s, target.hard_rtt_s)
    return RttLimits(
        _stricter(target.soft_rtt_s, caller.soft_rtt_s),
        _stricter(target.hard_rtt_s, caller.hard_rtt_s),
    )


def _stricter(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)
