"""Where Envoy listens in the proxy's place, and what the proxy is told of a request from there.

A request that Envoy passes on to the proxy says by which front it came and from which address. One
that Envoy had begun to serve itself, and could not, also names the service, and carries what was
written into it on its way to an instance; all of that is taken out again, so that it is served as
if it had come here at once.

Pure: heads in, heads out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overlay.http.errors import BadRequest
from overlay.http.head import RequestHead, get
from proxy.request.fields import is_trusted
from proxy.route.caller import Origin
from proxy.route.exposure import Exposure
from proxy.route.routing import HOST_SUFFIX, host_name, is_of_machine

FRONT, CLIENT, SERVICE = "Myxo-Front", "Myxo-Client", "Myxo-Service"
"""Said by Envoy to the proxy, over a socket of this user's; dropped from everybody else."""

_FRONT, _CLIENT, _SERVICE = (name.lower().encode() for name in (FRONT, CLIENT, SERVICE))
_ADDED = frozenset(
    {
        b"forwarded",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
    }
)
"""By Envoy, to requests that it serves; none of them had one before (`routes.py`)."""


@dataclass(frozen=True, slots=True)
class Front:
    """A port on which Envoy takes requests.

    Attributes:
        name: tells it from the others.
        host: IP address.
        scheme: `https` where it speaks TLS.
        exposure: what the outside may name there; None is this machine's own port.
        machine_names: names of this machine, in lower case.
        trusted: networks of clients that may tell who was before them.
    """

    name: str
    host: str
    port: int
    scheme: str = "http"
    exposure: Exposure | None = None
    machine_names: frozenset[str] = frozenset()
    trusted: Sequence[str] = ()

    @property
    def outside(self) -> bool:
        """Whether clients from outside come here."""
        return self.exposure is not None


def meant(head: RequestHead, fronts: Mapping[str, Front]) -> tuple[RequestHead, Origin]:
    """Return a request as its client sent it to Envoy, and whose it is.

    Raises:
        BadRequest: it did not come from Envoy.
    """
    front = fronts.get((get(head.headers, _FRONT) or b"").decode("latin-1"))
    if front is None:
        raise BadRequest(400, "this socket is for this proxy's Envoy")
    if get(head.headers, _SERVICE) is None:
        address = get(head.headers, _CLIENT) or b""
    else:
        address = get(head.headers, b"x-forwarded-for") or b""
        head = _as_it_was(head)
    if not front.outside:
        head = _as_absolute(head, front.machine_names)
    return head, _origin(address.decode("latin-1"), front)


def _origin(address: str, front: Front) -> Origin:
    if front.exposure is not None:
        return Origin(address, scheme=front.scheme, who=address, exposure=front.exposure)
    return Origin(address, trusted=is_trusted(address, front.trusted), who=address)


def _as_it_was(head: RequestHead) -> RequestHead:
    """Return a request without what Envoy wrote into it on its way to an instance."""
    prefix = get(head.headers, b"x-forwarded-prefix") or b""
    fields = [field for field in head.headers if field[0].lower() not in _ADDED]
    return head._replace(target=prefix + head.target, headers=fields, remembered=False)


def _as_absolute(head: RequestHead, machine_names: frozenset[str]) -> RequestHead:
    """Return a request whose Host is neither this machine nor an address of a site as it was sent.

    Envoy makes of `GET http://SERVICE/x` what `Host: SERVICE` would be. Only names without a dot
    are taken for a service, which no site on the Internet has, so that no page can rebind one.
    """
    if not head.target.startswith(b"/"):
        return head
    authority = get(head.headers, b"host") or b""
    host = host_name(authority)
    if "." in host or host.endswith(HOST_SUFFIX) or is_of_machine(authority, machine_names):
        return head
    return head._replace(target=b"http://" + authority + head.target, remembered=False)
