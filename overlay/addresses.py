"""The multiaddrs that Myxo uses: a host, a TCP port, and perhaps the peer that answers there.

    /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…    /ip6/::1/tcp/4001    /dns4/boot.example/tcp/4001

A peer that cannot be dialled is reached through a circuit of one that can, its relay:

    /ip4/192.0.2.7/tcp/4001/p2p/RELAY/p2p-circuit/p2p/PEER

Everything else that a multiaddr can say (QUIC, WebSocket, a circuit over a circuit) is refused by
name.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import ifaddr

from overlay.errors import MyxoError, SignatureInvalid
from overlay.identity import public_key_of
from overlay.names import PeerId

MAX_PORT = 65535

_IP_VERSIONS = {"ip4": 4, "ip6": 6}
_FAMILIES = {
    "ip4": socket.AF_INET,
    "ip6": socket.AF_INET6,
    "dns": socket.AF_UNSPEC,
    "dns4": socket.AF_INET,
    "dns6": socket.AF_INET6,
}
_CIRCUIT = "p2p-circuit"
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")

_VIRTUAL_INTERFACE = re.compile(r"docker|br-|veth|virbr|cni|podman")
"""Bridges of container engines: their addresses are the same on every machine."""


class InvalidAddress(MyxoError):
    """The text is not an address that Myxo can dial or listen on."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(
            f"{text[:120]!r} is not an address: {why}; write /ip4/192.0.2.7/tcp/4001 or "
            "/dns4/host.example/tcp/4001, with /p2p/PEER at the end to say who must answer"
        )


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address, and who is expected there.

    Attributes:
        kind: `ip4`, `ip6`, `dns`, `dns4` or `dns6`.
        host: an IP address or a host name.
        port: 0 to 65535; 0 only to listen on any free port.
        peer: the peer that must answer, if the address says so.
        relay: the peer that answers at `host` and `port` itself, if `peer` is behind a circuit.
    """

    kind: str
    host: str
    port: int
    peer: PeerId | None = None
    relay: PeerId | None = None

    @property
    def relay_address(self) -> "Address":
        """Where the relay of a circuit is dialled."""
        return Address(self.kind, self.host, self.port, self.relay)

    @property
    def family(self) -> socket.AddressFamily:
        """The address family to resolve `host` in."""
        return _FAMILIES[self.kind]

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for every address of the machine."""
        return self.kind in _IP_VERSIONS and ipaddress.ip_address(self.host).is_unspecified

    def __str__(self) -> str:
        """Return the multiaddr."""
        relay = f"/p2p/{self.relay}/{_CIRCUIT}" if self.relay else ""
        peer = f"/p2p/{self.peer}" if self.peer else ""
        return f"/{self.kind}/{self.host}/tcp/{self.port}{relay}{peer}"


def parse_address(text: str) -> Address:
    """Return the address that a multiaddr says.

    Raises:
        InvalidAddress: saying what is wrong with it.
    """
    empty, *parts = text.strip().removesuffix("/").split("/")
    relayed = parts[6:7] == [_CIRCUIT]
    if empty or len(parts) not in ({7, 9} if relayed else {4, 6}):
        raise InvalidAddress(text, "it has not the parts of one")
    kind, host, transport, port = parts[:4]
    if kind not in _FAMILIES:
        raise InvalidAddress(text, f"it begins with {kind!r}, not ip4, ip6, dns, dns4 or dns6")
    if transport != "tcp":
        raise InvalidAddress(text, f"its transport is {transport!r}, and only tcp is spoken")
    if not (port.isascii() and port.isdecimal() and int(port) <= MAX_PORT):
        raise InvalidAddress(text, f"{port!r} is not a port")
    return Address(
        kind,
        _host(text, kind, host),
        int(port),
        peer=_peer(text, parts[7:] if relayed else parts[4:]),
        relay=_peer(text, parts[4:6]) if relayed else None,
    )


def parse_addresses(texts: Iterable[str]) -> list[Address]:
    """Return the addresses among `texts`, in order; what is none is left out."""
    found: list[Address] = []
    for text in texts:
        with suppress(InvalidAddress):
            found.append(parse_address(text))
    return found


def is_circuit(text: str) -> bool:
    """Whether a multiaddr leads through a relay."""
    return f"/{_CIRCUIT}" in text


def expand_wildcard(address: Address) -> list[Address]:
    """Return `address`, or for a wildcard one for each address of this machine's interfaces.

    The most useful come first: the network's, then container bridges', then loopback.
    """
    if not address.is_wildcard:
        return [address]
    version = _IP_VERSIONS[address.kind]
    hosts = [
        (ip.ip if isinstance(ip.ip, str) else ip.ip[0], adapter.nice_name)
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
        if ip.is_IPv4 == (version == _IP_VERSIONS["ip4"])
    ]
    return [replace(address, host=host) for host in _by_use(hosts)]


def _by_use(hosts: Iterable[tuple[str, str]]) -> list[str]:
    def rank(entry: tuple[str, str]) -> int:
        host, interface = entry
        if ipaddress.ip_address(host).is_loopback:
            return 2
        return 1 if _VIRTUAL_INTERFACE.match(interface) else 0

    dialable = [entry for entry in hosts if not _needs_scope(entry[0])]
    return list(dict.fromkeys(host for host, _ in sorted(dialable, key=rank)))


def _needs_scope(host: str) -> bool:
    ip = ipaddress.ip_address(host)
    return ip.version == _IP_VERSIONS["ip6"] and ip.is_link_local


def _host(text: str, kind: str, host: str) -> str:
    if kind not in _IP_VERSIONS:
        if not _HOST_NAME.fullmatch(host):
            raise InvalidAddress(text, f"{host!r} is not a host name")
        return host
    try:
        ip = ipaddress.ip_address(host)
    except ValueError as exc:
        raise InvalidAddress(text, f"{host!r} is not an IP address") from exc
    if ip.version != _IP_VERSIONS[kind]:
        raise InvalidAddress(text, f"{host!r} does not belong to {kind}")
    return str(ip)


def _peer(text: str, parts: list[str]) -> PeerId | None:
    if not parts:
        return None
    if parts[0] not in {"p2p", "ipfs"}:
        raise InvalidAddress(text, f"{parts[0]!r} is not understood")
    try:
        public_key_of(PeerId(parts[1]))
    except SignatureInvalid as exc:
        raise InvalidAddress(text, f"{parts[1][:80]!r} is not a peer id") from exc
    return PeerId(parts[1])
