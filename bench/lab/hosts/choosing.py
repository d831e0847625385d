"""Which hosts a pattern means, and how clients are dealt out to them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heapreplace

from bench.lab.errors import BadInput, NoSuchHost

MAX_PATTERN = 256


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a regular expression matches as a whole, sorted.

    Raises:
        BadInput: it is no regular expression.
        NoSuchHost: none.
    """
    there = sorted(names)
    try:
        wanted = re.compile(pattern[: MAX_PATTERN + 1])
    except re.error as exc:
        raise BadInput(f"{pattern!r} is no regular expression: {exc}") from exc
    if len(pattern) > MAX_PATTERN:
        raise BadInput(f"a pattern of {len(pattern)} signs; at most {MAX_PATTERN}")
    found = [name for name in there if wanted.fullmatch(name)]
    if not found:
        hosts = ", ".join(there) or "none"
        raise NoSuchHost(
            f"no load host is called {pattern!r}; there are: {hosts} "
            "(`myxo lab host` makes a machine one)"
        )
    return found


def pack(clients: Mapping[str, int], more: int) -> dict[str, int]:
    """Return how many of `more` clients each host gets, each given to who has the fewest by then.

    Of two with as many the one that is named first gets it.
    """
    order: Sequence[str] = list(clients)
    heap = [(count, at) for at, count in enumerate(clients.values())]
    heapify(heap)
    given = dict.fromkeys(order, 0)
    for _ in range(more):
        count, at = heap[0]
        heapreplace(heap, (count + 1, at))
        given[order[at]] += 1
    return {host: count for host, count in given.items() if count}
