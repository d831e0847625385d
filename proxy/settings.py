"""What the proxy can be told."""

from ipaddress import ip_network
from typing import ClassVar

from pydantic import Field, field_validator

from overlay.settings import NodeSettings

DEFAULT_PORT = 4200


class ProxySettings(NodeSettings):
    """Settings of `proxy`, from `MYXO_PROXY_*`, `MYXO_*` or `[proxy]` in the file."""

    section: ClassVar[str] = "proxy"

    p2p_listen_addr: str = ":4004"
    """`[HOST]:PORT` of the overlay's listener; the next free port if it is taken."""

    port: int = DEFAULT_PORT
    """The port on 127.0.0.1 that programs of this machine send their requests to."""

    trusted_forwarders: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Networks of clients whose `Forwarded` and `X-Forwarded-*` are believed and continued; from
    others they are dropped. What comes out of a container is never believed."""

    max_body_bytes: int = Field(0, ge=0)
    """The largest request body that is taken, in bytes; more is answered 413. 0 is any size."""

    access_log: str = ""
    """File for one JSON object a line for each request that has ended; `-` is standard output."""

    otlp_endpoint: str = ""
    """URL of an OpenTelemetry collector, such as `http://127.0.0.1:4318`, that spans are sent to by
    OTLP over HTTP; `OTEL_EXPORTER_OTLP_ENDPOINT` will do as well. Needs the extra `myxo[otel]`."""

    @field_validator("trusted_forwarders")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ip_network(network)
        return value
