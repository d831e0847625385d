"""What a router can be told to do, and what it says of itself."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.netlab.link import PERFECT, Link
from bench.netlab.loop import Router
from bench.netlab.switch import COUNTERS, Path, Switch


class Orders:
    """What a router can be told to do; each method is a request of `messages.py`."""

    def __init__(self, router: Router, switch: Switch) -> None:
        self._router = router
        self._switch = switch

    def ports(self, names: Sequence[str], addresses: Sequence[Sequence[str]]) -> None:
        """Add ports, so that links can be set before there are hosts."""
        for name, own in zip(names, addresses, strict=True):
            self._switch.add(name, own)

    def plug(self, name: str, addresses: Sequence[str], fds: Sequence[int] = ()) -> None:
        """Plug a host in: the descriptors are its TUN device and its lifelines."""
        tun, *lifelines = fds
        self._router.plug(name, addresses, tun, lifelines)

    def unplug(self, name: str) -> None:
        """Unplug a host, which ends it."""
        self._router.unplug(name)

    def set(self, paths: Sequence[tuple[str, str, dict[str, Any]]]) -> None:
        """Change fields of the links from a port to a port; all or, if one is wrong, none."""
        changed = [
            (a, b, replace(self._switch.ports[a].paths[b].shaper.link, **fields))
            for a, b, fields in paths
        ]
        for source, target, link in changed:
            self._switch.set(source, target, link)

    def cut(self, paths: Sequence[tuple[str, str]], *, cut: bool) -> None:
        """Cut paths, or mend them."""
        for source, target in paths:
            self._switch.cut_path(source, target, cut=cut)

    def cut_ports(self, names: Sequence[str], *, cut: bool) -> None:
        """Cut the cables of hosts, or mend them."""
        for name in names:
            self._switch.cut_port(name, cut=cut)

    def path(self, source: str, target: str) -> dict[str, Any]:
        """Return the link from a port to a port and what became of the packets on it."""
        return _described(source, self._switch.ports[source].paths[target])

    def status(self) -> dict[str, Any]:
        """Return every port and path."""
        return {
            "under_way": self._switch.under_way(),
            "cpu_s": time.process_time(),
            "latest_s": self._router.latest_s,
            "ports": {
                port.name: {"plugged": port.plugged, "cut": port.cut, "unroutable": port.unroutable}
                for port in self._switch.ports.values()
            },
            "paths": [
                _described(port.name, path)
                for port in self._switch.ports.values()
                for path in port.paths.values()
            ],
        }

    def stop(self) -> None:
        """End the router and with it every host."""
        self._router.stopped = True


ORDERS = {name: order for name, order in vars(Orders).items() if not name.startswith("_")}


def _described(source: str, path: Path) -> dict[str, Any]:
    """Return what there is to say of a path; of its link, what is not the default."""
    link = {name: getattr(path.shaper.link, name) for name in Link.__slots__}
    return {
        "from": source,
        "to": path.target.name,
        "link": {name: value for name, value in link.items() if value != getattr(PERFECT, name)},
        "cut": path.shaper.cut,
        "counters": {name: getattr(path, name) for name in COUNTERS},
    }
