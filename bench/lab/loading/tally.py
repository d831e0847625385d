"""What became of the requests of a load: counts, and latencies in HDR histograms.

Latencies are kept twice: from when a request was due, and from when it was sent. The first is what
a user who comes at that moment waits; the second, the server's service time, leaves out whoever had
to wait to be sent at all (coordinated omission), and stands beside it for comparison. Both count
requests that were answered and those given up for time; one whose connection broke has no latency.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Any

from hdrh.histogram import HdrHistogram

LEAST_US, MOST_US, DIGITS = 1, 3_600_000_000, 3
"""From a microsecond to an hour, to a thousandth: 0.2 MB a histogram."""

SIGNIFICANT_BITS = 11
"""Of a value of three digits: the histogram has 2,048 buckets, and 1,024 more for each octave."""

MOST_REASONS = 50
"""Different ones that are counted by name; a server that words each differently fills no memory."""

OTHER = "other reasons"

FIRST_FAILURE = 300
"""Of the statuses of an answer; one that sends the client elsewhere is not followed."""

QUANTILES = (50.0, 95.0, 99.0, 99.9)

_COUNTS = ("asked", "sent", "unsent", "answered", "failed")
_TIMES = ("late_s", "first_sent", "last_sent")


class Latencies:
    """A histogram of latencies, in seconds outside and microseconds within."""

    __slots__ = ("_fresh", "_histogram")

    def __init__(self, histogram: HdrHistogram | None = None) -> None:
        self._histogram = histogram or HdrHistogram(LEAST_US, MOST_US, DIGITS)
        self._fresh: dict[int, int] = {}

    def add(self, latency_s: float) -> None:
        """Count one, in a tenth of the time that the histogram takes.

        Values that are the same to the histogram are the same here, so these are bounded.
        """
        value = int(latency_s * 1e6)
        shift = value.bit_length() - SIGNIFICANT_BITS
        if shift > 0:
            value = value >> shift << shift
        fresh = self._fresh
        fresh[value] = fresh.get(value, 0) + 1

    def quantile(self, percent: float) -> float:
        """Return the nearest-rank quantile; 0 if there are none."""
        if not (count := self.count):
            return 0.0
        rank = ceil(count * percent / 100 - 1e-9)
        # The histogram rounds to a rank, where nearest-rank takes the next one up.
        return float(self._histogram.get_value_at_percentile(100 * rank / count)) / 1e6

    @property
    def longest(self) -> float:
        """Return the longest one, 0 if there are none."""
        self._settle()
        return float(self._histogram.get_max_value()) / 1e6 if self.count else 0.0

    @property
    def count(self) -> int:
        """Return how many there are."""
        self._settle()
        return int(self._histogram.get_total_count())

    def merge(self, other: "Latencies") -> None:
        """Add all of another's."""
        self._settle()
        other._settle()  # noqa: SLF001  (of the same class)
        self._histogram.add(other._histogram)  # noqa: SLF001

    def encoded(self) -> str:
        """Return it in HdrHistogram's own portable form."""
        self._settle()
        return bytes(self._histogram.encode()).decode("ascii")

    @classmethod
    def decoded(cls, text: str) -> "Latencies":
        """Return what `encoded` returned."""
        return cls(HdrHistogram.decode(text.encode("ascii")))

    def figures(self) -> dict[str, float]:
        """Return quantiles and the longest, in milliseconds."""
        found = {f"p{percent:g}": self.quantile(percent) * 1000 for percent in QUANTILES}
        return found | {"max": self.longest * 1000}

    def _settle(self) -> None:
        for value, times in self._fresh.items():
            self._histogram.record_value(min(max(value, LEAST_US), MOST_US), times)
        self._fresh.clear()


@dataclass(slots=True)
class Tally:
    """What became of requests.

    Attributes:
        asked: that were due.
        sent: whose first byte went out.
        unsent: that never went out: too many waited, or no connection could be made.
        answered: whole, with any status.
        failed: that were sent and have no answer, or one of 300 and above.
        statuses: answers by status.
        reasons: why requests were not sent or have no answer, by what was wrong.
        late_s: the most that a request was sent later than it was due.
        first_sent, last_sent: when, by `time.monotonic`, which all processes of a machine share.
        intended: latencies from when a request was due.
        service: latencies from when it was sent.
    """

    asked: int = 0
    sent: int = 0
    unsent: int = 0
    answered: int = 0
    failed: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    late_s: float = 0.0
    first_sent: float = inf
    last_sent: float = 0.0
    intended: Latencies = field(default_factory=Latencies)
    service: Latencies = field(default_factory=Latencies)

    @property
    def rate(self) -> float:
        """Return the requests that were sent in a second, from the first to the last."""
        lasted_s = self.last_sent - self.first_sent
        return (self.sent - 1) / lasted_s if lasted_s > 0 else 0.0

    def answer(self, status: int, due: float, sent: float, done: float) -> None:
        """Count an answer."""
        self.answered += 1
        self.statuses[status] += 1
        if status >= FIRST_FAILURE:
            self.failed += 1
        self.intended.add(done - due)
        self.service.add(done - sent)

    def fail(self, reason: str) -> None:
        """Count a request that was sent and has no answer."""
        self.failed += 1
        self._because(reason)

    def give_up(self, reason: str) -> None:
        """Count a request that was never sent."""
        self.unsent += 1
        self._because(reason)

    def time_out(self, reason: str, due: float, sent: float, done: float) -> None:
        """Count a request whose answer was waited for long enough."""
        self.fail(reason)
        self.intended.add(done - due)
        self.service.add(done - sent)

    def merge(self, other: "Tally") -> None:
        """Add what became of others."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.statuses.update(other.statuses)
        self.reasons.update(other.reasons)
        self.late_s = max(self.late_s, other.late_s)
        self.first_sent = min(self.first_sent, other.first_sent)
        self.last_sent = max(self.last_sent, other.last_sent)
        self.intended.merge(other.intended)
        self.service.merge(other.service)

    def as_json(self) -> dict[str, Any]:
        """Return it for another process, which calls `of_json`."""
        return {name: getattr(self, name) for name in (*_COUNTS, *_TIMES)} | {
            "statuses": {str(status): n for status, n in self.statuses.items()},
            "reasons": dict(self.reasons),
            "intended": self.intended.encoded(),
            "service": self.service.encoded(),
        }

    @classmethod
    def of_json(cls, said: Mapping[str, Any]) -> "Tally":
        """Return what another process said."""
        return cls(
            **{name: said[name] for name in (*_COUNTS, *_TIMES)},
            statuses=Counter({int(status): n for status, n in said["statuses"].items()}),
            reasons=Counter(said["reasons"]),
            intended=Latencies.decoded(said["intended"]),
            service=Latencies.decoded(said["service"]),
        )

    def _because(self, reason: str) -> None:
        known = reason in self.reasons or len(self.reasons) < MOST_REASONS
        self.reasons[reason if known else OTHER] += 1
