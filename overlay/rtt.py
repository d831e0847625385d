"""Smoothed round-trip times, as TCP keeps them (RFC 6298 section 2).

First sample R: SRTT = R, RTTVAR = R/2. Each further sample R':
RTTVAR = 3/4·RTTVAR + 1/4·|SRTT − R'|, then SRTT = 7/8·SRTT + 1/8·R'. A probe is given
SRTT + 4·RTTVAR, within bounds, before it counts as unanswered. All values are seconds.
"""

from dataclasses import dataclass

ALPHA = 1 / 8
BETA = 1 / 4
EWMA_ALPHA = 0.1
"""libp2p's peerstore smoothing, kept beside for the ping-monitor's `ping_ewma_rtt`."""

SAMPLE_LIMIT_S = 60.0
"""A longer sample is a queue or a sleep of the machine, not a distance."""


@dataclass(frozen=True, slots=True)
class RttEstimate:
    """What is known of the distance to one peer, in seconds."""

    smoothed_rtt: float
    rtt_variation: float
    latest: float
    ewma: float

    @classmethod
    def first(cls, sample: float) -> "RttEstimate":
        """Return the estimate after the first sample."""
        return cls(sample, sample / 2, sample, sample)

    def updated(self, sample: float) -> "RttEstimate":
        """Return the estimate after one more sample."""
        variation = (1 - BETA) * self.rtt_variation + BETA * abs(self.smoothed_rtt - sample)
        return RttEstimate(
            (1 - ALPHA) * self.smoothed_rtt + ALPHA * sample,
            variation,
            sample,
            (1 - EWMA_ALPHA) * self.ewma + EWMA_ALPHA * sample,
        )


def with_sample(estimate: RttEstimate | None, sample: float) -> RttEstimate | None:
    """Return the estimate after `sample`; one that cannot be a distance changes nothing."""
    if not 0 <= sample <= SAMPLE_LIMIT_S:
        return estimate
    return RttEstimate.first(sample) if estimate is None else estimate.updated(sample)


def probe_timeout(estimate: RttEstimate | None, floor: float, ceiling: float) -> float:
    """Return how long a probe may stay unanswered, in seconds."""
    if estimate is None:
        return ceiling
    return min(max(estimate.smoothed_rtt + 4 * estimate.rtt_variation, floor), ceiling)
