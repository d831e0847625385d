"""Lets libp2p's modules be imported without the rest of libp2p.

libp2p's packages import everything that they offer: WebSocket, Kademlia, certificate authorities, a
DNS resolver, which raises where `/etc/resolv.conf` names no server. Myxo needs Noise, Yamux and the
messages. The rest would take each process 0.6 s and 27 MB.

So these packages are there without their own code having run. It runs when someone asks for a name
that it defines, as `from libp2p import new_host` does; libp2p then is as anyone knows it.
"""

import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

PACKAGES = (
    "libp2p",
    "libp2p.network",
    "libp2p.relay",
    "libp2p.relay.circuit_v2",
    "libp2p.security",
    "libp2p.transport",
    "libp2p.transport.quic",
)
"""Those whose own code imports much that Myxo does not use; a parent is before its children."""


def postpone() -> None:
    """Put those packages of libp2p in place that nobody has imported yet, if it is installed.

    Services in Python use definitions and names alone, and run from images without it.
    """
    if "libp2p" not in sys.modules and find_spec("libp2p") is None:
        return
    for name in PACKAGES:
        if name not in sys.modules:
            module = sys.modules[name] = _postponed(name)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)


def _postponed(name: str) -> ModuleType:
    """Return a package whose code runs as soon as a name is missing in it (PEP 562)."""
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module, loader = module_from_spec(spec), spec.loader

    def run_first(missing: str) -> Any:
        del module.__dict__["__getattr__"]
        loader.exec_module(module)
        return getattr(module, missing)

    module.__dict__["__getattr__"] = run_first
    return module
