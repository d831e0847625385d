"""Where Envoy sends requests: each service's instances, and the proxy.

Each cluster has the proxy as an endpoint, too, of the second priority: it gets what no instance can
take, and what an instance failed at. So a request that Envoy cannot serve after all is held, sent
elsewhere or started for, as if it had come to the proxy at once.

Pure.
"""

from pathlib import Path
from typing import Final

from overlay.spec import ServiceSpec
from proxy.envoy.fronts import FRONT, SERVICE
from proxy.envoy.mapping import Endpoint, Mapped, policy_of
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
from proxy.envoy.routes import PROXY, cluster_name

CONNECT_TIMEOUT_S = 3
"""As the proxy's own (`overlay/http/gateway.py`)."""

IDLE_S = 60
"""Connections that are kept: less than the proxy and common servers keep them."""

LEAST_RETRIES = 10
"""At once, whatever the budget: what a single killed instance loses."""

MAX_EJECTED_PERCENT = 50
EJECTED_FOR_S = 10
"""As `proxy/guard/outliers.py` has them."""

OURS: Final = "myxo[_-].*|x[_-]myxo[_-]chain"
"""Fields that only our own parts may say, in lower case, as Envoy has them."""

_SERVICE_OF_ENDPOINT = "xds.upstream_host_metadata.filter_metadata['myxo']['service']"
_FRONT = f"%CEL({_SERVICE_OF_ENDPOINT} == '' ? '' : xds.filter_chain_name)%"
"""The front's name where the endpoint is the proxy; where it has no such name, nothing is added."""

_HTTP1: Final = {"http_protocol_options": {"enable_trailers": True}}


def cluster_of(service: Mapped, file: Path) -> Message:
    """Return a service's cluster, whose endpoints are in `file`."""
    spec = service.spec
    made: Message = {
        "name": cluster_name(service.name),
        "type": "EDS",
        "eds_cluster_config": {"eds_config": in_file(str(file))},
        "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
        "lb_policy": policy_of(spec),
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {"thresholds": [_bounds(spec)]},
        "typed_extension_protocol_options": http_options(_spoken(spec)),
    }
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
    return {
        "cluster_name": cluster_name(service.name),
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


def _spoken(spec: ServiceSpec) -> Message:
    """Return how a service's cluster speaks HTTP, and what is written into each request there."""
    version = {"http2_protocol_options": {}} if spec.protocol == "h2c" else _HTTP1
    mutations = {
        "request_mutations": [
            {"append": header(SERVICE, "%UPSTREAM_METADATA(myxo:service)%")},
            {"append": header(FRONT, _FRONT)},
        ],
        "response_mutations": [{"remove_on_match": {"key_matcher": matching(OURS)}}],
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
