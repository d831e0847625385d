"""Whether a request may be sent once more, and to whom: by what it is, and by what others cost.

A request may be sent twice if it was certainly not acted on, if its method says so (RFC 9110
section 9.2.2), or if its service does; and if what was read of its body is still there. The
service's traffic has a budget besides, of which a hedge is a part.
"""

from overlay.http.errors import UpstreamFailed
from overlay.http.head import RequestHead
from overlay.http.seam import Client
from overlay.view import InstanceView
from proxy.choosing.chooser import Chooser
from proxy.errors import RetriesSpent, UpstreamLost, UpstreamTooSlow
from proxy.guard.traffic import Traffic
from proxy.telemetry.decisions import Decision

_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})


class Repeats:
    """The repetitions of one request.

    Args:
        client: whose request it is.
        head: the request.
        decision: of the request.
        traffic: of its service.
        chooser: knows who else could be asked.
    """

    __slots__ = ("_chooser", "_client", "_decision", "_head", "_next", "_traffic")

    def __init__(
        self,
        client: Client,
        head: RequestHead,
        decision: Decision,
        traffic: Traffic,
        chooser: Chooser,
    ) -> None:
        self._client = client
        self._head = head
        self._decision = decision
        self._traffic = traffic
        self._chooser = chooser
        self._next: InstanceView | None = None

    @property
    def harmless(self) -> bool:
        """Whether it may be acted on twice."""
        return self._head.method in _IDEMPOTENT or self._decision.spec.idempotent

    @property
    def hedged(self) -> bool:
        """Whether it may be sent to two instances at once: two readers would share a body."""
        if not self._decision.spec.hedged or not self._client.body.framing.empty:
            return False
        return self.harmless and not self._head.upgrade

    def check(self, instance: InstanceView, failure: Exception) -> None:
        """Return if it may be sent again after `failure` at `instance`.

        Raises:
            UpstreamLost, UpstreamTooSlow: it may have been acted on, or is not remembered.
        """
        where = f"{self._decision.service} (instance {instance.record.id})"
        if isinstance(failure, UpstreamFailed):
            if failure.timed_out:
                raise UpstreamTooSlow(f"{where} did not answer in time") from failure
            if failure.maybe_processed and not self.harmless:
                raise UpstreamLost(
                    f"{where} failed after it was sent the request: {failure.reason}; "
                    f"a {self._head.method.decode()} is not sent twice unless the service says "
                    "`idempotent`"
                ) from failure
        if not self._client.body.replayable:
            raise UpstreamLost(
                f"{where} failed in the middle of a body too large to be sent again: {failure}"
            ) from failure

    def count(self, failure: Exception) -> None:
        """Take a repetition after `failure` from the budget.

        Raises:
            RetriesSpent: there is none left.
        """
        if isinstance(failure, UpstreamFailed) and failure.reused:
            return  # the server closed a kept connection, which says nothing about the service
        spec = self._decision.spec
        if not self._traffic.retry(spec):
            raise RetriesSpent(self._decision.service, spec.retry_percent, failure)

    def other(self, instance: InstanceView) -> InstanceView | None:
        """Return another instance with room, if there is one and the budget has it.

        `Chooser.done` is to be called when the request has ended there.
        """
        other = self._chooser.another(self._decision, instance)
        if other is not None and not self._traffic.retry(self._decision.spec):
            self._chooser.done(other, None)
            return None
        return other

    def reserve(self, instance: InstanceView) -> bool:
        """Return whether another instance can be asked in the place of one that has answered."""
        if self._next is None and self.harmless and self._client.body.replayable:
            self._next = self.other(instance)
        return self._next is not None

    def reserved(self) -> InstanceView | None:
        """Return what was reserved, if anything was; it is the caller's from now on."""
        found, self._next = self._next, None
        return found
