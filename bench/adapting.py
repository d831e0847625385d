"""How long something takes to answer well again after its load changed, or a part of it ended.

Requests are looked at by windows of when they were due. A window is good if most of its requests
were answered in time. What has adapted has only good windows from then on.
"""

from collections.abc import Iterable, Sequence
from math import inf

from bench.client import OK
from bench.open_load import Sent

IN_TIME_S = 0.1
"""What a person takes for at once (Miller 1968); an answer that takes longer is not in time."""

WINDOW_S = 0.5
"""Long enough for some dozens of requests at the rates of `bench.dialog`."""

GOOD = 0.95
"""Of a window's requests, that are answered in time where it is good."""


def in_time(one: Sent) -> bool:
    """Whether a request was answered 200 within `IN_TIME_S` of when it was due."""
    return one.status == OK and one.latency_s <= IN_TIME_S


def availability(sent: Sequence[Sent]) -> float:
    """Return the share of requests that were answered 200 at all.

    Raises:
        ZeroDivisionError: there are none.
    """
    return sum(one.status == OK for one in sent) / len(sent)


def share_in_time(sent: Sequence[Sent]) -> float:
    """Return the share of requests that were answered in time.

    Raises:
        ZeroDivisionError: there are none.
    """
    return sum(map(in_time, sent)) / len(sent)


def adapted_s(sent: Iterable[Sent], changed_s: float, until_s: float) -> float:
    """Return the seconds from a change to the end of the last window that is not good.

    So it is 0 where the change did no harm, else a multiple of `WINDOW_S`, or `inf` where the last
    window before `until_s` is not good: it did not adapt in the time that it had.

    Args:
        sent: the requests, in any order.
        changed_s: when the load changed or something ended, on the clock of `due_s`.
        until_s: when the next change was, or the end of the load.
    """
    count = max(1, int((until_s - changed_s) / WINDOW_S + 1e-9))  # the last one may be longer
    windows: list[list[Sent]] = [[] for _ in range(count)]
    for one in sent:
        if changed_s <= one.due_s < until_s:
            windows[min(int((one.due_s - changed_s) / WINDOW_S), count - 1)].append(one)
    bad = [n for n, window in enumerate(windows, 1) if window and share_in_time(window) < GOOD]
    if not bad:
        return 0.0
    return inf if bad[-1] == count else bad[-1] * WINDOW_S
