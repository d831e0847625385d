"""What a local port leads to: a service, or a chain of them.

    SERVICE                      one service, by what its definition says that it speaks
    tcp/svcA                     the same, said explicitly
    tcp/svcA/udp/svcB/svcC       a chain; a protocol holds for the services that follow it

Pure: text in, hops out.
"""

from dataclasses import dataclass

from overlay.names import ServiceName, service_name
from overlay.spec import ServiceSpec
from overlay.tunnel import CARRIES, Carries
from proxy.errors import NotAChain, WrongProtocol

MAX_HOPS = 16
"""As many services as a chain of calls may have."""


@dataclass(frozen=True, slots=True)
class Hop:
    """A service and what it is sent; None leaves that to its definition."""

    service: ServiceName
    carries: Carries | None = None

    def carried(self, spec: ServiceSpec) -> Carries:
        """Return what is sent to the service.

        Raises:
            WrongProtocol: it does not take that.
        """
        offered: Carries = "udp" if spec.protocol == "udp" else "tcp"
        if self.carries not in {None, offered}:
            raise WrongProtocol(
                f"{self.service} takes {offered}, not {self.carries}: its definition says "
                f"`protocol: {spec.protocol}`"
            )
        return offered


def hops_of(text: str) -> tuple[Hop, ...]:
    """Return the hops that `text` names, one at least.

    Raises:
        NotAChain: it names none; says how a chain is written.
        InvalidName: a name in it cannot be a service's.
    """
    words = text.strip("/").split("/")
    if words[-1] in CARRIES:
        raise NotAChain(f"no service follows {words[-1]!r} in {text!r}")
    if len(words) == 1:
        return (Hop(service_name(words[0])),)
    carries = CARRIES.get(words[0])
    if carries is None:
        raise NotAChain(f"{text!r} does not begin with tcp or udp")
    hops = list[Hop]()
    for word, before in zip(words[1:], words, strict=False):
        if word not in CARRIES:
            hops.append(Hop(service_name(word), carries))
        elif before in CARRIES:
            raise NotAChain(f"no service follows {before!r} in {text!r}")
        else:
            carries = CARRIES[word]
    if len(hops) > MAX_HOPS:
        raise NotAChain(f"{text[:80]!r}… has {len(hops)} services, more than {MAX_HOPS}")
    return tuple(hops)


def written(hops: tuple[Hop, ...]) -> str:
    """Return hops as `hops_of` reads them."""
    words = list[str]()
    last: Carries | None = None
    for hop in hops:
        if hop.carries is not None and hop.carries != last:
            words.append(hop.carries)
        last = hop.carries
        words.append(hop.service)
    return "/".join(words)
