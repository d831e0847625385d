"""Which rate was asked of load hosts, read from an experiment's events. Pure.

The daemon notes down each command: `spawn` with the ids of the clients, `rps` with pattern, service
and rate, `close` with pattern and service.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from bench.lab.api.charts import Span

Event = tuple[float, str, str]
"""When, what, and with which words."""

Step = tuple[float, float]
"""From when on, in seconds since 1970, and how many requests a second."""


def steps(events: Iterable[Event], *, shared: bool) -> list[Step]:
    """Return the rate of all clients together, each time it changes.

    Args:
        events: in the order in which they happened.
        shared: whether a rate is that of all hosts together, as of a curve, and not of each.
    """
    hosts: dict[str, set[str]] = {}
    rates: dict[tuple[str, str], float] = {}
    found: list[Step] = []
    for time, name, text in events:
        if name == "spawn":
            for client in text.split():
                host, _, service = client.partition(":")
                hosts.setdefault(service.rpartition(":")[0], set()).add(host)
            continue
        words = text.split()
        match name, words:
            case "rps", [pattern, service, rate]:
                number = 1 if shared else _matching(pattern, hosts.get(service, set()))
                rates[pattern, service] = float(rate) * number
            case "close", [pattern, service]:
                rates.pop((pattern, service), None)
            case _:
                continue
        found.append((time, sum(rates.values())))
    return found


def _matching(pattern: str, hosts: Iterable[str]) -> int:
    return sum(re.fullmatch(pattern, host) is not None for host in hosts)


def asked_in(span: Span, changes: Sequence[Step]) -> list[float]:
    """Return the mean rate that was asked in each interval."""
    offsets = span.offsets
    if not changes:
        return [0.0] * len(offsets)
    times = np.array([time - span.start for time, _ in changes])
    rates = np.array([rate for _, rate in changes])
    # Requests that were asked for until each change, and from there to the intervals' bounds.
    sums = np.concatenate(([0.0], np.cumsum(rates[:-1] * np.diff(times))))

    def until(moments: np.ndarray) -> np.ndarray:
        last = np.searchsorted(times, moments, side="right") - 1
        inside = np.maximum(last, 0)
        return np.where(last < 0, 0.0, sums[inside] + rates[inside] * (moments - times[inside]))

    asked = until(offsets + span.lengths) - until(offsets)
    return [float(rate) for rate in asked / span.lengths]
