"""Has clients that were told rates by their ids send what is due from each by now."""

from collections.abc import Collection, Mapping, Sequence

import trio

from bench.lab.errors import LoadFailed
from bench.lab.hosts.client_rates import ClientRates, host_of, service_of
from bench.lab.hosts.messages import Done, SetRate
from bench.lab.hosts.orders import Orders

_STALE = float("nan")
"""Sent by nobody, so that whatever is due is another rate, and is told."""


class ClientOrders:
    """Keeps clients in step with their rates.

    Attributes:
        rates: what each client must send.

    Args:
        orders: the way to the hosts.
    """

    def __init__(self, orders: Orders) -> None:
        self.rates = ClientRates()
        self._orders = orders
        self._sent: dict[str, float] = {}

    def tell(self, clients: Collection[str], rate: float) -> None:
        """Take in that each of these clients is to send `rate`, which `settle` tells them."""
        self.rates.tell(clients, rate)
        self._sent |= dict.fromkeys(clients, _STALE)

    def forget(self, clients: Collection[str]) -> None:
        """Take in that these clients have been told something else, or do not obey."""
        self.rates.forget(clients)
        self._unsent(clients)

    def closed(self, clients: Collection[str]) -> None:
        """Take in that these clients have ended."""
        self.rates.closed(clients)
        self._unsent(clients)

    def restarted(self, host: str) -> None:
        """Take in that a host's clients are gone."""
        self.rates.restarted(host)
        self._unsent([client for client in self._sent if host_of(client) == host])

    def overruled(self, clients: Collection[str]) -> None:
        """Take in that all of a service on a host were told a rate, which is not for these."""
        self._sent |= {client: _STALE for client in clients if self.rates.told(client)}

    async def settle(self, there: Collection[str], taken: Collection[str]) -> Mapping[str, str]:
        """Tell clients what is due from them and is not what they send.

        Args:
            there: the hosts.
            taken: clients that can take over nothing.

        Returns:
            Those that do not do it, each with the reason.
        """
        troubles: dict[str, str] = {}

        async def give(host: str, rate: float, clients: Sequence[str]) -> None:
            order = SetRate(clients=tuple(clients), rate=rate * len(clients))
            try:
                await self._orders.give(host, order, Done)
            except LoadFailed as exc:
                troubles.update(dict.fromkeys(clients, f"{host}: {exc}"))
            else:
                self._sent |= dict.fromkeys(clients, rate)

        async with trio.open_nursery() as nursery:
            for (host, rate), clients in self._changed(there, taken).items():
                nursery.start_soon(give, host, rate, clients)
        return troubles

    def _changed(
        self, there: Collection[str], taken: Collection[str]
    ) -> Mapping[tuple[str, float], Sequence[str]]:
        """Return the clients to be told something, by their host and their new rate."""
        due = self.rates.due(there, taken)
        idle = {c: 0.0 for c, sent in self._sent.items() if sent and c not in due}
        changed: dict[tuple[str, float], list[str]] = {}
        for client, rate in {**idle, **due}.items():
            if host_of(client) in there and self._sent.get(client) != rate:
                changed.setdefault((host_of(client), rate), []).append(client)
        return changed

    def _unsent(self, clients: Collection[str]) -> None:
        for client in clients:
            self._sent.pop(client, None)

    def words(self, host: str, there: Collection[str], taken: Collection[str]) -> list[str]:
        """Return what becomes of the rates of a lost host's clients, a sentence for each kind."""
        moved: dict[tuple[str, float, tuple[str, ...]], list[str]] = {}
        for client in self.rates.told_on(host):
            heirs = tuple(self.rates.heirs(client, there, taken))
            key = service_of(client), self.rates.told(client), heirs
            moved.setdefault(key, []).append(client)
        return [
            f"{rate * len(clients):g} requests/s to {service}, told to {', '.join(clients)}, are "
            + sent_by(heirs)
            for (service, rate, heirs), clients in moved.items()
        ]


def sent_by(heirs: Sequence[str]) -> str:
    """Return in words who sends what a lost host did."""
    return f"now sent by {', '.join(heirs)}" if heirs else "sent by nobody"
