"""What ties a request to an instance: the key that its service's policy hashes, and a cookie.

A key comes from the request alone, so every proxy sends it to the same instance. A cookie names the
instance that answered first. Neither leads anywhere but to an instance of the service that may take
the request: what a client makes up gets it no further than chance would.

Pure: a request and its service's spec in.
"""

import re
from collections.abc import Iterable, Iterator

from overlay.balancing import HASHING, ORIGINAL_DESTINATION
from overlay.http.head import Field, RequestHead, get
from overlay.names import InstanceId
from overlay.spec import ServiceSpec
from proxy.route.caller import Origin
from proxy.route.routing import Route

DESTINATION = b"x-myxo-destination"
"""The instance that a request to a service with the policy `original_destination` is for."""

MAX_NAME = 256
"""Of an instance that a client names."""

_SAFE = re.compile(r"[0-9A-Za-z._-]{1,128}")
"""Instances that a cookie can name; every allocator of ours gives such names."""


def key_of(spec: ServiceSpec, head: RequestHead, route: Route, origin: Origin) -> bytes | None:
    """Return what the policy of a service goes by, or None if the request does not have it."""
    policy = spec.policy
    if policy is None:
        return None
    if policy.name == ORIGINAL_DESTINATION:
        named = get(head.headers, DESTINATION)
        return None if named is None else named.strip()[:MAX_NAME]
    if policy.name not in HASHING:
        return None
    return _hashed(policy.hash or "client", head, route, origin)


def key_of_tunnel(spec: ServiceSpec, client: str) -> bytes | None:
    """Return the same for a tunnel, which has nothing to hash but whose it is."""
    policy = spec.policy
    if policy is None or policy.name not in HASHING or (policy.hash or "client") != "client":
        return None
    return client.encode()


def cookie(headers: Iterable[Field], name: str) -> bytes | None:
    """Return the first value of the cookie called `name` (RFC 6265, section 4.2.1)."""
    wanted = name.encode()
    for key, value in _cookies(headers):
        if key == wanted:
            return value
    return None


def tie(spec: ServiceSpec, instance: InstanceId, route: Route, origin: Origin) -> Field | None:
    """Return the field that has a client come back to `instance`, if its service wants that."""
    if not spec.sticky or _SAFE.fullmatch(instance) is None:
        return None
    path = route.prefix.decode("ascii", "replace") or "/"
    secure = "; Secure" if origin.scheme == "https" else ""
    value = f"{spec.sticky}={instance}; Path={path}; HttpOnly; SameSite=Lax{secure}"
    return (b"Set-Cookie", value.encode())


def _hashed(what: str, head: RequestHead, route: Route, origin: Origin) -> bytes | None:
    kind, _, name = what.partition(":")
    match kind:
        case "header":
            return get(head.headers, name.lower().encode())
        case "cookie":
            return cookie(head.headers, name)
        case "path":
            return route.target.partition(b"?")[0]
    return origin.address.encode() if origin.caller is None else origin.caller.instance.encode()


def _cookies(headers: Iterable[Field]) -> Iterator[tuple[bytes, bytes]]:
    for field, value in headers:
        if field.lower() == b"cookie":
            for pair in value.split(b";"):
                key, found, text = pair.strip().partition(b"=")
                if found:
                    yield key, text.strip(b'"')
