"""A group of clients, for programs and notebooks."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.lab.errors import BadInput
from bench.lab.load_hosts import ClientStatus, InterArrival, Spawn

if TYPE_CHECKING:
    from bench.lab.connecting import Lab


class Sending:
    """Requests that clients were told to send."""

    def __init__(self, future: "Future[None]") -> None:
        self._future = future

    def wait(self, timeout: float | None = None) -> None:
        """Return when all were answered or failed.

        Args:
            timeout: seconds; the requests go on after it.

        Raises:
            TimeoutError: they were not within `timeout`.
            LoadFailed: a host or a client is gone before it had sent all of its own.
        """
        self._future.result(timeout)

    def done(self) -> bool:
        """Whether it has come to an end, good or bad."""
        return self._future.done()


class ClientGroup:
    """Clients that do things together; made by `Lab.spawn` or `Lab.clients`.

    Attributes:
        ids: theirs.
    """

    def __init__(
        self, lab: "Lab", ids: Sequence[str], what: Spawn | None = None, pattern: str = ".*"
    ) -> None:
        self.ids = list(ids)
        self._lab = lab
        self._what = what
        self._pattern = pattern

    def rps(self, n: float) -> None:
        """Have each client send `n` requests a second, fractions too; 0 is a pause."""
        self._lab.call(self._lab.fleet.rps_of, self.ids, n)

    def pause(self) -> None:
        """Have the clients send nothing more at a rate."""
        self.rps(0)

    def request(self, n: int | None = None, ia: InterArrival | None = None) -> Sending:
        """Have each client send requests.

        Args:
            n: how many each; None sends until `pause` or `close`.
            ia: seconds between two, or a distribution such as `("expovariate", 1)`; None sends
                each as soon as the one before is answered.
        """
        return Sending(self._lab.start(self._lab.fleet.request, self.ids, n, ia))

    def info(self) -> list[ClientStatus]:
        """Return how each client is; those whose host is lost are left out."""
        mine = set(self.ids)
        return [status for status in self._lab.info() if status.client in mine]

    def add(self, n: int = 1) -> "ClientGroup":
        """Start more clients like these; return a group of the new ones.

        Raises:
            BadInput: the group was not made by one `spawn`.
        """
        if self._what is None:
            raise BadInput("this group was not made by one `spawn`, so add() cannot know of what")
        ids = self._lab.call(
            self._lab.fleet.spawn_spread, self._pattern, replace(self._what, num=n)
        )
        self.ids.extend(ids)
        return ClientGroup(self._lab, ids, self._what, self._pattern)

    def close(self, n: int | None = None) -> list[str]:
        """End all clients, or the last `n`; return their ids."""
        closed = self.ids if n is None else self.ids[max(0, len(self.ids) - n) :]
        if closed:
            self._lab.call(self._lab.fleet.close_clients, closed)
        self.ids = self.ids[: len(self.ids) - len(closed)]
        return list(closed)

    def __add__(self, other: "ClientGroup") -> "ClientGroup":
        """Return a group of both, each client once."""
        same = self._what is not None and self._what == other._what
        ids = list(dict.fromkeys([*self.ids, *other.ids]))
        return ClientGroup(self._lab, ids, self._what if same else None, self._pattern)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return "\n".join(self.ids) or "empty client group"
