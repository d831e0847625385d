"""Why the proxy answers a request itself; each knows its status and what to tell the client."""

from collections.abc import Sequence
from math import ceil

from overlay.errors import MyxoError
from overlay.names import ServiceName

MAX_RETRY_AFTER_S = 3600.0


class RequestRefused(MyxoError):
    """Root of the proxy's own answers.

    Attributes:
        status: the HTTP status.
        retry_after_s: when to ask again, in whole seconds; None if that would not help.
        log: what a failed instance printed last; None if that is not known.
    """

    status = 400
    retry_after_s: int | None = None
    log: str | None = None

    def in_full(self) -> str:
        """Return the text with the log's end, which is for the people of this machine only."""
        if self.log is None:
            return str(self)
        return (
            f"{self}\nthe end of its log:\n{self.log}"
            if self.log
            else f"{self}\nit printed nothing"
        )


class NotAService(RequestRefused):
    """The request names no service."""

    status = 404


class Misdirected(RequestRefused):
    """The Host is neither this machine nor a service: a page elsewhere may be trying its luck."""

    status = 421


class CrossSite(RequestRefused):
    """A browser says that another site's page sent the request."""

    status = 403


class ServiceUnknown(RequestRefused):
    """No such service is registered."""

    status = 404

    def __init__(self, name: str, near: Sequence[ServiceName]) -> None:
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        super().__init__(
            f"no service is called {name!r}{hint}\n"
            "registry-cli list shows the services, registry-cli add registers one"
        )


class DefinitionUnavailable(RequestRefused):
    """Whether the service exists cannot be known now: no registry answers."""

    status = 503
    retry_after_s = 2


class NothingFeasible(RequestRefused):
    """No instance can be used and no allocator would start one.

    Attributes:
        reasons: one line for each candidate: who, and why not.
    """

    status = 503
    retry_after_s = 2

    def __init__(
        self, service: ServiceName, reasons: Sequence[str], log: str | None = None
    ) -> None:
        self.reasons = tuple(reasons)
        self.log = log
        listed = "\n".join(f"  {reason}" for reason in reasons) or "  there is no allocator"
        super().__init__(f"{service} runs nowhere and cannot be started:\n{listed}")


class TooManyInFlight(RequestRefused):
    """The service's circuit is open: as many requests are under way as its definition allows."""

    status = 503
    retry_after_s = 1

    def __init__(self, service: ServiceName, most: int) -> None:
        super().__init__(
            f"{service} has {most} requests under way at this proxy, as many as its definition "
            "allows (max_in_flight); ask again when some of them have ended"
        )


class TooManyPending(RequestRefused):
    """As many requests wait for an instance of the service as may."""

    status = 503
    retry_after_s = 1

    def __init__(self, service: ServiceName, most: int) -> None:
        super().__init__(
            f"{most} requests wait at this proxy for an instance of {service}, and more may not "
            "(max_pending); ask again when one has started or has room"
        )


class OverRate(RequestRefused):
    """More requests came than a rate limit of the service lets through."""

    status = 429

    def __init__(self, service: ServiceName, limit: str, wait_s: float) -> None:
        self.retry_after_s = max(1, ceil(min(wait_s, MAX_RETRY_AFTER_S)))
        super().__init__(
            f"{service} gets more requests than its {limit} lets through; ask again in "
            f"{self.retry_after_s} s"
        )


class RevisionOutdated(RequestRefused):
    """An allocator knows a newer revision of the service, or that it was deleted."""

    status = 503
    retry_after_s = 1


class NeverReady(RequestRefused):
    """An instance was started but did not accept connections in time."""

    status = 504

    def __init__(self, service: ServiceName, text: str, log: str | None) -> None:
        self.log = log
        super().__init__(f"{service} was started but never got ready: {text}")


class DestinationGone(RequestRefused):
    """The request names the instance that it is for, and that one cannot take it."""

    status = 503
    retry_after_s = 1

    def __init__(self, service: ServiceName, named: bytes) -> None:
        name = "".join(c if c.isprintable() else "?" for c in named.decode("ascii", "replace"))
        super().__init__(
            f"{service} has no instance {name!r} that could take this request now\n"
            "leave X-Myxo-Destination out to have any instance; `myxo why` lists them"
        )


class NotRouted(RequestRefused):
    """The service is served by the routing table alone, and is not in it."""

    status = 503

    def __init__(self, service: ServiceName) -> None:
        super().__init__(
            f"{service} has the policy `static`, and this proxy's routing table has no targets for "
            f"it\nmyxo rtable set {service} HOST:PORT 1 gives it one"
        )


class GoesInCircles(RequestRefused):
    """The services call each other in a circle, or the chain of calls is longer than a chain is."""

    status = 508

    def __init__(self, chain: str) -> None:
        super().__init__(
            f"the services call each other in a circle: {chain}\n"
            "one of them must answer without calling the next"
        )


class TooManyHops(RequestRefused):
    """The request came through proxies of this network more often than any chain is long."""

    status = 508

    def __init__(self, most: int) -> None:
        super().__init__(
            f"this request came through {most} proxies of this network: it goes in a circle\n"
            "one of the services forwards what it gets to where it came from; its Via tells"
        )


class UpstreamLost(RequestRefused):
    """The instance failed and the request must not, or cannot, be sent again."""

    status = 502


class RetriesSpent(RequestRefused):
    """The instance failed, and too much of the service's traffic are repeated requests already."""

    status = 503
    retry_after_s = 1

    def __init__(self, service: ServiceName, percent: float, failure: Exception | None) -> None:
        super().__init__(
            f"{service} failed: {failure}; it is not asked again, since more than {percent:g} % of "
            "its requests lately were repeated ones (retry_percent)"
        )


class DeadlineOver(RequestRefused):
    """The request was not answered in the time that it may take."""

    status = 504

    def __init__(self, service: ServiceName, allowed_s: float) -> None:
        super().__init__(
            f"{service} did not answer within {allowed_s:g} s, which is what the service's "
            "timeout_s or the request allows"
        )


class UpstreamTooSlow(RequestRefused):
    """The instance took the request and did not answer in time."""

    status = 504


class NotExposed(RequestRefused):
    """The outside may not name this, whether it exists or not."""

    status = 404

    def __init__(self) -> None:
        super().__init__("nothing that is exposed here")


class NotAChain(RequestRefused):
    """The text names no services that a local port could lead to."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text}; say SERVICE, or tcp/SERVICE/udp/SERVICE/... where a protocol holds for the "
            "services that follow it"
        )


class WrongProtocol(RequestRefused):
    """The service does not speak what was asked for."""
