"""Which worker gets a request: any selection policy of the proxy, on workers instead of instances.

A policy that hashes goes by the file's place, so that the same file is always at the same worker;
original destination goes by the trace's own column `worker`. Times of a trace count as the seconds
that policies know.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from random import Random

from bench.lab.errors import BadInput
from bench.lab.traces.rows import Request
from overlay.balancing import HASHING, MAX_WEIGHT, ORIGINAL_DESTINATION, POLICIES, canonical
from proxy.ranking.policies import Backend, policy_named

MOST_WORKERS = 1000

_KEYS: Mapping[str, Callable[[Request], bytes]] = {
    **dict.fromkeys(HASHING, lambda request: str(request.space).encode()),
    ORIGINAL_DESTINATION: lambda request: str(request.worker).encode(),
}


def policies_of(text: str) -> list[str]:
    """Return the policies that a list names, commas between them, each in its one spelling.

    Raises:
        BadInput: one is none.
    """
    return [policy_of(name) for name in text.split(",")]


def policy_of(text: str) -> str:
    """Return a policy by any of its names, such as rr, random, two_choices, tc.

    Raises:
        BadInput: there is none of that name.
    """
    found = canonical(text)
    if found is None:
        near = get_close_matches(text.strip().lower(), POLICIES, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; there is {', '.join(POLICIES)}"
        raise BadInput(f"{text.strip()!r} is no policy{hint}")
    return found


def weights_of(text: str, workers: int) -> list[float]:
    """Return the workers' weights, commas between them; 1 each where there is no text.

    Raises:
        BadInput: there are not as many, or one is no weight.
    """
    if not text:
        return [1.0] * workers
    parts = text.split(",")
    if len(parts) != workers:
        raise BadInput(f"--weights has {len(parts)} weights; there are {workers} workers")
    return [_weight(part) for part in parts]


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= MAX_WEIGHT:
        raise BadInput(f"--weights has {text.strip()!r}; a weight is 0 to {MAX_WEIGHT:g}")
    return weight


class Chooser:
    """Chooses workers for requests by a policy.

    Attributes:
        workers: what the policy chooses among; `in_flight` and `latency` are the user's to keep.

    Args:
        policy: in its one spelling.
        weights: of each worker.
        seed: of the policy's draws.
    """

    def __init__(self, policy: str, weights: Sequence[float], seed: int) -> None:
        if not 1 <= len(weights) <= MOST_WORKERS:
            raise BadInput(f"{len(weights)} workers are asked for; it must be 1 to {MOST_WORKERS}")
        self.workers = tuple(Backend(str(n), weight) for n, weight in enumerate(weights, 1))
        self._policy = policy_named(policy, Random(f"policy {seed}"))  # noqa: S311  (no secret)
        self._key = _KEYS.get(policy)

    def pick(self, request: Request) -> int:
        """Return the index of the worker that a request goes to.

        Raises:
            BadInput: it names a worker that there is not.
        """
        key = None if self._key is None else self._key(request)
        worker = self._policy.pick(self.workers, request.arrival, key)
        if worker is None:
            raise BadInput(
                f"a request at {request.arrival:g} is for worker {request.worker}, and there are "
                f"{len(self.workers)}"
            )
        return int(worker.name) - 1
