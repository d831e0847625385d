"""The engine's networks that instances are in: their options, and the machine's addresses on them.

Both keep containers apart from each other and let the machine reach them. `myxo1` is `internal`:
the engine gives it no way out of the machine.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import docker
from docker.errors import APIError, NotFound

from overlay.spec import Network

BRIDGE = "myxo0"
"""The name of the engine's network and of its bridge on the machine."""

BRIDGES: Mapping[Network, str] = {"outside": BRIDGE, "none": "myxo1"}
"""By what a spec's `network` says."""

_FORBIDDEN, _CONFLICT = 403, 409


def ensure_networks(client: docker.APIClient) -> dict[Network, str]:
    """Create the networks that are not there; return the machine's address on each.

    Two allocators may do this at once: the engine lets one win, because of the bridge's name.
    """
    return {network: _ensure(client, network) for network in BRIDGES}


def bridge_options(name: str) -> dict[str, str]:
    """Return the driver's options of the network and bridge `name`."""
    return {
        "com.docker.network.bridge.name": name,
        "com.docker.network.bridge.enable_icc": "false",
    }


def address_of(container: Mapping[str, Any]) -> str:
    """Return the container's address on the bridge that it is on; empty if it has none."""
    networks = container.get("NetworkSettings", {}).get("Networks") or {}
    found = ((networks.get(name) or {}).get("IPAddress") for name in BRIDGES.values())
    return next((str(address) for address in found if address), "")


def _ensure(client: docker.APIClient, network: Network) -> str:
    name = BRIDGES[network]
    try:
        return _gateway(client.inspect_network(name))
    except NotFound:
        pass
    try:
        client.create_network(
            name,
            driver="bridge",
            options=bridge_options(name),
            labels={"myxo.bridge": "1"},
            check_duplicate=True,
            internal=network == "none",
        )
    except APIError as exc:
        if exc.status_code not in {_FORBIDDEN, _CONFLICT}:
            raise
    return _gateway(client.inspect_network(name))


def _gateway(network: Mapping[str, Any]) -> str:
    configs: Sequence[Mapping[str, Any]] = network["IPAM"].get("Config") or ({},)
    return str(configs[0].get("Gateway", "")).split("/")[0]
