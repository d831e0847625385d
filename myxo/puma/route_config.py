"""Routes beside those of `puma_services`, as Envoy's route configuration writes them.

    {"virtual_hosts": [{"domains": ["*"], "routes": [
        {"match": {"prefix": "/new"}, "route": {"cluster": "service1"}}]}]}

or, for short, `{"/new": "service1"}`. A cluster is a key of `puma_services`. Other members of
Envoy's are not known here, so that none is left out in silence.

Pure: what was written in, services by path out.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter

from myxo.puma.keys import Keys, from_json
from proxy.route.paths import checked

Path = Annotated[str, AfterValidator(checked)]


class Match(Keys):
    """Takes a path and what is below it."""

    prefix: Path


class Action(Keys):
    """Where requests go."""

    cluster: str


class Route(Keys):
    """Requests that match go where the route says."""

    match: Match
    route: Action


class VirtualHost(Keys):
    """Routes of all hosts."""

    name: str = ""
    domains: tuple[Literal["*"], ...] = ("*",)
    routes: tuple[Route, ...]


class RouteConfig(Keys):
    """Envoy's form."""

    name: str = ""
    virtual_hosts: tuple[VirtualHost, ...]


def _short(written: Any) -> Any:
    """Return Envoy's form in the short one."""
    given = from_json(written)
    if not isinstance(given, Mapping) or all(str(key).startswith("/") for key in given):
        return given
    hosts = RouteConfig.model_validate(given).virtual_hosts
    return {each.match.prefix: each.route.cluster for host in hosts for each in host.routes}


Routes = Annotated[dict[Path, str], BeforeValidator(_short), Field(max_length=1000)]
"""Keys of services by path."""

ROUTES: TypeAdapter[dict[str, str]] = TypeAdapter(Routes)
"""Reads routes that stand alone, in a file."""
