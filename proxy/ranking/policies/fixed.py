"""Who asks says where to: original destination."""

from collections.abc import Sequence

from proxy.ranking.policies.backend import B, Policy


class OriginalDestination:
    """The backend that the key names and no other; for a request that names none, as by default.

    Args:
        otherwise: picks for those.
    """

    def __init__(self, otherwise: Policy) -> None:
        self._otherwise = otherwise

    def pick(self, among: Sequence[B], now: float, key: bytes | None = None) -> B | None:
        """See `Policy.pick`."""
        if key is None:
            return self._otherwise.pick(among, now)
        name = key.decode("utf-8", "replace")
        return next((b for b in among if b.name == name and b.usable(now)), None)
