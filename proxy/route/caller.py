"""Who asks, as far as a connection tells: an address, and which instance of this machine it is."""

from dataclasses import dataclass
from ipaddress import ip_address

from overlay.names import InstanceId, ServiceName
from proxy.route.exposure import Exposure


@dataclass(frozen=True, slots=True)
class Caller:
    """The instance whose own network a client's connection comes from.

    It is for decisions of this proxy alone; nothing of it goes into what is forwarded or answered.
    """

    service: ServiceName
    instance: InstanceId


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose request it is.

    Attributes:
        address: the IP address at the other end of the connection.
        scheme: `http` or `https`.
        trusted: what it says of those before it is believed.
        caller: the instance that it is, where that is known.
        who: whose the connection is, for people: an address or a service.
        exposure: what it may name, where it comes from outside; None is everything.
        source: whose the connection is, for the bounds on connections.
        sandboxed: it came in at a sandbox's own 127.0.0.1.
    """

    address: str
    scheme: str = "http"
    trusted: bool = False
    caller: Caller | None = None
    who: str = ""
    exposure: Exposure | None = None
    source: str = ""
    sandboxed: bool = False

    @property
    def local(self) -> bool:
        """Whether this machine's own people ask, and no instance that runs here."""
        if self.caller is not None or self.exposure is not None:
            return False
        try:
            return ip_address(self.address.partition("%")[0]).is_loopback
        except ValueError:
            return False
