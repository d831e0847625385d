"""What each client is to send that was told a rate by its id, also when its host is gone.

Clients that were told a rate by one order, of one service and for one experiment, belong together:
if some are lost with their hosts, the others of them send their part too, in equal shares, and give
it back when those return. If none of them is left, other clients of that service and experiment
send it: those that were told a rate by their ids, else those that were told none. Clients of a host
that has started anew are gone for good; their part stays with others until a rate is told to
clients of that kind again, or none of them is known any more.

Where a host was told a rate for a service as a whole (`rates.py`), that is for its clients of the
service, which then take over nothing from others.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

Kind = tuple[str, str]
"""A service, and an experiment: clients of one kind can send for each other."""


@dataclass(slots=True)
class _Told:
    kind: Kind
    rate: float
    clients: set[str]
    gone: int = 0

    @property
    def together(self) -> float:
        return self.rate * (len(self.clients) + self.gone)


def host_of(client: str) -> str:
    """Return the host in a client's id, `HOST:SERVICE:N`."""
    return client.partition(":")[0]


def service_of(client: str) -> str:
    """Return the service in a client's id, which may have colons itself."""
    return client.partition(":")[2].rpartition(":")[0]


class ClientRates:
    """The rates that clients were told, and what each of them must send by now."""

    def __init__(self) -> None:
        self._told: list[_Told] = []
        self._experiments: dict[str, str] = {}

    def spawned(self, clients: Iterable[str], exp_id: str) -> None:
        """Take in that these clients are there, which send nothing yet."""
        self._experiments |= dict.fromkeys(clients, exp_id)

    def tell(self, clients: Iterable[str], rate: float) -> None:
        """Take in that each of these clients is to send `rate` requests a second."""
        self.forget(chosen := set(clients))
        kinds: dict[Kind, set[str]] = {}
        for client in chosen:
            self._experiments.setdefault(client, "")
            kinds.setdefault(self._kind(client), set()).add(client)
        self._told = [told for told in self._told if told.clients or told.kind not in kinds]
        if rate > 0:
            self._told += [_Told(kind, rate, alike) for kind, alike in kinds.items()]

    def forget(self, clients: Collection[str]) -> None:
        """Take in that nothing is to be sent by these clients, or for them."""
        for told in self._told:
            told.clients.difference_update(clients)
        self._drop_what_nobody_sends()

    def closed(self, clients: Collection[str]) -> None:
        """Take in that these clients have ended because they were to."""
        self.forget(clients)
        for client in clients:
            self._experiments.pop(client, None)
        self._drop_what_nobody_sends()

    def restarted(self, host: str) -> None:
        """Take in that a host's clients are gone; their part stays with others."""
        for client in [client for client in self._experiments if host_of(client) == host]:
            del self._experiments[client]
        for told in self._told:
            lost = _there(told.clients, [host])
            told.clients -= lost
            told.gone += len(lost)
        self._drop_what_nobody_sends()

    def of(self, hosts: Collection[str], service: str, exp_id: str | None) -> set[str]:
        """Return the clients of a service on these hosts; `exp_id` None means all of them."""
        return {
            client
            for client, experiment in self._experiments.items()
            if host_of(client) in hosts
            and service_of(client) == service
            and exp_id in {None, experiment}
        }

    def due(self, there: Collection[str], taken: Collection[str] = ()) -> Mapping[str, float]:
        """Return what each client must send.

        Args:
            there: the hosts.
            taken: clients that can take over nothing.
        """
        due: dict[str, float] = {}
        for told in self._told:
            able = self._able(told, there, taken)
            for client in able:
                due[client] = due.get(client, 0.0) + told.together / len(able)
        return due

    def heirs(self, client: str, there: Collection[str], taken: Collection[str] = ()) -> list[str]:
        """Return who sends the part of a client whose host is lost; nobody, perhaps."""
        told = [told for told in self._told if client in told.clients]
        return sorted(self._able(told[0], there, taken)) if told else []

    def told_on(self, host: str) -> list[str]:
        """Return the clients of a host that were told a rate by their ids."""
        return sorted(c for told in self._told for c in told.clients if host_of(c) == host)

    def told(self, client: str) -> float:
        """Return the rate that a client was told by its id."""
        return next((told.rate for told in self._told if client in told.clients), 0.0)

    def _able(self, told: _Told, there: Collection[str], taken: Collection[str]) -> set[str]:
        """Return who sends what some clients were told: those that are there, or others."""
        if able := _there(told.clients, there):
            return able
        others = {c for other in self._told if other.kind == told.kind for c in other.clients}
        if able := _there(others, there):
            return able
        alike = {client for client in self._experiments if self._kind(client) == told.kind}
        return _there(alike.difference(taken), there)

    def _drop_what_nobody_sends(self) -> None:
        kinds = {self._kind(client) for client in self._experiments}
        self._told = [t for t in self._told if t.clients or (t.gone and t.kind in kinds)]

    def _kind(self, client: str) -> Kind:
        return service_of(client), self._experiments.get(client, "")


def _there(clients: set[str], hosts: Collection[str]) -> set[str]:
    return {client for client in clients if host_of(client) in hosts}
