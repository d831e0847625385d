"""Lets libp2p be imported on a machine without a name server.

libp2p makes a DNS resolver when it is imported, which raises where `/etc/resolv.conf` names no
server: on a network of one's own without any, or before DHCP has answered. Myxo dials addresses
only and never asks a name server, so the resolver may as well know none.

This must be done before libp2p is imported, hence by the package itself, and without an import of
its own in the ordinary case: that of dnspython takes longer than some commands.
"""

from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")


def bear_their_absence(resolv_conf: Path = RESOLV_CONF) -> None:
    """Let DNS resolvers be made, but find nothing, if `resolv_conf` names no server."""
    if _names_a_server(resolv_conf):
        return
    from dns.resolver import BaseResolver  # noqa: PLC0415  (see above)

    def read_nothing(_self: BaseResolver, _file: object) -> None:
        return

    setattr(BaseResolver, "read_resolv_conf", read_nothing)  # noqa: B010  (mypy forbids the plain way)


def _names_a_server(resolv_conf: Path) -> bool:
    """Return whether dnspython finds one: a line of `nameserver` and a word."""
    try:
        lines = resolv_conf.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(words[0] == "nameserver" for line in lines if len(words := line.split()) > 1)
