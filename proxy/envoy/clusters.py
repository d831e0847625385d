"""Where Envoy sends requests: each service's instances, other machines' gateways, and the proxy.

Each cluster has the proxy as an endpoint, too, of the second priority: it gets what no instance can
take, and what an instance failed at. So a request that Envoy cannot serve after all is held, sent
elsewhere or started for, as if it had come to the proxy at once.

Pure.
"""

import socket
from base64 import b64encode
from pathlib import Path
from typing import Final, NamedTuple

from overlay.path import KEEP_COUNT, KEEP_IDLE_S, KEEP_INTERVAL_S
from overlay.spec import ServiceSpec
from overlay.tls import ALPN_UNGREETED
from proxy.envoy.fronts import FRONT, SERVICE
from proxy.envoy.mapping import Endpoint, Machine, Mapped, policy_of
from proxy.envoy.messages import (
    UNBOUNDED,
    Message,
    extension,
    header,
    http_options,
    in_file,
    matching,
    socket_address,
)
from proxy.envoy.routes import PROXY

CONNECT_TIMEOUT_S = 3
"""As the proxy's own (`overlay/http/gateway.py`)."""

IDLE_S = 60
"""Connections that are kept: less than the proxy and common servers keep them."""

_KEEPALIVE: Final = {
    "keepalive_time": KEEP_IDLE_S,
    "keepalive_interval": KEEP_INTERVAL_S,
    "keepalive_probes": KEEP_COUNT,
}
"""Whether a machine is there that is to answer; as the proxy's own connections to it have it."""

_GIVEN_UP: Final = {
    "description": "a machine that acknowledges nothing for so long is not there",
    "level": socket.IPPROTO_TCP,
    "name": socket.TCP_USER_TIMEOUT,
    "int_value": 60_000,
    "state": "STATE_PREBIND",
}
"""Where membership does not know, such as of a path that is cut between two that both stand. It is
as long as a client may take nothing (`overlay/http/connection.py`), because the kernel takes who
reads nothing for somebody who is not there."""

LEAST_RETRIES = 10
"""At once, whatever the budget: what a single killed instance loses."""

MAX_EJECTED_PERCENT = 50
EJECTED_FOR_S = 10
"""As `proxy/guard/outliers.py` has them."""

OURS: Final = "myxo[_-].*|x[_-]myxo[_-]chain"
"""Fields that only our own parts may say, in lower case, as Envoy has them."""

_OURS_ANSWERED: Final = "myxo[_-]([^r].*|r[^e].*|re[^f].*)|x[_-]myxo[_-]chain"
"""The same in answers, but for `Myxo-Refused`, which the route looks at and drops."""

_SERVICE_OF_ENDPOINT = "xds.upstream_host_metadata.filter_metadata['myxo']['service']"
_FRONT = f"%CEL({_SERVICE_OF_ENDPOINT} == '' ? '' : xds.filter_chain_name)%"
"""The front's name where the endpoint is the proxy; where it has no such name, nothing is added."""

_ANY_OF: Final = "Myxo-Any-Of"
"""Says to a gateway what it is to pick an instance of (`allocator/serving/gateway.py`)."""

_MATCHED: Final = "envoy.transport_socket_match"

LEAF: Final = "leaf"
NETWORK: Final = "network"
"""Names of what gateways are shown, and of what they must show."""


class Credentials(NamedTuple):
    """Files of what Envoy shows to other machines' gateways, and of what they must show."""

    leaf: Path
    network: Path


_HTTP1: Final = {"http_protocol_options": {"enable_trailers": True}}


def cluster_of(service: Mapped, file: Path, credentials: Credentials) -> Message:
    """Return a service's cluster, whose endpoints are in `file`."""
    spec = service.spec
    made: Message = {
        "name": service.cluster,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": in_file(str(file))},
        "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
        "lb_policy": policy_of(spec),
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {"thresholds": [_bounds(spec)]},
        "typed_extension_protocol_options": http_options(_spoken(spec)),
    }
    if service.pins:
        made["upstream_connection_options"] = {"tcp_keepalive": _KEEPALIVE}
        made["upstream_bind_config"] = {"socket_options": [_GIVEN_UP]}
        made["transport_socket_matches"] = [
            {
                "name": peer,
                "match": {"gateway": peer},
                "transport_socket": _to_gateway(pin, credentials),
            }
            for peer, pin in service.pins
        ]
    if spec.eject_after:
        made["outlier_detection"] = {
            "consecutive_5xx": spec.eject_after,
            "enforcing_consecutive_gateway_failure": 0,
            "base_ejection_time": f"{EJECTED_FOR_S}s",
            "max_ejection_percent": MAX_EJECTED_PERCENT,
        }
    return made


def endpoints_of(service: Mapped, proxy: Path) -> Message:
    """Return a service's endpoints; the proxy is at the socket `proxy`."""
    last = {"endpoint": {"address": _pipe(proxy)}, "metadata": _metadata(service=service.name)}
    instances = [_endpoint(one) for one in service.endpoints]
    instances += [_gateway(one) for one in service.machines]
    return {
        "cluster_name": service.cluster,
        "policy": {"overprovisioning_factor": UNBOUNDED},
        "endpoints": [
            {"priority": 0, "lb_endpoints": instances},
            {"priority": 1, "lb_endpoints": [last]},
        ],
    }


def proxy_cluster(proxy: Path) -> Message:
    """Return the cluster that is the proxy; what came by HTTP/2 goes on by it."""
    spoken = {
        "common_http_protocol_options": {"idle_timeout": f"{IDLE_S}s"},
        "use_downstream_protocol_config": {**_HTTP1, "http2_protocol_options": {}},
    }
    address = {"endpoint": {"address": _pipe(proxy)}}
    return {
        "name": PROXY,
        "type": "STATIC",
        "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
        "circuit_breakers": {"thresholds": [_unbounded()]},
        "typed_extension_protocol_options": http_options(spoken),
        "load_assignment": {"cluster_name": PROXY, "endpoints": [{"lb_endpoints": [address]}]},
    }


def _endpoint(endpoint: Endpoint) -> Message:
    host, _, port = endpoint.address.rpartition(":")
    return {
        "endpoint": {"address": socket_address(host, int(port))},
        "health_status": "DRAINING" if endpoint.draining else "HEALTHY",
        "load_balancing_weight": endpoint.weight,
        "metadata": _metadata(instance=endpoint.instance),
    }


def _gateway(machine: Machine) -> Message:
    first, *others = (socket_address(host, port) for host, port in machine.addresses)
    metadata = _metadata(any_of=machine.any_of)
    metadata["filter_metadata"][_MATCHED] = {"gateway": machine.peer}
    return {
        "endpoint": {
            "address": first,
            "additional_addresses": [{"address": other} for other in others],
        },
        "load_balancing_weight": machine.weight,
        "metadata": metadata,
    }


def _to_gateway(pin: str, credentials: Credentials) -> Message:
    """Return TLS to a gateway that shows the key with this pin, as `overlay/tls.py` has it."""
    known = {
        "verify_certificate_spki": [b64encode(bytes.fromhex(pin)).decode()],
        "allow_expired_certificate": True,  # clocks are not trusted
    }
    common: Message = {
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "alpn_protocols": [ALPN_UNGREETED],
        "tls_certificate_sds_secret_configs": [
            {"name": LEAF, "sds_config": in_file(str(credentials.leaf))}
        ],
        "combined_validation_context": {
            "default_validation_context": known,
            "validation_context_sds_secret_config": {
                "name": NETWORK,
                "sds_config": in_file(str(credentials.network)),
            },
        },
    }
    return extension(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.UpstreamTlsContext",
        common_tls_context=common,
        max_session_keys=0,  # gateways resume nothing
    )


def _spoken(spec: ServiceSpec) -> Message:
    """Return how a service's cluster speaks HTTP, and what is written into each request there."""
    version = {"http2_protocol_options": {}} if spec.protocol == "h2c" else _HTTP1
    mutations = {
        "request_mutations": [
            {"append": header(SERVICE, "%UPSTREAM_METADATA(myxo:service)%")},
            {"append": header(FRONT, _FRONT)},
            {"append": header(_ANY_OF, "%UPSTREAM_METADATA(myxo:any_of)%")},
        ],
        "response_mutations": [{"remove_on_match": {"key_matcher": matching(_OURS_ANSWERED)}}],
    }
    return {
        "common_http_protocol_options": {"idle_timeout": f"{IDLE_S}s"},
        "explicit_http_config": version,
        "http_filters": [
            extension(
                "envoy.filters.http.header_mutation",
                "filters.http.header_mutation.v3.HeaderMutation",
                mutations=mutations,
            ),
            extension(
                "envoy.filters.http.upstream_codec",
                "filters.http.upstream_codec.v3.UpstreamCodec",
            ),
        ],
    }


def _bounds(spec: ServiceSpec) -> Message:
    budget = {
        "budget_percent": {"value": spec.retry_percent},
        "min_retry_concurrency": LEAST_RETRIES,
    }
    return {**_unbounded(), "retry_budget": budget}


def _unbounded() -> Message:
    return dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), UNBOUNDED)


def _metadata(**said: str) -> Message:
    return {"filter_metadata": {"myxo": said}}


def _pipe(path: Path) -> Message:
    return {"pipe": {"path": str(path)}}
