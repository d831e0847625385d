"""Which client connections are taken: everybody gets some, and nobody gets all.

A connection costs a file descriptor and memory, so there is a bound for all. Below it every
container has a bound of its own, known by its sandbox, or by its address on a bridge; and what
containers may have together leaves places that only the machine's own programs get, by which its
people can still look into what goes wrong. Programs of the machine itself are not told apart: they
come from one address, and could end each other by other means.

Pure: sources in, yes or no out.
"""

from dataclasses import dataclass, field

OWN = ""
"""The source of this machine's own programs."""

MAX_CLIENTS = 20_000
"""Open client connections; one costs a file descriptor and some 20 KiB."""

RESERVED = 4_000
"""Of those, for the machine's own programs: what is left for containers is still 16,000."""

MAX_OF_ONE = 2_000
"""For one container: a server with a connection for each of 2,000 requests at once; eight such
containers fill what containers may have."""


@dataclass(slots=True)
class Places:
    """The places for client connections, and who has how many.

    Attributes:
        most: for everybody together.
        others: for all but this machine's own programs.
        most_of_one: for each of those.
        taken: by everybody.
    """

    most: int = MAX_CLIENTS
    others: int = MAX_CLIENTS - RESERVED
    most_of_one: int = MAX_OF_ONE
    taken: int = 0
    _by_container: dict[str, int] = field(default_factory=dict)
    _containers: int = 0

    def take(self, source: str) -> bool:
        """Take a place for a connection from `source` if it may have one; `leave` gives it back."""
        if self.taken >= self.most:
            return False
        if source != OWN:
            has = self._by_container.get(source, 0)
            if has >= self.most_of_one or self._containers >= self.others:
                return False
            self._by_container[source] = has + 1
            self._containers += 1
        self.taken += 1
        return True

    def leave(self, source: str) -> None:
        """Give back a place that was taken."""
        self.taken -= 1
        if source == OWN:
            return
        self._containers -= 1
        left = self._by_container[source] - 1
        if left:
            self._by_container[source] = left
        else:
            del self._by_container[source]
