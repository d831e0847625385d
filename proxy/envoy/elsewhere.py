"""Instances of other machines, as far as Envoy may send requests to them.

Envoy goes to a machine's gateway by TLS 1.3, shows the proxy's certificate and compares the key
that the gateway shows with the one in its signed record, as the proxy does. Which instance there
gets a request is for the gateway to say: it alone knows what each has under way. One that has no
room refuses, after which the proxy looks for another.

Pure.
"""

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Final

from overlay.addresses import is_hidden
from overlay.errors import SettingsInvalid
from overlay.names import PeerId
from overlay.records import PeerRecord
from overlay.revision import SignedRevision
from overlay.settings import split_address
from overlay.spec import ServiceSpec
from overlay.view import InstanceView
from proxy.envoy.mapping import Machine, nearness, obstacle_elsewhere, weight_of
from proxy.envoy.served import Away
from proxy.ranking.selection import Upstream

MAX_MACHINES: Final = 64
"""For each of which a service's cluster has a context of TLS."""


def by_owner(upstreams: Sequence[Upstream]) -> dict[PeerId, list[Upstream]]:
    """Return instances of other machines, by whose they are."""
    found: dict[PeerId, list[Upstream]] = {}
    for upstream in upstreams:
        if not upstream.instance.local:
            found.setdefault(upstream.instance.owner, []).append(upstream)
    return found


def gateway_of(record: PeerRecord | None) -> tuple[tuple[str, int], ...]:
    """Return where Envoy finds a machine's gateway; nothing where that is not for Envoy."""
    if record is None or not (record.ungreeted and record.certificate):
        return ()
    if is_hidden(record.addresses):  # the overlay carries it
        return ()
    return tuple(found for text in record.gateway if (found := _address(text)) is not None)


def obstacle_of(
    spec: ServiceSpec,
    owners: Sequence[PeerId],
    gateway: Callable[[PeerId], tuple[tuple[str, int], ...]],
    host: Callable[[PeerId], str],
) -> str:
    """Return why Envoy cannot go to all of these machines for a service; empty if it can."""
    if len(owners) > MAX_MACHINES:
        return f"it has instances on more than {MAX_MACHINES} other machines"
    found = obstacle_elsewhere(spec) if owners else ""
    shut = next((host(owner) for owner in owners if not gateway(owner)), None)
    return found or ("" if shut is None else f"Envoy cannot go to the gateway of {shut}")


def away(
    revision: SignedRevision,
    spec: ServiceSpec,
    gateway: tuple[tuple[str, int], ...],
    upstreams: Sequence[Upstream],
    in_flight: Callable[[InstanceView], int],
) -> Away:
    """Return a machine whose gateway is at `gateway`, for those instances that it has."""
    (owner,) = {upstream.instance.owner for upstream in upstreams}
    weight = sum((weight_of(spec, u.weight) or 1) * nearness(spec, u.distance_s) for u in upstreams)
    any_of = f"{revision.revision.name}/{revision.revision.generation}"
    return Away(
        Machine(owner, gateway, any_of, weight),
        frozenset(upstream.instance.key for upstream in upstreams),
        sum(in_flight(upstream.instance) for upstream in upstreams),
    )


def _address(text: str) -> tuple[str, int] | None:
    """Return host and port, where the host is an address: Envoy looks no name up here."""
    try:
        host, port = split_address(text, "")
        return str(ip_address(host)), port
    except (SettingsInvalid, ValueError):
        return None
