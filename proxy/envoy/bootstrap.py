"""What Envoy begins with: its listeners, and where everything else is read from.

Limits are those of the proxy's own listeners (`overlay/http/connection.py`, `head.py`). Fields that
only our own parts or Envoy's may say are dropped before a request is looked at; at an edge also
what only a client that is believed may say.

Pure.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from overlay.http.connection import DEFAULT_LIMITS
from overlay.http.head import MAX_FIELDS, MAX_HEAD_BYTES
from proxy.envoy.clusters import LEAF, NETWORK, OURS, Credentials
from proxy.envoy.fronts import Front
from proxy.envoy.messages import Message, extension, in_file, matching, resources, socket_address
from proxy.frontend.edge import MAX_OUTSIDE
from proxy.frontend.places import MAX_CLIENTS

TLS: Final = "tls"
AUTHORITIES: Final = "authorities"
"""Names of what the outside is shown, and of what it must show."""

_NO_CLAIM: Final = (
    f"{OURS}|x[_-]envoy[_-].*|proxy_.*|keep_alive|transfer_encoding"
    "|x_forwarded-.*|x-forwarded_.*|x_real-ip|x-real_ip"
)
"""Inside: of the fields of who was before a client, those in which `-` and `_` are mixed."""

_NO_CLAIM_OUTSIDE: Final = (
    f"{OURS}|x[_-]envoy[_-].*|proxy_.*|keep_alive|transfer_encoding"
    "|x[_-]forwarded[_-].*|forwarded|x[_-]real[_-]ip|x[_-]request[_-]id|x[_-]myxo[_-].*"
)

_RUNTIME: Final = {
    "re2.max_program_size.error_level": 10_000,
    "re2.max_program_size.warn_level": 10_000,
}
"""Envoy's bounds are for expressions of strangers; names of a machine make longer ones than 100."""

MAX_STREAMS = 100
"""At once on one connection of HTTP/2, as at the proxy."""


class Files:
    """The files below a folder that Envoy reads, and its sockets there.

    Attributes:
        key: the private key of what is shown to gateways, which is in no folder.
    """

    def __init__(self, folder: Path, key: Path = Path("/dev/fd/-1")) -> None:
        self.bootstrap = folder / "bootstrap.json"
        self.clusters = folder / "clusters.json"
        self.key = key
        self.admin = folder / "admin.sock"
        self.proxy = folder / "proxy.sock"
        self._folder = folder

    def routes(self, front: str) -> Path:
        """Return the file with a front's routes."""
        return self._folder / f"routes-{front}.json"

    def endpoints(self, service: str, version: int) -> Path:
        """Return the file with a service's endpoints."""
        return self._folder / f"endpoints-{service}-{version}.json"

    def secret(self, name: str) -> Path:
        """Return the file with a secret; Envoy takes one from each."""
        return self._folder / f"secret-{name}.json"

    @property
    def credentials(self) -> Credentials:
        """What is shown to other machines' gateways, and what they must show."""
        return Credentials(self.secret(LEAF), self.secret(NETWORK))


def bootstrap(files: Files, fronts: Sequence[Front], *, certificates: int, mutual: bool) -> Message:
    """Return Envoy's configuration, as far as it stays the same.

    Args:
        files: where the rest is.
        fronts: what to listen on.
        certificates: how many there are that fronts with TLS show.
        mutual: whether clients must show one, too.
    """
    tls = _tls(files, certificates, mutual=mutual) if certificates else None
    return {
        "node": {"id": "myxo", "cluster": "myxo"},
        "admin": {"address": {"pipe": {"path": str(files.admin), "mode": 0o600}}},
        "dynamic_resources": {"cds_config": in_file(str(files.clusters))},
        "static_resources": {"listeners": [_listener(files, front, tls) for front in fronts]},
        "layered_runtime": {"layers": [{"name": "myxo", "static_layer": _RUNTIME}]},
        "overload_manager": {
            "resource_monitors": [
                extension(
                    "envoy.resource_monitors.global_downstream_max_connections",
                    "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    max_active_downstream_connections=MAX_CLIENTS + MAX_OUTSIDE,
                )
            ]
        },
    }


def secrets(pems: Sequence[bytes], authorities: str | None) -> list[Message]:
    """Return what the outside is shown, each a key with its certificates, and what it must show."""
    found: list[Message] = []
    for number, pem in enumerate(pems):
        shown = {"inline_string": pem.decode("ascii", "replace")}
        both = {"certificate_chain": shown, "private_key": shown}
        found.append({"name": f"{TLS}{number}", "tls_certificate": both})
    if authorities is not None:
        trusted = {"trusted_ca": {"inline_string": authorities}}
        found.append({"name": AUTHORITIES, "validation_context": trusted})
    return found


def gateway_secrets(leaf: str, key: Path, authorities: str) -> list[Message]:
    """Return what other machines' gateways are shown, whose key is in `key`, and must show."""
    shown = {
        "certificate_chain": {"inline_string": leaf},
        "private_key": {"filename": str(key)},
    }
    trusted = {"trusted_ca": {"inline_string": authorities}}
    return [
        {"name": LEAF, "tls_certificate": shown},
        {"name": NETWORK, "validation_context": trusted},
    ]


def secret_message(version: int, secret: Message) -> Message:
    """Return the file of a secret."""
    return resources("extensions.transport_sockets.tls.v3.Secret", version, [secret])


def _listener(files: Files, front: Front, tls: Message | None) -> Message:
    chain: Message = {"name": front.name, "filters": [_connections(files, front)]}
    if front.scheme == "https" and tls is not None:
        chain["transport_socket"] = tls
        chain["transport_socket_connect_timeout"] = "10s"
    address = socket_address(front.host, front.port)
    if ":" in front.host:
        address["socket_address"]["ipv4_compat"] = True
    return {
        "name": front.name,
        "address": address,
        "filter_chains": [chain],
        "per_connection_buffer_limit_bytes": 1024 * 1024,
    }


def _connections(files: Files, front: Front) -> Message:
    limits = DEFAULT_LIMITS
    dropped = _NO_CLAIM_OUTSIDE if front.outside else _NO_CLAIM
    return extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=front.name,
        rds={
            "route_config_name": front.name,
            "config_source": in_file(str(files.routes(front.name))),
        },
        early_header_mutation_extensions=[
            extension(
                "envoy.http.early_header_mutation.header_mutation",
                "http.early_header_mutation.header_mutation.v3.HeaderMutation",
                mutations=[{"remove_on_match": {"key_matcher": matching(dropped)}}],
            )
        ],
        use_remote_address=front.outside,
        skip_xff_append=True,
        generate_request_id=False,
        preserve_external_request_id=True,
        server_header_transformation="PASS_THROUGH",
        upgrade_configs=[{"upgrade_type": "websocket"}, {"upgrade_type": "CONNECT"}],
        http_protocol_options={
            "accept_http_10": True,
            "default_host_for_http_10": "localhost",
            "enable_trailers": True,
        },
        http2_protocol_options={"max_concurrent_streams": MAX_STREAMS, "allow_connect": True},
        max_request_headers_kb=MAX_HEAD_BYTES // 1024,
        common_http_protocol_options={
            "idle_timeout": f"{limits.idle_timeout_s:g}s",
            "max_headers_count": MAX_FIELDS,
        },
        request_headers_timeout=f"{limits.head_timeout_s:g}s",
        stream_idle_timeout="0s",
        http_filters=[
            extension(
                "envoy.filters.http.router",
                "filters.http.router.v3.Router",
                suppress_envoy_headers=True,
            )
        ],
    )


def _tls(files: Files, certificates: int, *, mutual: bool) -> Message:
    common: Message = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": [
            _from_file(files, f"{TLS}{number}") for number in range(certificates)
        ],
    }
    if mutual:
        common["validation_context_sds_secret_config"] = _from_file(files, AUTHORITIES)
    return extension(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context=common,
        require_client_certificate=mutual,
    )


def _from_file(files: Files, name: str) -> Message:
    return {"name": name, "sds_config": in_file(str(files.secret(name)))}
