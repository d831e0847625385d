"""What the outside may name at the edge: a list of services, each by a path or by a Host.

    SERVICE           at /SERVICE/..., under whatever Host
    SERVICE=HOST      all of HOST, such as shop=shop.example.com

Nothing else is there, and who asks for it is not told whether it exists inside: every refusal at
the edge is its status and nothing more.

Pure: head in, route out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from overlay.http.head import RequestHead
from overlay.names import ServiceName, service_name
from proxy.errors import NotExposed
from proxy.route.routing import HOST_SUFFIX, Route, addressed, first_segment, host_name


@dataclass(frozen=True, slots=True)
class Exposure:
    """The services that the outside may name.

    Attributes:
        paths: by the first segment of the path.
        hosts: by the Host, in lower case and without its port.
    """

    paths: frozenset[ServiceName] = frozenset()
    hosts: Mapping[str, ServiceName] = field(default_factory=dict)

    def route(self, head: RequestHead) -> Route:
        """Return what an outside client asks for.

        Raises:
            NotExposed: nothing that it may name.
        """
        if head.method == b"CONNECT":
            raise NotExposed
        authority, target = addressed(head)
        service = self.hosts.get(host_name(authority))
        if service is not None:
            return Route(service, target, authority)
        name, segment, rest = first_segment(target)
        if name not in self.paths:
            raise NotExposed
        return Route(ServiceName(name), rest, authority, b"/" + segment)


def exposure_of(written: Iterable[str]) -> Exposure:
    """Return what `SERVICE` and `SERVICE=HOST` say.

    Raises:
        InvalidName: a name in it cannot be a service's.
        ValueError: a host is none, or is there for two services.
    """
    paths, hosts = set[ServiceName](), dict[str, ServiceName]()
    for text in written:
        name, equals, host = text.partition("=")
        service = service_name(name)
        host = host.lower().rstrip(".") if equals else f"{service}{HOST_SUFFIX}"
        if not host or not host.isascii() or set(host) & set("/:@ ?#"):
            raise ValueError(f"{text!r} is neither SERVICE nor SERVICE=HOST")
        if hosts.setdefault(host, service) != service:
            raise ValueError(f"the host {host} is exposed for {hosts[host]} and for {service}")
        if not equals:
            paths.add(service)
    return Exposure(frozenset(paths), hosts)
