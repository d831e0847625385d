"""Which service a request is for.

Three forms are understood: the path (`/SERVICE/rest`, on this machine's own names), the host
(`SERVICE.myxo.localhost`), and the absolute form of an HTTP proxy (`http://SERVICE/rest`). The
proxy is not an open door: a path is followed only where the Host is this machine (an IP literal,
`localhost`, its own name), so that a page on another site cannot rebind a name of its own to
127.0.0.1 and read services; and nothing that is not a service is ever forwarded to.

Pure: head in, route out.
"""

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes, urlsplit

from overlay.errors import InvalidName
from overlay.http.head import RequestHead, get
from overlay.names import ServiceName, service_name
from proxy.errors import CrossSite, Misdirected, NotAService

HOST_SUFFIX = ".myxo.localhost"
"""`*.localhost` is loopback by RFC 6761, so browsers and curl need no DNS for it."""

_SAME_SITE = frozenset({b"same-origin", b"same-site", b"none"})


@dataclass(frozen=True, slots=True)
class Route:
    """A service and the request target that it shall see."""

    service: ServiceName
    target: bytes


def route_of(head: RequestHead, machine_names: frozenset[str]) -> Route:
    """Return what `head` asks for.

    Args:
        head: the request.
        machine_names: lower-case names, besides IP literals and `localhost`, of this machine.

    Raises:
        NotAService, Misdirected, CrossSite: with the text for the client.
    """
    if (
        site := get(head.headers, b"sec-fetch-site")
    ) is not None and site.lower() not in _SAME_SITE:
        raise CrossSite("another site's page sent this request; services do not answer those")
    if head.target.startswith(b"/"):
        return _by_host_or_path(head, machine_names)
    return _by_absolute_form(head.target)


def _by_host_or_path(head: RequestHead, machine_names: frozenset[str]) -> Route:
    host = _host_name(get(head.headers, b"host") or b"")
    if host.endswith(HOST_SUFFIX):
        return Route(_named(host.removesuffix(HOST_SUFFIX)), head.target)
    if not (host in {"", "localhost"} or host in machine_names or _is_ip(host)):
        raise Misdirected(
            f"{host!r} is neither this machine nor a service; say 127.0.0.1, localhost or "
            f"SERVICE{HOST_SUFFIX} before the port"
        )
    path, mark, query = head.target.partition(b"?")
    segment, _, rest = path[1:].partition(b"/")
    return Route(_named(_percent_decoded(segment)), b"/" + rest + mark + query)


def _by_absolute_form(target: bytes) -> Route:
    try:
        parts = urlsplit(target.decode("ascii", "replace"))
    except ValueError as exc:  # a bracket without its other half
        raise NotAService(f"the request target is no URL: {exc}") from exc
    if parts.scheme != "http" or not parts.hostname:
        raise NotAService("the request target must be a path or http://SERVICE/path")
    rest = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    name = parts.hostname.removesuffix(HOST_SUFFIX)
    return Route(_named(name), rest.encode())


def _named(text: str) -> ServiceName:
    if not text:
        raise NotAService("name a service: /SERVICE/path; registry-cli list shows them")
    try:
        return service_name(text)
    except InvalidName as exc:
        raise NotAService(str(exc)) from exc


def _percent_decoded(segment: bytes) -> str:
    return (
        unquote_to_bytes(segment).decode("utf-8", "replace")
        if b"%" in segment
        else (segment.decode("ascii", "replace"))
    )


def _host_name(host: bytes) -> str:
    text = host.decode("ascii", "replace").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


@lru_cache(maxsize=256)
def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
