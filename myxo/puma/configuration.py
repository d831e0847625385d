"""What `puma_config` can be told: the keys of PUMA's configuration, and which network to be in."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from myxo.puma.durations import Duration
from myxo.puma.errors import ConfigInvalid
from myxo.puma.keys import Keys, from_json, near
from myxo.puma.log_filter import Filter
from myxo.puma.log_format import DEFAULT, Format
from myxo.puma.route_config import ROUTES, Routes
from myxo.puma.route_config import Path as RoutePath
from myxo.requirements import requirement
from overlay.balancing import MAX_WEIGHT, POLICIES, Balancing, canonical
from overlay.spec import MOST, RateLimit

MAX_DRAIN_S = 600.0
MAX_ROUTES_BYTES = 1024 * 1024
MAX_REQUIREMENTS = 50
ROUTERS = frozenset({"envoy.router", "envoy.filters.http.router", "router"})
"""The one filter that does what the proxy does anyway."""

_PER_S = {"second": 1.0, "minute": 1 / 60, "hour": 1 / 3600, "day": 1 / 86400}


def _endpoint(written: Any) -> Any:
    """Return `HOST:PORT` of a server that is named so, or by a URL."""
    if not isinstance(written, str):
        return written
    address = written.removeprefix("http://").removesuffix("/")
    host, colon, port = address.rpartition(":")
    if "//" in address or "/" in address or not (host and colon and port.isdecimal()):
        raise ValueError(f"{written!r} is not HOST:PORT: a server that speaks plain HTTP")
    return address


Endpoint = Annotated[str, BeforeValidator(_endpoint)]


def _requirements(written: Any) -> Any:
    """Return requirements, given as a list or as one alone."""
    given = [written] if isinstance(written, str) else written
    if not isinstance(given, list | tuple) or not all(isinstance(one, str) for one in given):
        raise ValueError("it is a list of what pip would install, such as ['psycopg2>=2.9']")
    return [requirement(one) for one in given]


def _policy(written: Any) -> Any:
    """Return a policy by whichever name it has."""
    given = from_json(written)
    name = given.get("name") if isinstance(given, Mapping) else given
    known = canonical(name) if isinstance(name, str) else None
    if known is None:
        raise ValueError(f"{name!r} is no policy; {near(str(name), list(POLICIES))}")
    return {**given, "name": known} if isinstance(given, Mapping) else {"name": known}


class LogConfig(Keys):
    """Where the access log is written, and how."""

    path: Path | None = None
    format: Format | None = None


class Logging(Keys):
    """The access log.

    Attributes:
        name: of the logger (Python's `logging`) that requests are told to.
        filter: which requests are.
        format: a line, with the operators of `log_format.py`.
        config: the file that they are written to, and the format as Envoy has it.
    """

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)] = "puma"
    filter: Filter = Filter()
    format: Format | None = None
    config: LogConfig = LogConfig()

    @property
    def line(self) -> str | dict[str, str]:
        """The format that holds."""
        return self.format or self.config.format or DEFAULT


class GlobalRate(Keys):
    """So many requests over the whole network, whichever proxies they come through.

    Attributes:
        cluster_name: the service that is limited; each of them if none is named.
        requests_per_unit: how many.
        unit: per second, minute, hour or day.
        burst: how many may come at once after a silence.
    """

    cluster_name: str | None = None
    requests_per_unit: float = Field(gt=0, le=MOST)
    unit: Literal["second", "minute", "hour", "day"] = "second"
    burst: int = Field(1, ge=1, le=MOST)

    @property
    def limit(self) -> RateLimit:
        """The limit as a service's definition has it."""
        return RateLimit(per_s=self.requests_per_unit * _PER_S[self.unit], burst=self.burst)


class Tracing(Keys):
    """Where spans of requests are sent, by OTLP over HTTP."""

    otlp_endpoint: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")]


class Rds(Keys):
    """A file of routes, read again while the services run."""

    path: Path


class ConnectionManager(Keys):
    """What of Envoy's HTTP connection manager can be set.

    Attributes:
        http_filters: nothing, or the router.
        drain_timeout: seconds that requests under way have when the program ends.
        idle_timeout: seconds that a client's connection is kept without a request.
        tracing, route_config, rds: see their types.
    """

    http_filters: tuple[Any, ...] = ()
    drain_timeout: Annotated[Duration, Field(ge=0, le=MAX_DRAIN_S)] | None = None
    idle_timeout: Annotated[Duration, Field(gt=0)] | None = None
    tracing: Annotated[
        Tracing | None,
        BeforeValidator(lambda w: {"otlp_endpoint": w} if _is_url(w) else w),
    ] = None
    route_config: Routes = Field(default_factory=dict)
    rds: Annotated[Rds | None, BeforeValidator(lambda w: w if _is_object(w) else {"path": w})] = (
        None
    )

    @field_validator("http_filters", mode="before")
    @classmethod
    def _are_honoured(cls, written: Any) -> Any:
        filters = from_json(written)
        for each in filters if isinstance(filters, list | tuple) else [filters]:
            name = each.get("name") if isinstance(each, Mapping) else each
            if name not in ROUTERS:
                raise ValueError(
                    f"the filter {name!r} is not honoured: Myxo's proxy has no Envoy filters but "
                    "its router; rate_limit, logging and tracing are keys of their own"
                )
        return filters


def _is_url(written: Any) -> bool:
    return isinstance(written, str) and written.startswith("http")


def _is_object(written: Any) -> bool:
    return written is None or isinstance(from_json(written), Mapping)


class Network(Keys):
    """The network to be in, where this machine is in none.

    Attributes:
        bootstraps: addresses of its bootstrap nodes; without any, a network is founded.
        psk: its passphrase.
    """

    bootstraps: tuple[str, ...] = ()
    psk: str | None = Field(None, repr=False)


class Database(Keys):
    """A database that speaks HTTP, as DynamoDB does, behind the front's balancer.

    Attributes:
        endpoints: `HOST:PORT` of each server.
        weights: of each, if they are not alike.
        service: the key whose path leads to them; else that of `/db`.
    """

    endpoints: Annotated[
        tuple[Endpoint, ...], BeforeValidator(from_json), Field(min_length=1, max_length=1000)
    ]
    weights: tuple[Annotated[float, Field(ge=0, le=MAX_WEIGHT)], ...] | None = None
    service: str | None = None

    @model_validator(mode="after")
    def _weighs_each(self) -> "Database":
        if self.weights is not None and len(self.weights) != len(self.endpoints):
            raise ValueError("there is a weight for each of the endpoints, or none at all")
        return self


class DynamoDb(Keys):
    """The database sub-interface."""

    config: Database


Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=32)]


class PumaConfig(Keys):
    """The whole configuration.

    Attributes:
        load_balancer: the policy by which requests are spread over a service's instances.
        puma_services: for each service's key, the path where it answers.
        port: of localhost, where they do.
        requires: what must be installed where they run, as pip has it.
        image: by name, whose containers they are; without, they are processes.
    """

    load_balancer: Annotated[Balancing, BeforeValidator(_policy)] | None = None
    logging: Logging | None = None
    rate_limit: GlobalRate | None = None
    dynamodb: DynamoDb | None = None
    puma_services: Annotated[
        dict[Key, RoutePath], BeforeValidator(from_json), Field(min_length=1, max_length=1000)
    ]
    http_connection_manager: ConnectionManager = ConnectionManager()
    requires: Annotated[
        tuple[str, ...], BeforeValidator(_requirements), Field(max_length=MAX_REQUIREMENTS)
    ] = ()
    image: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = None
    port: int | None = Field(None, ge=1, le=65535)
    network: Network = Network()

    @model_validator(mode="after")
    def _names_services(self) -> "PumaConfig":
        if self.rate_limit is not None and self.rate_limit.cluster_name is not None:
            self.check_key(self.rate_limit.cluster_name, "rate_limit.cluster_name")
        if self.dynamodb is not None:
            self.check_key(self.database_key or "/db", "dynamodb.config.service")
        for key in self.http_connection_manager.route_config.values():
            self.check_key(key, "route_config")
        self.paths(self.http_connection_manager.route_config)
        return self

    @property
    def database_key(self) -> str | None:
        """The key of the service that is a database; None without one."""
        if self.dynamodb is None:
            return None
        at_db = next((key for key, path in self.puma_services.items() if path == "/db"), None)
        return self.dynamodb.config.service or at_db

    @property
    def coded(self) -> tuple[str, ...]:
        """The keys of the services that are functions."""
        return tuple(key for key in self.puma_services if key != self.database_key)

    def check_key(self, key: str, where: str) -> None:
        """Return if `key` is a service's.

        Raises:
            ValueError: it is none; names near ones.
        """
        if key not in self.puma_services:
            known = list(self.puma_services)
            raise ValueError(f"{where} names {key!r}, which is no service; {near(key, known)}")

    def paths(self, routes: Mapping[str, str]) -> dict[str, str]:
        """Return the keys of services by path, with `routes` beside their own.

        Raises:
            ValueError: a path would lead to two services.
        """
        found: dict[str, str] = {}
        own = [(path, key) for key, path in self.puma_services.items()]
        for path, key in [*own, *routes.items()]:
            if found.setdefault(path.rstrip("/"), key) != key:
                raise ValueError(f"{path} leads to {found[path.rstrip('/')]} and to {key}")
        return {path or "/": key for path, key in found.items()}


def read_config(written: str | Mapping[str, Any]) -> PumaConfig:
    """Return what a JSON string or a dictionary says.

    Raises:
        ConfigInvalid: it cannot be used; says where and why.
    """
    try:
        given = json.loads(written) if isinstance(written, str) else written
    except ValueError as exc:
        raise ConfigInvalid(f"puma_config was given no JSON: {exc}") from exc
    try:
        return PumaConfig.model_validate(given)
    except ValidationError as exc:
        raise ConfigInvalid("\n".join(map(_explained, exc.errors()))) from exc


def read_routes(file: Path, config: PumaConfig) -> dict[str, str]:
    """Return the keys of services by path that a file of routes has.

    Raises:
        ConfigInvalid: it cannot be used; says why.
    """
    try:
        with file.open("rb") as opened:
            routes = ROUTES.validate_python(json.loads(opened.read(MAX_ROUTES_BYTES)))
        for key in routes.values():
            config.check_key(key, "it")
        config.paths(config.http_connection_manager.route_config | routes)
    except ValidationError as exc:
        raise ConfigInvalid(f"rds, {file}: {exc.errors()[0]['msg']}") from exc
    except (OSError, ValueError, RecursionError) as exc:
        raise ConfigInvalid(f"rds, {file}: {exc}") from exc
    return routes


def _explained(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"] if not str(part).startswith("function-"))
    message = error["msg"].removeprefix("Value error, ")
    return f"puma_config, {where}: {message}" if where else f"puma_config: {message}"
