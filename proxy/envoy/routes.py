"""What Envoy does with a request: to a service's cluster, or to the proxy.

    guards      whatever is not plain ─────────────────────────────► the proxy
    services    /SERVICE/… or its Host, where instances are warm ──► its cluster
    the rest    unknown, cold, not for Envoy ──────────────────────► the proxy

The guards make the two engines the same to a client: what the proxy continues, counts or ends by
itself (who was before the client, `Via`, deadlines, protocol changes, explanations) it gets itself,
so that Envoy adds only what the proxy adds to a request that says nothing of that kind. A name with
an escape in it is the proxy's to read.

Pure.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from overlay.names import ServiceName
from overlay.spec import ServiceSpec
from proxy.envoy.fronts import CLIENT, FRONT, Front
from proxy.envoy.mapping import Mapped, hashed
from proxy.envoy.messages import Message, extension, header, matching
from proxy.request.fields import VIA_NAME
from proxy.route.routing import HOST_SUFFIX

PROXY: Final = "proxy"
"""The cluster that is the proxy itself."""

REFUSED: Final = "myxo-refused"
"""Said by a gateway: no instance has got the request."""

_GUARDED: Final = (
    "via",
    "upgrade",
    "max-forwards",
    "x-request-timeout",
    "grpc-timeout",
)
_GUARDED_INSIDE: Final = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-real-ip",
    "x-myxo-explain",
)
"""Outside they are dropped before there is a route."""

_SAME_SITE = "(?i)same-origin|same-site|none"
_SAFE_METHODS = "GET|HEAD|OPTIONS|TRACE|PUT|DELETE"
"""That may be sent twice (RFC 9110 section 9.2.2)."""

_UNPROCESSED = ("connect-failure", "refused-stream", "reset-before-request", "retriable-headers")
"""Failures after which an instance cannot have acted on a request."""

_HOP_BY_HOP = ["proxy-authenticate", "proxy-authorization"]
"""Envoy drops the others itself."""

_DIRECT = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"
_HOST = "%REQ(:AUTHORITY)%"
_VIA = f"1.1 {VIA_NAME.decode()}"


def route_configuration(front: Front, services: Iterable[Mapped]) -> Message:
    """Return the routes of a front, for those services that have a warm instance."""
    there = {one.name: one for one in services if one.serves}
    hosts = list(_hosts(front, there))
    return {
        "name": front.name,
        "ignore_port_in_host_matching": True,
        "virtual_hosts": [*hosts, _by_path(front, there)],
    }


def _hosts(front: Front, there: dict[ServiceName, Mapped]) -> Iterator[Message]:
    """Yield what is for one service whatever its path."""
    if front.exposure is None:
        named = {f"{name}{HOST_SUFFIX}": name for name in there}
    else:
        named = {host: name for host, name in front.exposure.hosts.items() if name in there}
    for host, name in named.items():
        routes = [*_guards(front), *_served(front, there[name]), _rest(front)]
        yield {"name": f"host {host}", "domains": [host], "routes": routes}


def _by_path(front: Front, there: dict[ServiceName, Mapped]) -> Message:
    """Return what is for whichever service the path begins with."""
    routes = [*_guards(front), *_strangers(front)]
    for name, service in there.items():
        if front.exposure is None or name in front.exposure.paths:
            routes += _served(front, service, prefix=f"/{name}")
    return {"name": "path", "domains": ["*"], "routes": [*routes, _rest(front)]}


def _guards(front: Front) -> Iterator[Message]:
    yield _to_proxy(front, {"connect_matcher": {}})
    guarded = set(_GUARDED) | (set() if front.outside else set(_GUARDED_INSIDE))
    for name in sorted(guarded | {name.replace("-", "_") for name in guarded}):
        yield _to_proxy(front, _any([{"name": name, "present_match": True}]))
    if not front.outside:
        site = "sec-fetch-site"
        other = {"name": site, "string_match": matching(_SAME_SITE), "invert_match": True}
        yield _to_proxy(front, _any([{"name": site, "present_match": True}, other]))


def _strangers(front: Front) -> Iterator[Message]:
    """Yield what keeps a page of another site from reaching services by a name of its own."""
    if front.outside:
        return
    names = "|".join(name.replace(".", r"\.") for name in sorted(front.machine_names))
    own = rf"(?i)(localhost|{names}|[0-9]{{1,3}}(\.[0-9]{{1,3}}){{3}}|\[[0-9a-f:.]+\])(:[0-9]*)?"
    other = {"name": ":authority", "string_match": matching(own), "invert_match": True}
    yield _to_proxy(front, _any([other]))


def _served(front: Front, service: Mapped, prefix: str = "") -> Iterator[Message]:
    """Yield the routes to a service; what may be sent twice is tried again after more failures."""
    matches: Sequence[Message] = [{"prefix": "/"}]
    if prefix:
        matches = [{"path": prefix}, {"prefix": f"{prefix}/"}]
    idempotent = service.spec.idempotent
    for match in matches:
        if not idempotent:
            safe = {"name": ":method", "string_match": matching(_SAFE_METHODS)}
            yield _to_service(front, service, {**match, "headers": [safe]}, prefix, twice=True)
        yield _to_service(front, service, match, prefix, twice=idempotent)


def _to_service(
    front: Front, service: Mapped, match: Message, prefix: str, *, twice: bool
) -> Message:
    spec = service.spec
    action: Message = {
        "cluster": service.cluster,
        "timeout": f"{spec.timeout_s or 0:g}s",
        "retry_policy": _retries(spec, twice=twice),
    }
    if prefix:
        action["prefix_rewrite"] = "/"
    if (hashing := hashed(spec)) is not None:
        action["hash_policy"] = [hashing]
    answered = [header("Via", _VIA, "APPEND_IF_EXISTS_OR_ADD")]
    if not front.outside:
        took = header("Server-Timing", "forward;dur=%RESPONSE_DURATION%", "APPEND_IF_EXISTS_OR_ADD")
        answered.append(took)
    return {
        "match": match,
        "route": action,
        "request_headers_to_add": list(_told(front, spec, prefix)),
        "request_headers_to_remove": [*_HOP_BY_HOP, *(["te"] if spec.protocol == "http1" else [])],
        "response_headers_to_add": answered,
        "response_headers_to_remove": [*_HOP_BY_HOP, REFUSED],
    }


def _told(front: Front, spec: ServiceSpec, prefix: str) -> Iterator[Message]:
    """Yield what an instance is told of a request, as `proxy/route/fields.py` has it."""
    node = f'"[{_DIRECT}]"' if ":" in front.host else _DIRECT
    yield header("Via", _VIA)
    yield header("Forwarded", f'for={node};host="{_HOST}";proto={front.scheme}')
    yield header("X-Forwarded-For", _DIRECT)
    yield header("X-Forwarded-Host", _HOST)
    if front.outside or not front.trusted:
        yield header("X-Forwarded-Proto", front.scheme)
    if prefix:
        yield header("X-Forwarded-Prefix", prefix)
    yield header("X-Request-Id", "%UNIQUE_ID%", "ADD_IF_ABSENT")
    if spec.timeout_s is not None:
        yield header("X-Request-Timeout", f"{spec.timeout_s:.3f}")


def _retries(spec: ServiceSpec, *, twice: bool) -> Message:
    """Return what is sent once more: always to the proxy, which knows who else there is."""
    after: tuple[str, ...] = _UNPROCESSED
    statuses: Message = {}
    if twice:
        after = (*after, "reset")
        if spec.retry_statuses:
            after = (*after, "retriable-status-codes")
            statuses = {"retriable_status_codes": list(spec.retry_statuses)}
    elsewhere = "retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
    return {
        "retry_on": ",".join(after),
        "retriable_headers": [{"name": REFUSED, "present_match": True}],
        "num_retries": 1,
        "retry_priority": extension(
            "envoy.retry_priorities.previous_priorities", elsewhere, update_frequency=1
        ),
        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.010s"},
        **statuses,
    }


def _rest(front: Front) -> Message:
    return _to_proxy(front, {"prefix": "/"})


def _any(headers: list[Message]) -> Message:
    return {"prefix": "/", "headers": headers}


def _to_proxy(front: Front, match: Message) -> Message:
    return {
        "match": match,
        "route": {
            "cluster": PROXY,
            "timeout": "0s",
            "retry_policy": {"retry_on": "connect-failure,reset-before-request", "num_retries": 2},
        },
        "request_headers_to_add": [header(FRONT, front.name), header(CLIENT, _DIRECT)],
    }
