"""What is under way for each service at this proxy, and what more it may have.

Three bounds keep a service in trouble from pulling down everything around it. *Circuit breaking*:
requests over `max_in_flight` are refused at once, and so are those that would wait for an instance
while `max_pending` do already; who is refused soon can go elsewhere, who waits cannot. *Retry
budget*: repeated sends are at most `retry_percent` of the requests of the last ten seconds, plus a
hundred, so that a service that fails under load is not sent several times that load (Finagle's
budget; one by what is in flight, as Envoy has it, refuses most of what a killed instance loses in
one moment). *Rates*: see `rates.py`.

Pure: the clock's value comes in, refusals are raised.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from overlay.names import ServiceName
from overlay.spec import ServiceSpec
from proxy.errors import TooManyInFlight, TooManyPending
from proxy.guard.recent import Recent

PERIOD_S = 5.0
"""Retries are measured over this period and the one before it."""

LEAST_RETRIES = 100
"""In two periods, whatever the share: a service with few requests may repeat each of them."""

MAX_PENDING = 10_000
"""Requests for one service that wait for an instance, where its definition sets no bound."""


@dataclass(slots=True)
class Traffic:
    """One service's requests.

    Attributes:
        in_flight: requests that are not answered yet, waiting ones included.
        pending: those that wait for an instance.
        answer_times: seconds to the answer's head, of those that may be sent to two instances.
    """

    service: ServiceName
    in_flight: int = 0
    pending: int = 0
    answer_times: Recent = field(default_factory=Recent)
    _requests: int = 0
    _retries: int = 0
    _requests_before: int = 0
    _retries_before: int = 0

    def begin(self, spec: ServiceSpec) -> None:
        """Count a request; `end` it whatever comes of it.

        Raises:
            TooManyInFlight: it must not be; it does not count.
        """
        if spec.max_in_flight and self.in_flight >= spec.max_in_flight:
            raise TooManyInFlight(self.service, spec.max_in_flight)
        self.in_flight += 1
        self._requests += 1

    def end(self) -> None:
        """Count a request's end."""
        self.in_flight -= 1

    @contextmanager
    def under_way(self, spec: ServiceSpec) -> Iterator[None]:
        """Count a request, or a tunnel, for as long as the block lasts; `begin` is the quick way.

        Raises:
            TooManyInFlight: it must not be.
        """
        self.begin(spec)
        try:
            yield
        finally:
            self.end()

    @contextmanager
    def waiting(self, spec: ServiceSpec) -> Iterator[None]:
        """Count a request that waits for an instance for as long as the block lasts.

        Raises:
            TooManyPending: it must not wait.
        """
        most = spec.max_pending or MAX_PENDING
        if self.pending >= most:
            raise TooManyPending(self.service, most)
        self.pending += 1
        try:
            yield
        finally:
            self.pending -= 1

    def retry(self, spec: ServiceSpec) -> bool:
        """Return whether a request may be sent once more, and count it if so."""
        requests = self._requests + self._requests_before
        retries = self._retries + self._retries_before
        if retries >= LEAST_RETRIES + requests * spec.retry_percent / 100:
            return False
        self._retries += 1
        return True

    def begin_period(self) -> None:
        """Begin another period."""
        self._requests_before, self._retries_before = self._requests, self._retries
        self._requests = self._retries = 0

    @property
    def quiet(self) -> bool:
        """Whether there is nothing to remember."""
        return not (self.in_flight or self._requests or self._requests_before)


@dataclass(slots=True)
class Traffics:
    """Every service's; as many as there are services with requests."""

    _by_service: dict[ServiceName, Traffic] = field(default_factory=dict)

    def of(self, service: ServiceName) -> Traffic:
        """Return a service's traffic."""
        found = self._by_service.get(service)
        if found is None:
            found = self._by_service[service] = Traffic(service)
        return found

    def begin_period(self) -> None:
        """Begin another period for all, and forget those without requests in two."""
        for service, traffic in list(self._by_service.items()):
            traffic.begin_period()
            if traffic.quiet:
                del self._by_service[service]
