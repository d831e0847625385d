"""Which services a request came through, so that services which call each other in a circle end.

A service that calls another through its machine's proxy does so within some request of its own, and
that one may in turn come from a third service: a chain. Each proxy sends it along, hop by hop, as
`X-Myxo-Chain: web, api`, the latest caller last (what Via, RFC 9110 section 7.6.3, is for proxies,
and what its 508 is answered to). A chain that comes back to a service more often than recursion
needs, or that is longer than anybody builds, is refused with its names.

Only a proxy may say who called: what a client sends is dropped, unless the client is an instance,
which hands on what it was given. A service that does not hand it on is still tied to its chain by
what its instance has under way through this proxy. A request that waits for a call already is not
the one that makes another (Aguilera et al. 2003 infer calls so), so if one is left, it is that; if
several are, the one with the shortest chain is taken, which never refuses what another would have
been allowed. An instance whose requests come from other machines' proxies is known by its name
alone here, one hop back, if it hands nothing on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from overlay.errors import InvalidName
from overlay.names import InstanceId, ServiceName, service_name
from proxy.errors import GoesInCircles
from proxy.route.caller import Caller

HEADER = b"X-Myxo-Chain"

MAX_LENGTH = 32
"""Services in a chain: deeper than what people build, and the header stays under 2.1 KiB."""

MAX_VISITS = 4
"""Times that a service may be in one chain: calling back, and walking small trees, is no loop."""

_MAX_BYTES = MAX_LENGTH * 66

Chain = tuple[ServiceName, ...]


@dataclass(slots=True, eq=False)
class Visit:
    """A request that an instance of this machine has under way.

    Attributes:
        chain: the services that it came through.
        calls: requests that the instance makes for it now.
    """

    instance: InstanceId
    chain: Chain
    calls: int = 0


@dataclass(slots=True, eq=False)
class Call:
    """A request, and where it comes from.

    Attributes:
        chain: the services that it comes through, the direct caller last; empty from outside.
    """

    chain: Chain = ()
    _of: Visit | None = None


FROM_OUTSIDE = Call()


@dataclass(slots=True)
class Chains:
    """What a proxy knows of who calls whom. Pure."""

    _visits: dict[InstanceId, list[Visit]] = field(default_factory=dict)

    def call(self, caller: Caller | None, given: bytes | None, target: ServiceName) -> Call:
        """Note that a request for `target` came; end it with `called`.

        Args:
            caller: the instance that sent it; None is outside.
            given: the value of the header that came with it.
            target: whom it is for.

        Raises:
            GoesInCircles: it must not be sent on.
        """
        if caller is None:
            return FROM_OUTSIDE
        visit, before = self._cause(caller, given)
        chain = (*before, caller.service)
        _check(chain, target)
        if visit is not None:
            visit.calls += 1
        return Call(chain, visit)

    def called(self, call: Call) -> None:
        """Note that a request which `call` returned has been answered."""
        if call._of is not None:  # noqa: SLF001  (both are of this module)
            call._of.calls -= 1  # noqa: SLF001

    def enter(self, instance: InstanceId, call: Call) -> Visit:
        """Note that a request goes to an instance of this machine; end it with `leave`."""
        visit = Visit(instance, call.chain)
        visits = self._visits.get(instance)
        if visits is None:
            self._visits[instance] = [visit]
        else:
            visits.append(visit)
        return visit

    def leave(self, visit: Visit) -> None:
        """Note that an instance has answered."""
        visits = self._visits[visit.instance]
        visits.remove(visit)
        if not visits:
            del self._visits[visit.instance]

    def _cause(self, caller: Caller, given: bytes | None) -> tuple[Visit | None, Chain]:
        """Return the visit that a call is made for, if it is known, and its chain."""
        visits = self._visits.get(caller.instance, ())
        told = parse(given)
        of_that_chain = [v for v in visits if v.chain == told] if told else []
        if of_that_chain:
            return min(of_that_chain, key=lambda v: v.calls), told
        inferred = _idlest(visits)
        if inferred is None or len(told) > len(inferred.chain):
            return None, told
        return inferred, inferred.chain


def render(chain: Chain) -> bytes:
    """Return a chain as the header's value."""
    return ", ".join(chain).encode()


def parse(value: bytes | None) -> Chain:
    """Return the chain that a header's value says; what is none says nothing."""
    if not value:
        return ()
    if len(value) > _MAX_BYTES:
        value = value[:_MAX_BYTES].rpartition(b",")[0]  # too long to be let pass, whatever follows
    try:
        return tuple(service_name(word.strip().decode("ascii")) for word in value.split(b","))
    except (InvalidName, UnicodeDecodeError):
        return ()


def _idlest(visits: Sequence[Visit]) -> Visit | None:
    return min(visits, key=lambda v: (v.calls > 0, len(v.chain)), default=None)


def _check(chain: Chain, target: ServiceName) -> None:
    """Refuse a chain that is too long, or that has been at `target` too often.

    Raises:
        GoesInCircles: it is.
    """
    if chain.count(target) >= MAX_VISITS:
        why = f"{target} is in it {chain.count(target)} times already"
    elif len(chain) >= MAX_LENGTH:
        why = f"a chain has at most {MAX_LENGTH} services"
    else:
        return
    raise GoesInCircles(f"{' > '.join(chain)} > {target}: {why}")
