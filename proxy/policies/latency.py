"""How long a backend takes to answer: an average that believes bad news sooner than good.

A moving average of the samples, raised at once where three answers in a row were slower: to the
quickest of them. (Finagle's peak EWMA, where this comes from, takes each slow answer for a peak.
One slow answer is a pause or a large request, which anybody can have: equals would seem unequal,
and who seems slow gets no requests that would show otherwise.) A first answer that took longer than
the second is forgotten, because much is done at a first one only.

What was measured long ago fades: a backend that was slow is then taken to be as good as others, and
tried again. One that nobody tried is taken to be as good as others at once, but let in slowly: with
n answers it may have n + 1 requests in flight, which doubles what it gets with each round, as TCP's
slow start does.
"""

from dataclasses import dataclass
from math import exp

ALPHA = 0.2
"""Weight of the newest sample: ten requests forget a change."""

FADE_S = 10.0
"""In so long without a sample, two thirds of what sets a backend apart are forgotten; Finagle's.
One that is ten times slower than others is tried again after 11 s."""

KNOWN_AFTER = 8
"""Answers after which a backend is let in fully."""

_FRESH_S = 1.0
"""What is younger has not faded enough to be worth an exponential."""


@dataclass(slots=True)
class Latency:
    """Of one backend.

    Attributes:
        smoothed_s: the average; 0 until there is a sample.
        answered: samples, counted up to `KNOWN_AFTER`.
    """

    smoothed_s: float = 0.0
    answered: int = 0
    _last_s: float = 0.0
    _before_s: float = 0.0
    _at: float = 0.0

    def observe(self, sample_s: float, now: float) -> None:
        """Take in how long one answer took."""
        if self.answered == 0:
            self.smoothed_s = sample_s
        else:
            old_s = self.expected_s(now, sample_s)
            stepped_s = old_s + ALPHA * (sample_s - old_s)
            if self.answered == 1:
                self.smoothed_s = min(stepped_s, sample_s)
            else:
                self.smoothed_s = max(stepped_s, min(sample_s, self._last_s, self._before_s))
        self._before_s, self._last_s, self._at = self._last_s, sample_s, now
        if self.answered < KNOWN_AFTER:
            self.answered += 1

    def expected_s(self, now: float, usual_s: float) -> float:
        """Return what to expect of the next answer, where others usually take `usual_s`."""
        if self.answered == 0:
            return usual_s
        age_s = now - self._at
        if age_s < _FRESH_S:
            return self.smoothed_s
        return usual_s + (self.smoothed_s - usual_s) * exp(-age_s / FADE_S)

    def lets_in(self, in_flight: int) -> bool:
        """Return whether another request may go there beside `in_flight` others."""
        return self.answered >= KNOWN_AFTER or in_flight <= self.answered
