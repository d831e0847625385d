"""The routing tables of load hosts' proxies, for programs and notebooks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.lab.errors import BadInput
from myxo.rtable import Answer, as_text


@dataclass(frozen=True, slots=True)
class RoutingRecord:
    """Where requests for a service go, and in which proportion."""

    service: str
    hosts: tuple[str, ...]
    weights: tuple[float, ...]


class RoutingTable:
    """Has every load host's proxy send requests for services where it is told.

    What is shown is the table of the first host; commands here change all of them alike.

    Args:
        ask: has the proxies do a command.
    """

    def __init__(self, ask: Callable[[Mapping[str, Any]], Sequence[Answer]]) -> None:
        self._ask = ask

    def set(
        self, service: str, hosts: Sequence[str], weights: Sequence[float] | None = None
    ) -> RoutingRecord:
        """Send requests for a service to these hosts, in equal parts if there are no weights.

        Raises:
            LabError: a proxy refuses, or does not answer.
        """
        given = None if weights is None else list(weights)
        answers = self._do("set", service=service, hosts=list(hosts), weights=given)
        return _record(answers[0]["record"])

    def update_weights(self, service: str, weights: Sequence[float]) -> RoutingRecord:
        """Change the proportion in which a service's hosts get requests."""
        return self.set(service, self._known(service).hosts, weights)

    def append(self, service: str, host: str, weight: float = 1) -> RoutingRecord:
        """Add a host to a service's, which may have none yet."""
        old = self.record(service)
        if old is None:
            return self.set(service, [host], [weight])
        return self.set(service, [*old.hosts, host], [*old.weights, weight])

    def remove(self, service: str) -> None:
        """Let the network decide again where requests for a service go."""
        self._do("unset", service=service)

    def clear(self) -> None:
        """Remove all services."""
        self._do("clear")

    def record(self, service: str) -> RoutingRecord | None:
        """Return what holds for a service; None if nothing does."""
        return next((r for r in self.records() if r.service == service), None)

    def records(self) -> list[RoutingRecord]:
        """Return what holds for each service."""
        return [_record(one) for one in self._do("list")[0]["records"]]

    def __repr__(self) -> str:
        return "\n".join(as_text("list", self._do("list")[:1]))

    def _known(self, service: str) -> RoutingRecord:
        record = self.record(service)
        if record is None:
            raise BadInput(f"the routing table has no service {service!r}")
        return record

    def _do(self, name: str, **given: Any) -> Sequence[Answer]:
        answers = self._ask({"do": name, **given})
        list(as_text(name, answers))  # raises where a proxy refused
        return answers


def _record(said: Mapping[str, Any]) -> RoutingRecord:
    return RoutingRecord(said["service"], tuple(said["hosts"]), tuple(said["weights"]))
