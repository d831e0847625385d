"""What each host is to send, also when others of those that were told the same are gone.

A rate is told to several hosts at once: each sends so much. If one of them is lost, the others send
its part too, in equal shares, so that the load as a whole stays what was asked for; when it comes
back they give it back. A host that was lost and has started anew has no clients any more, so it
gets nothing until clients are spawned on it and told a rate. If all of them are lost, their load is
nobody's: others were not asked to ask for that service.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

Target = tuple[str, str, str | None]
"""A host, a service, and the experiment whose clients of it are meant; None means all."""


@dataclass(slots=True)
class _Told:
    service: str
    exp_id: str | None
    rate: float
    together: float
    hosts: set[str]


class Rates:
    """The rates that hosts were told, and what each of them must send by now."""

    def __init__(self) -> None:
        self._told: list[_Told] = []

    def tell(self, hosts: Iterable[str], service: str, exp_id: str | None, rate: float) -> None:
        """Take in that each of these hosts is to send `rate` requests a second to a service."""
        self.forget(chosen := set(hosts), service, exp_id)
        if rate > 0:
            self._told.append(_Told(service, exp_id, rate, rate * len(chosen), chosen))

    def forget(self, hosts: Collection[str], service: str, exp_id: str | None) -> None:
        """Take in that these hosts are to send nothing to a service any more."""
        for told in self._told:
            if told.service == service and exp_id in {None, told.exp_id}:
                gone = told.hosts.intersection(hosts)
                told.together -= told.rate * len(gone)
                told.hosts -= gone
        self._told = [told for told in self._told if told.hosts]

    def restarted(self, host: str) -> None:
        """Take in that a host's clients are gone; its part stays with the others."""
        for told in self._told:
            told.hosts.discard(host)
        self._told = [told for told in self._told if told.hosts]

    def due(self, there: Collection[str]) -> Mapping[Target, float]:
        """Return what each host that is there must send."""
        due: dict[Target, float] = {}
        for told in self._told:
            able = told.hosts.intersection(there)
            for host in able:
                due[host, told.service, told.exp_id] = told.together / len(able)
        return due

    def orphaned(self, there: Collection[str]) -> list[tuple[str, float]]:
        """Return the services that nobody is left to ask, and what was to be sent to each."""
        return [(t.service, t.together) for t in self._told if not t.hosts.intersection(there)]
