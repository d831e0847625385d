"""How long a backend takes to answer: an average that believes bad news sooner than good.

A moving average of samples, raised at once where four in a row were slower: to the quickest of
them. (Finagle's peak EWMA, where this comes from, takes each slow answer for a peak. But one slow
answer is a pause or a large request, which anybody can have. If it counted much, equals would seem
unequal, and who seems slow gets no requests that would show otherwise.) So a sample counts for
little if it is far off, of answers that were waited for at the same time only the first one is a
sample, as of packets in TCP, and of the first few the quickest counts: much is done at first only.

What was measured long ago fades: a backend that was slow is then taken to be as good as others, and
tried again. One that nobody tried is taken to be as good as others at once, but let in slowly: with
n answers it may have n + 1 requests in flight, which doubles what it gets with each round, as TCP's
slow start does.
"""

from dataclasses import dataclass
from math import exp

ALPHA = 0.2
"""Weight of the newest sample: ten samples forget a change."""

PEAK_OF = 4
"""Slow samples in a row: on a busy machine one process waits for the processor several times in a
row, and a backend that is ten times slower is known after four of its own answers all the same."""

FADE_S = (0.5, 16.0)
"""In so long without a sample, two thirds of what sets a backend apart are forgotten: in the first,
and in twice as long each time that it is found to be as slow as before, up to the second. So one
that had to wait for its disk is soon back, and one that stays slow is tried once in 18 s."""

OUTLIER = 2.0
"""A sample counts for at most so many averages. A pause of 0.1 s, which any machine has, would make
an answer of 5 ms five times slower, and its backend the one that nobody asks for ten seconds."""

KNOWN_AFTER = 8
"""Answers after which a backend is let in fully."""

_FRESH_S = 0.1
"""What is younger has not faded enough to be worth an exponential."""


@dataclass(slots=True)
class Latency:
    """Of one backend.

    Attributes:
        smoothed_s: the average; 0 until there is a sample.
        answered: answers, counted up to `KNOWN_AFTER`.
        rounds: samples that counted.
    """

    smoothed_s: float = 0.0
    answered: int = 0
    rounds: int = 0
    _fade_s: float = FADE_S[0]
    _recent_s: tuple[float, ...] = ()
    _at: float = 0.0

    def observe(self, sample_s: float, now: float) -> None:
        """Take in how long one answer took that came now."""
        if self.answered < KNOWN_AFTER:
            self.answered += 1
        if self.rounds and now - sample_s < self._at:
            return
        self._recent_s = (sample_s, *self._recent_s[: PEAK_OF - 1])
        if self.rounds == 0:
            self.smoothed_s = sample_s
        else:
            self._follow(sample_s, now)
        self._at = now
        self.rounds += 1

    def _follow(self, sample_s: float, now: float) -> None:
        if now - sample_s - self._at >= self._fade_s / 2:  # it was left out, and tried
            still = sample_s > self.smoothed_s / OUTLIER
            self._fade_s = min(self._fade_s * 2, FADE_S[1]) if still else FADE_S[0]
        old_s = min(self.smoothed_s, self.expected_s(now, sample_s))
        stepped_s = old_s + ALPHA * (min(sample_s, OUTLIER * old_s) - old_s)
        if self.rounds < PEAK_OF:
            self.smoothed_s = min(self._recent_s)
        else:
            self.smoothed_s = max(stepped_s, min(self._recent_s))

    def expected_s(self, now: float, usual_s: float) -> float:
        """Return what to expect of the next answer, where others usually take `usual_s`."""
        if self.rounds == 0:
            return usual_s
        age_s = now - self._at
        if age_s < _FRESH_S:
            return self.smoothed_s
        return usual_s + (self.smoothed_s - usual_s) * exp(-age_s / self._fade_s)

    def lets_in(self, in_flight: int) -> bool:
        """Return whether another request may go there beside `in_flight` others."""
        return self.answered >= KNOWN_AFTER or in_flight <= self.answered
