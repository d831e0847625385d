"""Which service a request is for.

Four forms are understood: the path (`/SERVICE/rest`, on this machine's own names), the host
(`SERVICE.myxo.localhost`), the absolute form of an HTTP proxy (`http://SERVICE/rest`), and the
authority form (`CONNECT SERVICE:port`; a service has one port, so the number is not looked at).
What follows the name goes on byte for byte: no escape is decoded, no dot segment removed. Paths of
the user's own choice (`paths.py`), if there are any, come before services' names.

The proxy is not an open door: a path is followed only where the Host is this machine (an IP
literal, `localhost`, its own name), so that a page on another site cannot rebind a name of its own
to 127.0.0.1 and read services; and nothing that is not a service is ever forwarded to.

Pure: head in, route out.
"""

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from overlay.errors import InvalidName
from overlay.http.head import RequestHead, get
from overlay.http.remembering import by_head
from overlay.names import ServiceName, service_name
from proxy.errors import CrossSite, Misdirected, NotAService
from proxy.route.paths import Paths

HOST_SUFFIX = ".myxo.localhost"
"""`*.localhost` is loopback by RFC 6761, so browsers and curl need no DNS for it."""

_AUTHORITY_END = re.compile(rb"[/?]")
_SAME_SITE = frozenset({b"same-origin", b"same-site", b"none"})


@dataclass(frozen=True, slots=True)
class Route:
    """A service and the request that it shall see.

    Attributes:
        service: whose instance is to answer.
        target: to ask it for.
        host: what the client called it or this machine, the port included; b"" if nothing.
        prefix: of the path, which the service does not see.
    """

    service: ServiceName
    target: bytes
    host: bytes = b""
    prefix: bytes = b""


@by_head
def route_of(head: RequestHead, machine_names: frozenset[str]) -> Route:
    """Return what `head` asks for.

    Args:
        head: the request.
        machine_names: lower-case names, besides IP literals and `localhost`, of this machine.

    Raises:
        NotAService, Misdirected, CrossSite: with the text for the client.
    """
    _check_site(head)
    if head.method == b"CONNECT":
        return Route(_in_authority(head.target), head.target, head.target)
    if head.target.startswith((b"/", b"*")):
        return _by_host_or_path(head.target, get(head.headers, b"host") or b"", machine_names)
    return _by_absolute_form(head)


@by_head
def route_by_path(head: RequestHead, machine_names: frozenset[str], paths: Paths) -> Route:
    """Return what `head` asks for, where there are paths that lead to services of other names.

    Args:
        head: the request.
        machine_names: as of `route_of`.
        paths: come before services' names.

    Raises:
        NotAService, Misdirected, CrossSite: with the text for the client.
    """
    if head.method != b"CONNECT":
        authority, target = addressed(head)
        found = paths.find(target) if is_of_machine(authority, machine_names) else None
        if found is not None:
            _check_site(head)
            service, prefix, rest = found
            return Route(service, rest, authority, prefix)
    return route_of(head, machine_names)


def _check_site(head: RequestHead) -> None:
    site = get(head.headers, b"sec-fetch-site")
    if site is not None and site.lower() not in _SAME_SITE:
        raise CrossSite("another site's page sent this request; services do not answer those")


def _by_host_or_path(target: bytes, authority: bytes, machine_names: frozenset[str]) -> Route:
    host = host_name(authority)
    if host.endswith(HOST_SUFFIX):
        return Route(_named(host.removesuffix(HOST_SUFFIX)), target, authority)
    if not is_of_machine(authority, machine_names):
        raise Misdirected(
            f"{host!r} is neither this machine nor a service; say 127.0.0.1, localhost or "
            f"SERVICE{HOST_SUFFIX} before the port"
        )
    name, segment, rest = first_segment(target)
    return Route(_named(name), rest, authority, b"/" + segment)


def first_segment(target: bytes) -> tuple[str, bytes, bytes]:
    """Return the first segment of a path, decoded and as it is, and the target without it."""
    path, mark, query = target.partition(b"?")
    segment, _, rest = path[1:].partition(b"/")
    return _percent_decoded(segment), segment, b"/" + rest + mark + query


def is_of_machine(authority: bytes, machine_names: frozenset[str]) -> bool:
    """Return whether a Host is this machine: an IP literal, `localhost`, a name of it, or none."""
    host = host_name(authority)
    return host in {"", "localhost"} or host in machine_names or _is_ip(host)


def _by_absolute_form(head: RequestHead) -> Route:
    """The target's authority counts, whatever Host says (RFC 9112 section 3.2.2)."""
    if head.target.partition(b"://")[0].lower() != b"http":
        raise NotAService("the request target must be a path or http://SERVICE/path")
    authority, target = addressed(head)
    if target != b"*" and is_of_machine(authority, frozenset()):
        return _by_host_or_path(target, authority, frozenset())
    return Route(_in_authority(authority), target, authority)


def addressed(head: RequestHead) -> tuple[bytes, bytes]:
    """Return the authority and the path that a request is for, in whichever form it says so."""
    if head.target.startswith((b"/", b"*")):
        return get(head.headers, b"host") or b"", head.target
    rest = head.target.partition(b"://")[2]
    authority = _AUTHORITY_END.split(rest, maxsplit=1)[0]
    target = rest[len(authority) :]
    if not target and head.method == b"OPTIONS":
        return authority, b"*"  # RFC 9112 section 3.2.4
    return authority, target if target.startswith(b"/") else b"/" + target


def _in_authority(authority: bytes) -> ServiceName:
    if authority.startswith(b"["):
        raise NotAService("an IP address is no service; say http://SERVICE/path")
    return _named(host_name(authority).removesuffix(HOST_SUFFIX))


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


def host_name(host: bytes) -> str:
    """Return a Host without its port, in lower case; an IPv6 address without its brackets."""
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
