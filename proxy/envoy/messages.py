"""Envoy's configuration messages, as the JSON that its files hold."""

from collections.abc import Iterable, Mapping
from typing import Any

Message = dict[str, Any]

_TYPES = "type.googleapis.com/envoy."

UNBOUNDED = 1_000_000
"""In the place of Envoy's circuit breakers of 1,024: who is full is the proxy's to decide."""


def extension(name: str, kind: str, **fields: Any) -> Message:
    """Return an extension's configuration; `kind` is its type below `envoy.extensions`."""
    return {"name": name, "typed_config": {"@type": f"{_TYPES}extensions.{kind}", **fields}}


def resources(kind: str, version: int, found: Iterable[Message]) -> Message:
    """Return what a watched file holds: resources of a type below `envoy`."""
    typed = [{"@type": f"{_TYPES}{kind}", **one} for one in found]
    return {"version_info": str(version), "resources": typed}


def in_file(path: str) -> Message:
    """Return where resources come from: a file that is read again when another takes its place."""
    return {"path_config_source": {"path": path}}


def socket_address(host: str, port: int) -> Message:
    """Return a TCP address."""
    return {"socket_address": {"address": host, "port_value": port}}


def header(name: str, value: str, action: str = "OVERWRITE_IF_EXISTS_OR_ADD") -> Message:
    """Return a field to add; one with an empty value is not."""
    return {"header": {"key": name, "value": value}, "append_action": action}


def matching(pattern: str) -> Message:
    """Return what matches a whole string by RE2."""
    return {"safe_regex": {"regex": pattern}}


def http_options(options: Mapping[str, Any]) -> Message:
    """Return how a cluster speaks HTTP."""
    kind = "upstreams.http.v3.HttpProtocolOptions"
    typed = extension("", kind, **options)["typed_config"]
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed}
