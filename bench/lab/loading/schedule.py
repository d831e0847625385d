"""When requests are due: a rate over time, and how requests follow each other at a rate of 1.

Requests have positions on a line on which one unit is one request: 0, 1, 2, … at constant
intervals, sums of drawn gaps otherwise. A request is due when the rate, summed over time, has come
to its position (time rescaling; Çinlar, "Introduction to Stochastic Processes", section 4.7: with
exponential gaps that is a Poisson process whose rate varies). Every time is worked out from the
beginning and none from the one before, so nothing drifts; and at constant intervals as many
requests are due as the rate sums up to, rounded up, whatever the profile.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from math import inf, sqrt
from random import Random

from bench.lab.errors import BadInput
from bench.lab.loading.arrivals import CONSTANT, Arrivals
from bench.lab.loading.profiles import Piece, Profile

_ROUNDING = 1e-6
"""Of a request: what sums of rates may be off by without one more, or one less, being due."""


def due_times(
    profile: Profile,
    arrivals: Arrivals = CONSTANT,
    duration_s: float | None = None,
    random: Random | None = None,
) -> Iterator[float]:
    """Yield when requests are due, in seconds from the beginning.

    Args:
        profile: the rate.
        arrivals: their shape; the mean is the rate's.
        duration_s: when the load ends; else when the profile does.
        random: what is drawn from, for profile and arrivals.

    Raises:
        BadInput: neither ends, or the arrivals have no mean.
    """
    end = min(profile.length_s, inf if duration_s is None else duration_s)
    if end == inf:
        raise BadInput("the profile goes on for ever: give the load a duration")
    drawn = Random() if random is None else random  # noqa: S311  (load is no secret)
    strides, gaps = Random(drawn.random()), Random(drawn.random())  # noqa: S311
    return stretched(until(profile.pieces(strides), end), arrivals.positions(gaps))


def until(pieces: Iterable[Piece], end_s: float) -> Iterator[Piece]:
    """Yield the pieces up to `end_s`, the last one cut there."""
    at = 0.0
    for piece in pieces:
        if at >= end_s:
            return
        yield piece if at + piece.length_s <= end_s else _cut(piece, end_s - at)
        at += piece.length_s


def stretched(pieces: Iterable[Piece], positions: Iterator[float]) -> Iterator[float]:
    """Yield the time at which the rate has summed up to each position."""
    begin = below = 0.0
    position = next(positions, inf)
    for piece in pieces:
        above = below + piece.length_s * (piece.first + piece.last) / 2
        while position < above - _ROUNDING:
            yield begin + _time_within(piece, max(position - below, 0.0))
            position = next(positions, inf)
        begin += piece.length_s
        below = above


def share(times: Iterator[float], number: int, of: int) -> Iterator[float]:
    """Yield every `of`-th of the times, beginning with the one that has this number from 0 on."""
    return islice(times, number, None, of)


def _cut(piece: Piece, length_s: float) -> Piece:
    part = length_s / piece.length_s if piece.length_s < inf else 0.0
    return Piece(length_s, piece.first, piece.first + (piece.last - piece.first) * part)


def _time_within(piece: Piece, requests: float) -> float:
    """Return when the rate has summed up to `requests` in a piece, in seconds from its beginning.

    The root of slope / 2 x² + first x = requests, written so that nothing cancels out.
    """
    slope = (piece.last - piece.first) / piece.length_s
    root = sqrt(max(piece.first * piece.first + 2 * slope * requests, 0.0))
    divisor = piece.first + root
    return min(2 * requests / divisor, piece.length_s) if divisor > 0 else 0.0
