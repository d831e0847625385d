"""What a proxy changes in the fields of a request and of an answer (RFC 9110 §7, RFC 7239).

Dropped are what concerns one connection only, what Connection names, and what only Myxo's own parts
may say. Names are compared with `_` for `-` and in lower case, because many servers take
`X_Forwarded_For` for `X-Forwarded-For` (CGI, WSGI).

Added are Via, and who asked for what: `Forwarded` and the `X-Forwarded-*` that came before it. What
a client says of those before it is continued if it is trusted to tell, and dropped if not, so that
a service may believe what it reads. The rare case costs the most: a request with none of these gets
one tuple, made once for each client address and host.

Pure.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from overlay.http.errors import BadRequest
from overlay.http.fields import HOP_BY_HOP
from overlay.http.head import Field, RequestHead, ResponseHead
from overlay.http.remembering import by_head
from overlay.http.written import Written
from proxy.errors import TooManyHops
from proxy.route.caller import Origin
from proxy.route.chains import HEADER
from proxy.route.routing import Route

VIA_NAME = b"myxo"
"""A pseudonym, so that no machine's name gets out."""
MAX_VIA = 32
"""Times that a message may have been through a proxy of ours; as long as the longest chain."""

LIMITED = frozenset({b"TRACE", b"OPTIONS"})
"""Methods whose Max-Forwards counts."""

_NUMBER = re.compile(rb"[0-9]{1,9}")
_VIA = (b"Via", b"1.1 " + VIA_NAME)
_VIA_1_0 = (b"Via", b"1.0 " + VIA_NAME)
_OURS = b"myxo-"
_LOWER = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ_", b"abcdefghijklmnopqrstuvwxyz-")
_FORWARDED = frozenset(
    {
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
    }
)
_ONLY_BELIEVED = frozenset({b"x-forwarded-port", b"x-forwarded-server", b"x-real-ip"})
_DROPPED = HOP_BY_HOP | {HEADER.lower()}
_DROPPED_OF_REQUESTS = _DROPPED | _FORWARDED | _ONLY_BELIEVED
_CLAIMS = (b"x-forwarded-", b"x-myxo-", _OURS)
_CLAIMED = frozenset({b"forwarded", b"x-real-ip", b"x-request-id"})
_SPECIAL = _FORWARDED | _ONLY_BELIEVED | {b"via"}


@by_head
def request_fields(head: RequestHead, route: Route, origin: Origin) -> Written:
    """Return the fields to forward a request with, framing excepted.

    Raises:
        TooManyHops: it came through proxies of this network too often.
    """
    names = [name.translate(_LOWER) for name, _ in head.headers]
    dropped = _with(head.options, _DROPPED_OF_REQUESTS)
    if not head.target.startswith(b"/") or b"host" not in names:
        fields = [(b"Host", route.host or b"localhost")]
        dropped |= {b"host"}
    else:
        fields = []
    fields += [
        field
        for field, name in zip(head.headers, names, strict=True)
        if name not in dropped and name[:5] != _OURS
    ]
    if head.method in LIMITED and b"max-forwards" in names:
        fields = [_one_fewer(field) for field in fields]
    added = _introduced(origin.address, origin.scheme, route.host, route.prefix)
    if not _SPECIAL.isdisjoint(names):
        _check_hops(head.headers)
        if origin.trusted:
            added = _continued(added, list(zip(names, head.headers, strict=True)))
    fields.append(_VIA if head.minor else _VIA_1_0)
    fields += added
    return Written(fields)


@by_head
def without_claims(head: RequestHead) -> RequestHead:
    """Return a request without what only a client that is believed may say.

    Dropped are who was before it, which request this is, and what is for Myxo's own parts.
    """
    fields = [f for f in head.headers if not _is_claim(f[0].translate(_LOWER))]
    return head._replace(headers=fields)


def _is_claim(name: bytes) -> bool:
    return name.startswith(_CLAIMS) or name in _CLAIMED


@by_head
def response_fields(head: ResponseHead, date: Field) -> Written:
    """Return the fields to pass an answer on with, framing excepted; `date` if it has none."""
    fields = _passed_on(head)
    if not any(name.lower() == b"date" for name, _ in head.headers):
        fields.append(date)
    fields.append(_VIA if head.minor else _VIA_1_0)
    return Written(fields)


@by_head
def interim_fields(head: ResponseHead) -> Sequence[Field]:
    """Return the fields to pass a 1xx answer on with; nobody dates one (RFC 9110 §6.6.1)."""
    return [*_passed_on(head), _VIA if head.minor else _VIA_1_0]


def _passed_on(head: ResponseHead) -> list[Field]:
    names = [name.translate(_LOWER) for name, _ in head.headers]
    dropped = _with(head.options, _DROPPED)
    return [
        field
        for field, name in zip(head.headers, names, strict=True)
        if name not in dropped and name[:5] != _OURS
    ]


def _with(options: frozenset[bytes], dropped: frozenset[bytes]) -> frozenset[bytes]:
    return dropped.union(o.translate(_LOWER) for o in options) if options else dropped


@lru_cache(maxsize=1024)
def _introduced(address: str, scheme: str, host: bytes, prefix: bytes) -> tuple[Field, ...]:
    """Return the fields that say who asked, with nobody before it."""
    node = f'"[{address}]"' if ":" in address else address
    named = b';host="%b"' % host if host else b""
    fields = [
        (b"Forwarded", b"for=%b%b;proto=%b" % (node.encode(), named, scheme.encode())),
        (b"X-Forwarded-For", address.encode()),
        (b"X-Forwarded-Proto", scheme.encode()),
    ]
    if host:
        fields.append((b"X-Forwarded-Host", host))
    if prefix:
        fields.append((b"X-Forwarded-Prefix", prefix))
    return tuple(fields)


def _continued(
    added: Sequence[Field], received: Sequence[tuple[bytes, Field]]
) -> tuple[Field, ...]:
    """Return `added` behind what a trusted client said: lists grow, the rest stays as it was."""
    told: dict[bytes, list[bytes]] = {}
    for name, (_, value) in received:
        if name in _FORWARDED and value:
            told.setdefault(name, []).append(value)
    fields = []
    for name, value in added:
        before = told.pop(name.lower(), [])
        if name in {b"Forwarded", b"X-Forwarded-For"}:
            value = b", ".join([*before, value])  # noqa: PLW2901
        elif before and name == b"X-Forwarded-Prefix":
            value = before[0].rstrip(b"/") + value  # noqa: PLW2901
        elif before:
            value = before[0]  # noqa: PLW2901
        fields.append((name, value))
    fields += [(name.title(), values[0]) for name, values in told.items()]
    fields += [field for name, field in received if name in _ONLY_BELIEVED]
    return tuple(fields)


def _check_hops(headers: Iterable[Field]) -> None:
    via = b",".join(value for name, value in headers if name.lower() == b"via")
    if sum(hop.split()[1:2] == [VIA_NAME] for hop in via.split(b",")) >= MAX_VIA:
        raise TooManyHops(MAX_VIA)


def last_hop(head: RequestHead) -> bool:
    """Return whether the request must not be forwarded any further (RFC 9110 §7.6.2).

    Raises:
        BadRequest: its Max-Forwards is not one number.
    """
    if head.method not in LIMITED:
        return False
    left = [value for name, value in head.headers if name.lower() == b"max-forwards"]
    if not left:
        return False
    if len(left) != 1 or not _NUMBER.fullmatch(left[0]):
        raise BadRequest(400, "Max-Forwards is not one number of at most nine digits")
    return int(left[0]) == 0


def _one_fewer(field: Field) -> Field:
    name, value = field
    return (name, b"%d" % (int(value) - 1)) if name.lower() == b"max-forwards" else field


def is_trusted(address: str, networks: Iterable[str]) -> bool:
    """Return whether an IP address is in one of the networks; what is none is not."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(ip in ipaddress.ip_network(network) for network in networks)
