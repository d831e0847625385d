"""What the proxy can be told."""

from typing import ClassVar

from overlay.settings import NodeSettings

DEFAULT_PORT = 4200


class ProxySettings(NodeSettings):
    """Settings of `proxy`, from `MYXO_PROXY_*`, `MYXO_*` or `[proxy]` in the file."""

    section: ClassVar[str] = "proxy"

    p2p_listen_addr: str = ":4004"
    """`[HOST]:PORT` of the overlay's listener; the next free port if it is taken."""

    port: int = DEFAULT_PORT
    """The port on 127.0.0.1 that programs of this machine send their requests to."""

    access_log: str = ""
    """File for one JSON object a line for each request that has ended; `-` is standard output."""

    otlp_endpoint: str = ""
    """URL of an OpenTelemetry collector, such as `http://127.0.0.1:4318`, that spans are sent to by
    OTLP over HTTP; `OTEL_EXPORTER_OTLP_ENDPOINT` will do as well. Needs the extra `myxo[otel]`."""
